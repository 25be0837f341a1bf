"""A judge for tests: an Executor that reads what a judge is sent, as one that knows the better answer would."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Target

_PARTS = re.compile(r"<(question|answer A|answer B) (\w+)>\n(.*?)\n</\1 \2>", re.DOTALL)


@dataclass
class Reader:
    """Prefers the answer that is ``better``; with ``always`` it says that whatever it reads."""

    better: str
    always: str = ""
    calls: int = 0

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        self.calls += 1
        parts = read(call.messages[-1]["content"])
        letter = {parts["answer A"]: "A", parts["answer B"]: "B"}.get(self.better, "T")
        return Completion([Choice(content=self.always or letter)], None)

    def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        raise NotImplementedError

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        raise NotImplementedError

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


def read(text: str) -> dict[str, str]:
    """The question and the two answers that a judge is sent."""
    return {name: part for name, _, part in _PARTS.findall(text)}
