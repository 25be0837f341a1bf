"""The Protocols of the answer path: what it asks of executors and of the estimate of quality."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prsm.agents.call import ChatCall, Completion, Delta, EmbedCall, Embeddings, Target
from prsm.agents.routers.quality import Item
from prsm.core.errors import Kind, PrsmError


class UpstreamError(PrsmError):
    """An upstream failed. ``retryable``: the same call may succeed there; ``upstream_status``: its HTTP status, or 0.

    ``blames_caller`` is True when the upstream refused the request itself (a 4xx that another try cannot mend).
    """

    kind = Kind.UPSTREAM
    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        retryable: bool,
        upstream_status: int = 0,
        blames_caller: bool = False,
        kind: Kind | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, kind=kind, code=code, retry_after_s=retry_after_s)
        self.retryable = retryable
        self.upstream_status = upstream_status
        self.blames_caller = blames_caller


class Executor(Protocol):
    """Speaks to one kind of upstream. Every method raises UpstreamError and bounds its own time and bytes."""

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        """The whole answer."""
        ...

    def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        """The answer as it comes: each item is all deltas that arrived together (never empty).

        The last item carries ``usage`` when the upstream metered. Closing the iterator ends the upstream call.
        """
        ...

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        """One vector per text."""
        ...

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        """The upstream's own names of the models it offers."""
        ...

    async def aclose(self) -> None:
        """Close pooled connections."""
        ...


class QualityBoard(Protocol):
    """How likely each model answers a prompt well. ``follow`` decides which models, and the order of every row."""

    def follow(self, models: Sequence[str]) -> None:
        """The models that rows stand for from now on; what was learnt of a name is kept."""
        ...

    async def item(self, text: str) -> Item:
        """The prompt as the law of ``routers/quality.py`` sees it; some milliseconds of a processor."""
        ...

    @property
    def usual(self) -> npt.NDArray[np.float64]:
        """The chance of a good answer by each followed model at any prompt, [M]; what is learnt of one moves it."""
        ...

    def chances(self, item: Item, *, explore: bool) -> npt.NDArray[np.float64]:
        """The chance of a good answer by each followed model, [M]; with ``explore`` a Thompson draw of it."""
        ...
