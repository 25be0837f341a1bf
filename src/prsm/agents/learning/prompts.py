"""Prompts are read here: one embedding and one item per prompt, in a thread, however many ask for them at once.

What was read lately is kept by a digest of the text; no text is kept.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from prsm.agents.routers import difficulty
from prsm.agents.routers.difficulty import Manifest, Reader
from prsm.agents.routers.quality import Item
from prsm.core.errors import ConfigError

READ_CHARS: Final = 8_192
"""Characters read of one prompt: more than the tokens that the encoder takes, and the features that are counted."""
KEPT: Final = 4_096
"""Prompts whose reading is kept, some 7 MB."""
Vector = npt.NDArray[np.float32]


class Encoder(Protocol):
    """The part of ``core/encoder.py: TextEncoder`` that is used."""

    sha256: str

    def encode(self, texts: Sequence[str]) -> Vector:
        """One unit vector per text."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """What one prompt is: its unit embedding, and the item that the law of quality takes."""

    vector: Vector
    item: Item


class PromptReader:
    """Reads prompts for the router and whoever else needs their embedding."""

    def __init__(
        self,
        encoder: Encoder,
        reader: Reader,
        manifest: Manifest,
        *,
        router_encoder: Encoder | None = None,
        threads: int = 1,
        kept: int = KEPT,
    ) -> None:
        """``router_encoder``, if any, gives the same vectors and more that who routes has use for.

        Raises ConfigError when ``reader`` was learnt on embeddings of another encoder."""
        if encoder.sha256 != manifest.encoder_sha256:
            raise ConfigError(
                f"The difficulty estimate was learnt on the encoder {manifest.encoder_sha256[:12]}, this node has "
                f"{encoder.sha256[:12]}.",
                remedy="Reinstall prsm, or make the estimate again: python -m prsm.agents.routers.difficulty_recipe.",
            )
        self.reader = reader
        self.version = manifest.sha256
        """SHA-256 of the difficulty estimate: items of different ones are not on one scale."""
        self._encoder = encoder
        self._router_encoder = router_encoder or encoder
        self._threads = ThreadPoolExecutor(threads, "prompt-reader")
        self._kept: OrderedDict[bytes, Reading] = OrderedDict()
        self._limit = kept
        self._under_way: dict[bytes, asyncio.Task[Reading]] = {}

    async def read(self, text: str) -> Reading:
        """What ``text`` is; some milliseconds of a processor the first time."""
        return await self._once(text, self._encoder)

    def known(self, text: str) -> Reading | None:
        """What ``text`` is, where it was read lately."""
        return self._kept.get(_digest(text))

    async def item(self, text: str) -> Item:
        """The item alone, for who routes."""
        return (await self._once(text, self._router_encoder)).item

    def close(self) -> None:
        """Begin no more; what is being read is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _once(self, text: str, encoder: Encoder) -> Reading:
        digest = _digest(text)
        found = self._kept.get(digest)
        if found is not None:
            self._kept.move_to_end(digest)
            return found
        task = self._under_way.get(digest)
        if task is None:
            task = asyncio.create_task(self._read(digest, text[:READ_CHARS], encoder))
            self._under_way[digest] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard even if all have left
        return await asyncio.shield(task)

    async def _read(self, digest: bytes, text: str, encoder: Encoder) -> Reading:
        try:
            reading = await asyncio.get_running_loop().run_in_executor(self._threads, self._work, text, encoder)
        finally:
            del self._under_way[digest]
        self._kept[digest] = reading
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return reading

    def _work(self, text: str, encoder: Encoder) -> Reading:
        vector = encoder.encode([text])[0]
        return Reading(vector, difficulty.read(self.reader, text, vector))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text[:READ_CHARS].encode("utf-8", "surrogatepass"), digest_size=16).digest()
