"""A model behind an endpoint is evaluated over real sockets: its cost read, its failures tried again or told apart."""

import json
import threading
from collections.abc import Iterator

import pytest
from tests.support.local_http import Answer, LocalServer, Request, json_answer

from prsm.core.errors import ConfigError, Unavailable
from prsm.teachers.evaluation.endpoint_learner import Endpoint, EndpointLearner


class Model(LocalServer):
    """Answers "2 * N" as a node does, after the ``failures`` that are left; ``most`` were asked at once."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Answer] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            failure = self.failures.pop() if self.failures else None
        self.stopping.wait(0.02)
        with self._lock:
            self._now -= 1
        if failure:
            return failure
        asked = json.loads(request.body)["messages"][0]["content"]
        if not asked.startswith("2 * "):
            return json_answer({"error": {"message": "blocked"}}, status=400)
        message = {"role": "assistant", "content": str(2 * int(asked[4:]))}
        return json_answer({"choices": [{"index": 0, "message": message}], "prsm": {"cost_micro": 30, "model": "m"}})


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as server:
        yield server


def _endpoint(model: Model, **more: object) -> Endpoint:
    given = {"base_url": f"{model.origin}/v1", "model": "m", "api_key": "secret", "first_wait_s": 0.0, **more}
    return Endpoint(**given)  # type: ignore[arg-type]


def test_answers_come_in_order_with_their_cost_and_never_too_many_at_once(model: Model) -> None:
    with EndpointLearner(_endpoint(model, at_once=3)) as learner:
        found = learner.replies([f"2 * {number}" for number in range(20)], seed=5)
    assert [reply.answer for reply in found] == [str(2 * number) for number in range(20)]
    assert all(reply.cost_micro == 30 and reply.seconds > 0 for reply in found)
    assert 1 < model.most <= 3
    asked = model.requests[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer secret"
    assert json.loads(asked.body).items() >= {"seed": 5, "temperature": 1.0, "model": "m"}.items()


def test_greedy_is_asked_at_temperature_zero_without_a_seed(model: Model) -> None:
    with EndpointLearner(_endpoint(model)) as learner:
        learner.answers(["2 * 1"])
    body = json.loads(model.requests[0].body)
    assert body["temperature"] == 0
    assert "seed" not in body


def test_what_may_pass_is_tried_again_as_the_same_request(model: Model) -> None:
    waits: list[float] = []
    model.failures = [Answer(503), Answer(429, b"", {"Retry-After": "7"}), json_answer({"choices": []})]
    with EndpointLearner(_endpoint(model, tries=4), sleep=waits.append) as learner:
        assert learner.answers(["2 * 21"]) == ["42"]
    assert len({request.headers["idempotency-key"] for request in model.requests}) == 1
    assert len(model.requests) == 4
    assert waits == [0.0, 7.0, 0.0]


def test_waits_double_with_jitter_up_to_their_bound(model: Model) -> None:
    waits: list[float] = []
    model.fault = "500"
    with (
        EndpointLearner(_endpoint(model, tries=12, first_wait_s=1.0), sleep=waits.append) as learner,
        pytest.raises(Unavailable, match="in 12 tries: HTTP 500"),
    ):
        learner.answers(["2 * 1"])
    assert len(waits) == 11
    assert all(wait <= min(60, 2**number) for number, wait in enumerate(waits))


@pytest.mark.parametrize("fault", ["cut", "reset", "garbage", "not-json", "deep", "wrong-top"])
def test_a_broken_endpoint_is_no_wrong_answer(model: Model, fault: str) -> None:
    model.fault = fault
    with (
        EndpointLearner(_endpoint(model, tries=2), sleep=lambda _: None) as learner,
        pytest.raises(Unavailable, match="gave no answer in 2 tries"),
    ):
        learner.answers(["2 * 1"])
    assert len(model.requests) == 2


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_an_endpoint_that_takes_too_long_is_no_wrong_answer(model: Model, fault: str) -> None:
    model.fault = fault
    with (
        EndpointLearner(_endpoint(model, tries=2, timeout_s=0.3), sleep=lambda _: None) as learner,
        pytest.raises(Unavailable, match="gave no answer in 2 tries"),
    ):
        learner.answers(["2 * 1"])


@pytest.mark.parametrize("fault", ["401", "403", "404", "redirect"])
def test_a_refusing_endpoint_is_told_at_once(model: Model, fault: str) -> None:
    model.fault = fault
    with (
        EndpointLearner(_endpoint(model, at_once=1)) as learner,
        pytest.raises(ConfigError, match="refuses with HTTP") as told,
    ):
        learner.answers(["2 * 1", "2 * 2", "2 * 3"])
    assert "secret" not in str(told.value)
    assert len(model.requests) == 1


def test_a_question_that_is_refused_is_answered_with_nothing(model: Model) -> None:
    with EndpointLearner(_endpoint(model)) as learner:
        assert learner.answers(["2 * 4", "how to harm", "2 * 5"]) == ["8", "", "10"]


@pytest.mark.parametrize("url", ["ftp://host/v1", "http:///v1", "https://user:word@host/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="http or https address"):
        Endpoint(base_url=url, model="m")
