"""An executor whose every call is seen by the board: the one place where calls begin and end, however they end.

It stands around the executor that speaks to the upstream, so that retries, hedges and resumed streams are all seen, and
a call under way can be forgotten by nobody: an answer, an error, a cancellation and a closed stream all end it.
"""

from collections.abc import AsyncIterator

from prsm.agents.call import ChatCall, Completion, Delta, EmbedCall, Embeddings, Target
from prsm.agents.liveness.board import Liveness
from prsm.agents.seams import Executor, UpstreamError

_NOTHING: list[Delta] = []


class WatchedExecutor:
    """``inner``, watched; what it returns and raises is passed on as it is."""

    def __init__(self, inner: Executor, board: Liveness) -> None:
        self._inner = inner
        self._board = board

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        """The whole answer."""
        seen = self._board.began(target)
        try:
            completion = await self._inner.chat(target, call)
        except BaseException as error:
            seen.failed(error)
            raise
        seen.answered(completion.usage.output_tokens if completion.usage else 0)
        return completion

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        """The answer as it comes; under way from the first ``anext`` on."""
        inner = self._inner.chat_stream(target, call)
        seen = self._board.began(target, streamed=True)
        pieces, deltas = 0, _NOTHING
        try:
            async for deltas in inner:
                if not pieces:
                    seen.first_piece()
                pieces += 1
                yield deltas
        except BaseException as error:
            seen.failed(error)  # closed early, or cancelled: as ``left``
            raise
        else:
            usage = deltas[-1].usage if deltas else None
            if pieces:
                seen.answered(usage.output_tokens if usage else 0, pieces)
            else:
                seen.failed(_empty())
        finally:
            close = getattr(inner, "aclose", None)  # a generator has it, a plain iterator need not
            if close is not None:
                await close()

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        """One vector per text."""
        seen = self._board.began(target)
        try:
            embeddings = await self._inner.embed(target, call)
        except BaseException as error:
            seen.failed(error)
            raise
        seen.first_piece()
        seen.answered()
        return embeddings

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        """The upstream's own names of the models it offers."""
        return await self._inner.list_models(base_url, api_key)

    async def aclose(self) -> None:
        """Close pooled connections."""
        await self._inner.aclose()


def _empty() -> UpstreamError:
    return UpstreamError("The model's stream was empty.", retryable=True, code="empty_stream")
