"""Going on with an answer that a model broke off: another instance of the same model version is given what was said.

Only plain text is gone on with, and only at an instance whose operator declares the capability ``prefill``: that a
trailing assistant message is continued there, not answered. Everything here is a pure rule; ``answer.py`` does it.

Kinds of upstream that can: vLLM (``continue_final_message``), Anthropic up to its 4.5 models (later ones refuse such a
message), OpenRouter and Ollama (for models whose templates do it), another PRSM node (as its own instance can). OpenAI
begins a new message, and Hugging Face's router leaves it to whichever provider it picks: they are never asked.
"""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from prsm.agents.call import NOT_READ, ChatCall, Choice, Delta, Json, Target, Usage
from prsm.agents.plan import Ask, Plan, estimated_usage
from prsm.agents.routers.model_router import Candidate
from prsm.agents.routers.roster import served_model
from prsm.agents.seams import UpstreamError
from prsm.tokenomics.quotes import estimate_tokens
from prsm.tokenomics.receipts import Segment

PREFILL = "prefill"
"""The capability of an instance that continues a trailing assistant message."""

_KIND_OPTIONS: dict[str, Json] = {
    "vllm": {"continue_final_message": True, "add_generation_prompt": False},
    "anthropic": {},
    "openrouter": {},
    "ollama": {},
    "prsm": {},
}
"""How each kind that can is told to go on."""
_DEFAULTS: dict[str, Any] = {
    "response_format": {"type": "text"},
    "n": 1,
    "logprobs": False,
    "tool_choice": "none",
    "modalities": ["text"],
    "reasoning_effort": "none",
}
"""Values that say no more than leaving the option out would."""
_HARMLESS = NOT_READ | {
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
}  # fmt: skip
"""Options under which the second half of an answer is what it would have been. Not ``stop``: it may span the seam."""


def same_model(one: Target, other: Target) -> bool:
    """Whether both are instances of one registered model, or, where none is named, bear one upstream name."""
    return served_model(one) == served_model(other)


def same_model_first(failed: Target, untried: Sequence[Candidate]) -> list[Candidate]:
    """Who is tried after ``failed``: other instances of its model before other models, each in the order they had."""
    return sorted(untried, key=lambda candidate: not same_model(failed, candidate.target))


def heirs(plan: Plan, broken: Sequence[Target]) -> list[Candidate]:
    """The candidates that can go on where the last of ``broken`` broke off; none that has broken off itself."""
    last, names = broken[-1], {target.name for target in broken}
    return [
        candidate
        for candidate in plan.candidates
        if (other := candidate.target).name not in names
        and same_model(last, other)
        and other.version == last.version
        and PREFILL in other.capabilities
        and other.kind in _KIND_OPTIONS
    ]


def may_be_resumed(ask: Ask, said: Sequence[Choice]) -> bool:
    """Whether ``said`` can be gone on with: one choice, of plain text that has a visible character."""
    call = ask.call
    if not isinstance(call, ChatCall) or ask.choices != 1 or len(said) != 1:
        return False
    if call.messages[-1].get("role") == "assistant":
        return False  # the caller's own beginning of an answer: there can be only one
    options = {name for name, value in call.options.items() if value is not None and value != _DEFAULTS.get(name)}
    one = said[0]
    plain = not (one.tool_calls or one.reasoning or one.refusal or one.logprobs)
    return plain and options <= _HARMLESS and bool((one.content or "").strip())


def is_of_use_in_part(ask: Ask, said: Sequence[Choice]) -> bool:
    """Whether half an answer is worth anything: of a tool call or a structured answer, only the whole is."""
    call = ask.call
    if not isinstance(call, ChatCall) or any(choice.tool_calls for choice in said):
        return False
    structured = call.options.get("response_format") not in (None, _DEFAULTS["response_format"])
    return not structured and any(choice.content or choice.reasoning or choice.refusal for choice in said)


