"""From a request to its plan: what it needs, the models that may answer it, and the most it can cost. Pure."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from msgspec import Meta, Struct
from msgspec.structs import replace

from prsm.agents.call import ChatCall, Choice, Completion, EmbedCall, Json, Target, Usage
from prsm.agents.routers.policy import Policy
from prsm.agents.routers.question import Candidate, Question
from prsm.agents.texts import last_user_text
from prsm.core.errors import Kind, PrsmError
from prsm.safety.policy import Verdict
from prsm.tokenomics.market.quoting import BoundQuote
from prsm.tokenomics.orders import Statement
from prsm.tokenomics.quotes import BYTES_PER_TOKEN, IMAGE_TOKENS, Price, Quote, estimate_tokens, quote

_EXPECTED_ANSWER_TOKENS = 256
"""What an answer is expected to have when candidates are compared by price."""
_FEWEST_BYTES_PER_TOKEN, _MOST_BYTES_PER_TOKEN = 2, 8
"""Between these lie texts of all languages and code: dense scripts and numbers near the one, long words the other."""
_EMBEDDINGS = frozenset({"embeddings"})


class Caller(Struct, frozen=True, gc=False):
    """Who pays: the API key's id and the account its owner's money is on."""

    api_key_id: UUID
    account: str


class CacheWish(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a request may be given an answer that its caller was given before: to exactly it, or to one like it.

    ``similarity`` is the least cosine between two questions of which one may have the other's answer.
    """

    mode: Literal["off", "exact", "semantic"]
    similarity: Annotated[float, Meta(ge=0.9, le=1)] = 0.97


class Ask(Struct, frozen=True):
    """One request on the path. ``request_digest`` is SHA-256 hex of the body as it came, of ``body_bytes`` bytes.

    ``history_bytes`` counts messages that were added from a stored conversation; ``cap_micro`` is the caller's spend
    cap for this request. ``keep`` makes, of the response's (last) bytes, what is stored for its Idempotency-Key;
    ``remember`` the statement that adds a whole answer to its conversation. Both are committed with the capture.
    ``bound`` is the quote whose prices apply, and ``claim`` takes it for this request, once its hold stands.
    ``policy`` is what the caller asks of whoever answers, ``session_id`` the conversation that this continues,
    ``cache`` what it says of the response cache.
    """

    caller: Caller
    call: ChatCall | EmbedCall
    request_digest: str
    body_bytes: int
    history_bytes: int = 0
    cap_micro: int | None = None
    choices: int = 1
    keep: Callable[[bytes], bytes] | None = None
    remember: Callable[[Completion], Statement] | None = None
    bound: BoundQuote | None = None
    claim: Callable[[], Awaitable[None]] | None = None
    policy: Policy | None = None
    session_id: UUID | None = None
    cache: CacheWish | None = None

    @property
    def input_bytes(self) -> int:
        """All bytes that a model gets to read."""
        return self.body_bytes + self.history_bytes


@dataclass(frozen=True, slots=True)
class PathLimits:
    """Bounds of one request: its answer's tokens where nobody says, its answer's bytes, and its time."""

    default_output_tokens: int = 4096
    answer_bytes: int = 4 * 1024 * 1024
    request_timeout_s: float = 600


class Plan(Struct, frozen=True):
    """A request, the models it may try with the quote for each, and the hold that covers the dearest of them.

    ``read`` is what the screening of what came in has found; None where nothing is screened.
    """

    ask: Ask
    candidates: list[Candidate]
    quotes: dict[str, Quote]
    held_micro: int
    read: Verdict | None = None

    def fitted(self, target: Target) -> ChatCall:
        """The chat call with the token limit that ``target`` was quoted for."""
        call = cast("ChatCall", self.ask.call)
        return replace(call, max_output_tokens=self.quotes[target.name].output_tokens)


def question_of(ask: Ask) -> Question:
    """What the choice of a model depends on."""
    call = ask.call
    input_tokens = estimate_tokens(ask.input_bytes)
    if isinstance(call, EmbedCall):
        longest = max((len(text.encode("utf-8", "replace")) for text in call.texts), default=0)
        sides = input_tokens, 0, *_token_bounds(longest)
        return Question(_EMBEDDINGS, "", *sides, ask.policy, ask.cap_micro, ask.input_bytes)
    needs = {"chat"}
    if call.options.get("tools"):
        needs.add("tools")
    attachments = _attachments(call)
    images = len(_images(attachments))
    if images:
        needs.add("vision")
    expected = min(call.max_output_tokens or _EXPECTED_ANSWER_TOKENS, _EXPECTED_ANSWER_TOKENS)
    least, most = _token_bounds(max(ask.input_bytes - _size_bytes(attachments), 0))
    most += images * IMAGE_TOKENS + expected
    return Question(
        frozenset(needs),
        last_user_text(call),
        input_tokens,
        expected * ask.choices,
        least,
        most,
        ask.policy,
        ask.cap_micro,
        ask.input_bytes + images * IMAGE_TOKENS,
        ask.choices,
        ask.session_id or call.request_id,
    )


