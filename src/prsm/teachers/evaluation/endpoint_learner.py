"""Any model behind an OpenAI-compatible endpoint as a learner: a node of PRSM, or whoever speaks the same.

So many questions at once, each with a time-out, tried again where trying again may help; a node is paid once for them
all (Idempotency-Key). Where the endpoint itself fails the evaluation stops, to be resumed: that says nothing of the
model. A question that the endpoint refuses by itself (too long, blocked) counts as answered with nothing.
"""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import Annotated, Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import ConfigError, Unavailable
from prsm.teachers.replies import Reply

_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OF_THE_QUESTION: Final = frozenset({400, 413, 422})
_WAIT_LIMIT_S: Final = 60.0
_BODY_LIMIT_BYTES: Final = 8 * 2**20
Positive = Annotated[int, Meta(ge=1)]


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where and what is asked. ``base_url`` ends in ``/v1``; waits between tries double from ``first_wait_s``."""

    base_url: str
    model: str
    api_key: str = ""
    max_tokens: Positive = 1024
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    at_once: Annotated[int, Meta(ge=1, le=256)] = 8
    timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    tries: Annotated[int, Meta(ge=1, le=20)] = 5
    first_wait_s: Annotated[float, Meta(ge=0)] = 0.5

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigError("An endpoint is an http or https address without a user.", param="base_url")


class EndpointLearner:
    """Asks the endpoint; close it when done. Greedy answers are asked for at temperature 0."""

    def __init__(self, endpoint: Endpoint, *, sleep: Callable[[float], None] = time.sleep) -> None:
        headers = {"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        limits = httpx2.Limits(max_connections=endpoint.at_once)
        self._endpoint = endpoint
        self._sleep = sleep
        self._url = f"{endpoint.base_url.rstrip('/')}/chat/completions"
        self._client = httpx2.Client(
            headers=headers, timeout=endpoint.timeout_s, limits=limits, follow_redirects=False, trust_env=False
        )

    def __enter__(self) -> "EndpointLearner":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> list[str]:
        """One answer a prompt; '' where the endpoint refuses a question. Raises as ``replies`` does."""
        return [reply.answer for reply in self.replies(prompts, seed=seed)]

    def replies(self, prompts: Sequence[str], *, seed: int | None = None) -> list[Reply]:
        """The same with seconds and what each cost.

        Raises Unavailable when an answer could not be had by any try, ConfigError when the endpoint refuses the key,
        the model or the money; what was not begun by then is not asked any more.
        """
        stopped = Event()

        def ask(prompt: str) -> Reply | None:
            if stopped.is_set():
                return None
            try:
                return self._reply(prompt, seed)
            except BaseException:
                stopped.set()
                raise

        with ThreadPoolExecutor(self._endpoint.at_once) as threads:
            asked = [threads.submit(ask, prompt) for prompt in prompts]
            try:
                wait(asked)
            except BaseException:  # interrupted: what waits for its turn is not asked
                stopped.set()
                raise
        for failed in (future.exception() for future in asked):
            if failed is not None:
                raise failed
        return [reply for reply in (future.result() for future in asked) if reply is not None]

    def _reply(self, prompt: str, seed: int | None) -> Reply:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._endpoint.max_tokens,
            "temperature": 0 if seed is None else self._endpoint.temperature,
        }
        if seed is not None:
            body["seed"] = seed
        content = msgspec.json.encode(body)
        headers = {"content-type": "application/json", "idempotency-key": str(uuid4())}
        failure = _AgainError("")
        for number in range(self._endpoint.tries):
            if number:
                backoff_s = self._endpoint.first_wait_s * 2 ** (number - 1) * random.random()  # noqa: S311 - jitter
                self._sleep(min(max(backoff_s, failure.after_s), _WAIT_LIMIT_S))
            try:
                return self._try(content, headers)
            except _AgainError as error:
                failure = error
        raise Unavailable(f"{self._url} gave no answer in {self._endpoint.tries} tries: {failure}.") from failure

    def _try(self, content: bytes, headers: dict[str, str]) -> Reply:
        began_s = time.perf_counter()
        try:
            with self._client.stream("POST", self._url, content=content, headers=headers) as response:
                status, after = response.status_code, response.headers.get("retry-after", "")
                body = _bounded(response, began_s + self._endpoint.timeout_s)
        except httpx2.HTTPError as error:
            raise _AgainError(type(error).__name__) from error
        took_s = time.perf_counter() - began_s
        if status == 200:
            return _read(body, took_s)
        if status in _OF_THE_QUESTION:
            return Reply("", "", took_s)
        if status in _AGAIN:
            raise _AgainError(f"HTTP {status}", float(after) if after.isascii() and after.isdigit() else 0.0)
        raise ConfigError(f"{self._url} refuses with HTTP {status}.", remedy="Check address, key, model and money.")


class _AgainError(Exception):
    """A try failed in a way that another may not; ``after_s`` is what the endpoint asked for."""

    def __init__(self, words: str, after_s: float = 0.0) -> None:
        super().__init__(words)
        self.after_s = after_s


class _Message(Struct):
    content: str | None = None


class _Choice(Struct):
    message: _Message


class _Paid(Struct):
    cost_micro: int | None = None


class _Answered(Struct):
    choices: Annotated[list[_Choice], Meta(min_length=1)]
    prsm: _Paid | None = None


def _bounded(response: httpx2.Response, until_s: float) -> bytes:
    """The body; a drip of bytes that never ends is a time-out too."""
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > _BODY_LIMIT_BYTES or time.perf_counter() > until_s:
            raise _AgainError("an answer too large or too slow")
    return bytes(body)


def _read(body: bytes, took_s: float) -> Reply:
    try:
        answered = msgspec.json.decode(body, type=_Answered)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _AgainError("a body that is no chat completion") from error
    text = answered.choices[0].message.content or ""
    return Reply(text, text, took_s, answered.prsm.cost_micro if answered.prsm else None)
