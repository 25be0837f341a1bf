"""A model that writes one known text, goes on with a beginning of it that it is sent, and breaks off where told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from prsm.agents.call import ChatCall, Delta, Target, Usage
from prsm.agents.seams import UpstreamError

INPUT_TOKENS = 10


def broken() -> UpstreamError:
    return UpstreamError("It broke off.", retryable=True, code="upstream_cut_off")


@dataclass
class Writer:
    """An Executor's stream: ``pieces`` of the text one by one, one output token each, up to ``cut`` of them.

    As providers do, it meters what it is sent as input (the beginning of the answer too, at four characters a token)
    and says nothing of usage where it breaks off.
    """

    pieces: list[str]
    cut: int | None = None
    error: BaseException = field(default_factory=broken)
    metered: bool = True
    first: UpstreamError | None = None
    asked: list[ChatCall] = field(default_factory=list[ChatCall])
    open_streams: int = 0

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        self.asked.append(call)
        await asyncio.sleep(0)
        if self.first:
            raise self.first
        self.open_streams += 1
        try:
            last, text = call.messages[-1], "".join(self.pieces)
            said = str(last["content"]) if last["role"] == "assistant" else ""
            assert text.startswith(said), (text, said)
            rest = text[len(said) :]
            count = 0
            for piece in _pieces(rest, self.pieces):
                if count == self.cut:
                    raise self.error
                count += 1
                await asyncio.sleep(0)
                yield [Delta(content=piece)]
            if self.cut is not None:
                raise self.error
            usage = Usage(INPUT_TOKENS + -(-len(said) // 4), count) if self.metered else None
            yield [Delta(finish_reason="stop", usage=usage)]
        finally:
            self.open_streams -= 1

    async def aclose(self) -> None:
        """Nothing was opened."""


def _pieces(rest: str, pieces: list[str]) -> list[str]:
    """``rest`` in the pieces of the whole text; the first may be the end of one."""
    found: list[str] = []
    for piece in reversed(pieces):
        if not rest:
            break
        part = rest[-len(piece) :]
        found.insert(0, part)
        rest = rest[: -len(part)]
    return found