def continued(call: ChatCall, target: Target, said: str, spent_tokens: int) -> ChatCall | None:
    """The call that goes on with ``said`` at ``target``; None where the limit of its tokens has been reached.

    White space at the end is not sent: Anthropic refuses it, and chat templates strip it. ``Seam`` sees to it.
    """
    limit = call.max_output_tokens
    if limit is not None:
        limit -= spent_tokens
        if limit < 1:
            return None
    message: Json = {"role": "assistant", "content": said.rstrip()}
    return replace(
        call,
        messages=[*call.messages, message],
        max_output_tokens=limit,
        options={**call.options, **_KIND_OPTIONS[target.kind]},
    )


class Seam:
    """Joins the second half of an answer to the first, so that no text is lost or said twice.

    White space that the first half ended with was shown, but not sent to who goes on: where the second half begins
    with it, that much is left out. Raises UpstreamError where something else than text comes.
    """

    __slots__ = ("_shown",)

    def __init__(self, said: str) -> None:
        self._shown = said[len(said.rstrip()) :]

    def join(self, deltas: Sequence[Delta]) -> list[Delta]:
        """The deltas as they are to be shown."""
        for delta in deltas:
            if delta.tool_calls or delta.reasoning or delta.refusal or delta.index:
                raise UpstreamError(
                    "The model that went on with a broken answer sent something else than its text.",
                    retryable=False,
                    code="upstream_bad_answer",
                )
        return [self._joined(delta) for delta in deltas] if self._shown else list(deltas)

    def _joined(self, delta: Delta) -> Delta:
        text = delta.content
        if not text or not self._shown:
            return delta
        kept = 0
        while kept < min(len(text), len(self._shown)) and text[kept] == self._shown[kept]:
            kept += 1
        # Only what it says first can repeat what was shown; a difference ends that.
        self._shown = self._shown[kept:] if kept == len(text) else ""
        return replace(delta, content=text[kept:] or None, pieces=None)


class Chain:
    """The instances that make one answer in turn, who is at it now last, and what had been said before that one."""

    __slots__ = ("_tokens", "said", "seam", "targets")

    def __init__(self, first: Target) -> None:
        self.targets = [first]
        self.said = ""
        self.seam = Seam("")
        self._tokens: list[int] = []

    def pass_on(self, said: str, heir: Target) -> None:
        """``heir`` goes on with ``said``, all of the answer so far."""
        self._tokens.append(said_tokens(said) - said_tokens(self.said))
        self.targets.append(heir)
        self.said = said
        self.seam = Seam(said)

    def segments(self, output_tokens: int) -> tuple[Segment, ...]:
        """Who said how much of ``output_tokens``: each the estimate of its text, and the last one the rest."""
        left = output_tokens
        parts: list[Segment] = []
        for target, estimate in zip(self.targets, [*self._tokens, output_tokens], strict=True):
            parts.append(Segment(target.name, target.provider, min(estimate, left)))
            left -= parts[-1].output_tokens
        return tuple(parts)


def joined_usage(ask: Ask, said: Sequence[Choice], last: Usage | None, first_half: str) -> Usage:
    """What the caller is charged for: the input once, and all that was said.

    Who went on metered the first half as input; by its estimate it is moved to the output, so that the sum is metered.
    """
    if last is None:
        return estimated_usage(ask, said)
    moved = min(said_tokens(first_half), last.input_tokens)
    read = last.input_tokens - moved
    return Usage(read, last.output_tokens + moved, min(last.cached_input_tokens, read))


def delivered_usage(ask: Ask, said: Sequence[Choice]) -> Usage:
    """What half an answer is charged for: the tokens that were delivered, and no input."""
    return Usage(0, estimated_usage(ask, said).output_tokens)


def said_tokens(said: str) -> int:
    """Tokens of what was said, by the estimate that is used wherever nobody counted."""
    return estimate_tokens(len(said.encode("utf-8", "replace")))