def make_plan(ask: Ask, candidates: Sequence[Candidate], limits: PathLimits) -> Plan:
    """Quote every candidate within the caller's cap. Raises PrsmError (code cost_cap_too_low) when none fits.

    The candidates keep the prices they have now, whatever is posted while the request runs.
    """
    if ask.bound is not None:
        candidates = [_at_quote(candidate, ask.bound, ask.choices) for candidate in candidates]
    quotes = {c.target.name: known for c in candidates if (known := _quote(ask, c.target, limits)) is not None}
    able = [candidate for candidate in candidates if candidate.target.name in quotes]
    if not able:
        raise _cap_too_low(ask, candidates)
    return Plan(ask, able, quotes, max(known.worst_micro for known in quotes.values()))


def output_limit(call: ChatCall, target: Target, default_output_tokens: int) -> int:
    """The most tokens that one answer of ``target`` may have: what the caller allows, within what the target can."""
    return min(call.max_output_tokens or default_output_tokens, target.max_output_tokens)


def estimated_usage(ask: Ask, choices: Sequence[Choice]) -> Usage:
    """Tokens where the upstream did not meter: four bytes each, on both sides; an image has at most its bound."""
    call = ask.call
    said = sum(
        len((choice.content or "").encode("utf-8", "replace"))
        + len((choice.reasoning or "").encode("utf-8", "replace"))
        + len((choice.refusal or "").encode("utf-8", "replace"))
        + sum(len(str(one)) for one in choice.tool_calls)
        for choice in choices
    )
    sizes = [_size_bytes([image]) for image in _images(_attachments(call))] if isinstance(call, ChatCall) else []
    beyond = sum([max(0, size - IMAGE_TOKENS * BYTES_PER_TOKEN) for size in sizes])
    return Usage(estimate_tokens(max(ask.input_bytes - beyond, 0)), estimate_tokens(said))


def _quote(ask: Ask, target: Target, limits: PathLimits) -> Quote | None:
    price = Price(target.input_price_micro, target.output_price_micro)
    call = ask.call
    if isinstance(call, EmbedCall):
        return quote(price, ask.input_bytes, 0, choices=1, cap_micro=ask.cap_micro)
    return quote(
        price,
        ask.input_bytes + len(_images(_attachments(call))) * IMAGE_TOKENS,
        output_limit(call, target, limits.default_output_tokens),
        choices=ask.choices,
        cap_micro=ask.cap_micro,
    )


def _at_quote(candidate: Candidate, bound: BoundQuote, choices: int) -> Candidate:
    """The candidate at the prices of a quote, its answers cut at the tokens that the quote honours in all."""
    target, price = candidate.target, bound.price
    most = min(target.max_output_tokens, bound.output_tokens // choices)
    at_quote = changed(
        target,
        input_price_micro=price.input_micro,
        output_price_micro=price.output_micro,
        cached_input_price_micro=price.cached_input_micro,
        max_output_tokens=most,
    )
    return changed(candidate, target=at_quote)


def _attachments(call: ChatCall) -> list[Json]:
    """The parts of all messages that are no text: images, sound, files."""
    contents: list[Any] = [message.get("content") for message in call.messages]
    parted = [cast("list[Json]", content) for content in contents if isinstance(content, list)]
    return [part for parts in parted for part in parts if part.get("type") != "text"]


def _images(attachments: list[Json]) -> list[Json]:
    return [part for part in attachments if part.get("type") == "image_url"]


def _size_bytes(attachments: list[Json]) -> int:
    """Bytes of those that stand in the message itself: base64 says nothing of their tokens."""
    bodies = [part.get(part["type"]) for part in attachments]
    inner = [cast("Json", body) for body in bodies if isinstance(body, dict)]
    return sum([len(value) for body in inner for value in body.values() if isinstance(value, str)])


def _token_bounds(size_bytes: int) -> tuple[int, int]:
    return size_bytes // _MOST_BYTES_PER_TOKEN, -(-size_bytes // _FEWEST_BYTES_PER_TOKEN)


def _cap_too_low(ask: Ask, candidates: Sequence[Candidate]) -> PrsmError:
    cheapest = min(candidate.expected_micro for candidate in candidates)
    return PrsmError(
        f"The spend cap of {ask.cap_micro} micro-FTNS does not pay for one token of any able model "
        f"(expected price: {cheapest} micro-FTNS).",
        kind=Kind.PAYMENT_REQUIRED,
        code="cost_cap_too_low",
        remedy="Raise max_cost_micro.",
        param="prsm.max_cost_micro",
    )
