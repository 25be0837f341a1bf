"""Feedback as users give it: by the ids that the SDKs show, over HTTP and the command line, learnt from by the node."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError
from uuid import UUID, uuid4

import anthropic
import openai
import pytest
from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer

MODEL = "up/echo"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamServer) -> Iterator[StartedNode]:
    with started_node(
        tmp_path_factory.mktemp("feedback"), LEARNING_PERIOD_S=1, RATE_LIMIT_PER_MINUTE=60_000
    ) as started:
        started.add_provider("up", f"{upstream.origin}/v1")
        started.add_model(MODEL)
        started.add_model("up/embed", capabilities=["embeddings"], price_out=0)
        yield started


def refused(node: StartedNode, word: dict[str, Any], key: str | None = None) -> tuple[int, str]:
    with pytest.raises(HTTPError) as raised:
        node.call("POST", "/v1/feedback", word, key=key)
    return raised.value.code, json.loads(raised.value.read())["error"]["code"]


def ask(node: StartedNode, text: str, key: str | None = None) -> str:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    return node.call("POST", "/v1/chat/completions", body, key=key)["id"]


def standing(node: StartedNode, model: str = "echo") -> dict[str, Any]:
    found = node.call("GET", "/node/v1/quality")
    assert found["learning"]
    return next(each for each in found["models"] if each["model"] == model)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def given(node: StartedNode, request_id: str) -> dict[str, Any] | None:
    listed = node.call("GET", "/node/v1/feedback?limit=1000")
    return next((each for each in listed if each["request_id"] == request_id), None)


def test_an_openai_client_gives_feedback_by_the_id_of_its_answer(node: StartedNode) -> None:
    with openai.OpenAI(base_url=node.base_url, api_key=node.key, max_retries=0) as client:
        answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "one two"}])
        taken: Any = client.post("/feedback", body={"request_id": answer.id, "rating": "good"}, cast_to=object)
        assert taken["model"] == MODEL
        assert taken["score"] == 1.0
        response = client.responses.create(model=MODEL, input="three")
        taken = client.post(
            "/feedback", body={"request_id": response.id, "score": 0.25, "reason": "incomplete"}, cast_to=object
        )
        assert (taken["score"], taken["reason"]) == (0.25, "incomplete")
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "four"}], stream=True
        )
        chunk_id = [chunk.id for chunk in stream][-1]
        assert client.post("/feedback", body={"request_id": chunk_id, "rating": "bad"}, cast_to=object)
    listed = node.call("GET", "/node/v1/feedback")
    assert [each["score"] for each in listed[:3]] == [0.0, 0.25, 1.0]


def test_an_anthropic_client_too(node: StartedNode) -> None:
    with anthropic.Anthropic(base_url=node.url, api_key=node.key, max_retries=0) as client:
        answer = client.messages.create(model=MODEL, max_tokens=64, messages=[{"role": "user", "content": "five"}])
        taken: Any = client.post("/v1/feedback", body={"request_id": answer.id, "rating": "good"}, cast_to=object)
    assert taken["model"] == MODEL


def test_the_command_line_gives_feedback_and_shows_what_is_thought(node: StartedNode) -> None:
    request_id = ask(node, "six")
    said = node.cli("feedback", request_id, "bad", "--reason", "wrong", "--comment", "not six")
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"noted: bad, answered by {MODEL}\n"
    stored = given(node, str(UUID(request_id.removeprefix("chatcmpl-"))))
    assert stored is not None
    assert (stored["score"], stored["reason"], stored["comment"]) == (0.0, "wrong", "not six")
    assert "not six" not in node.log_path.read_text()
    wrong = node.cli("feedback", request_id, "so-so")
    assert wrong.returncode == 2
    odd = node.cli("feedback", request_id, "bad", "--reason", "ugly")
    assert odd.returncode == 1
    assert "reason" in odd.stderr
    nobody = node.cli("feedback", str(uuid4()), "good")
    assert nobody.returncode == 1
    assert "id of a response" in nobody.stderr
    shown = node.cli("models", "quality")
    assert shown.returncode == 0, shown.stderr
    assert "echo" in shown.stdout
    found = json.loads(node.cli("models", "quality", "--json").stdout)
    assert {"echo", "arithmetic"} <= {each["model"] for each in found["models"]}


def test_what_cannot_be_taken_is_refused_by_name(node: StartedNode) -> None:
    request_id = ask(node, "seven")
    _, stranger = node.new_client("stranger")
    good = {"request_id": request_id, "rating": "good"}
    assert refused(node, good, stranger) == (404, "unknown_request")
    assert refused(node, good | {"score": 0.5})[0] == 400
    assert refused(node, {"request_id": request_id})[0] == 400
    assert refused(node, {"request_id": request_id, "score": 1.5})[0] == 400
    assert refused(node, {"request_id": request_id, "score": float("nan")})[0] == 400
    assert refused(node, good | {"reason": "because"})[0] == 400
    assert refused(node, good | {"comment": "x" * 2001})[0] == 400
    assert refused(node, good | {"comment": "a\x00b"})[0] == 400
    assert refused(node, good | {"extra": 1})[0] == 400
    assert refused(node, {"request_id": "chatcmpl-nonsense", "rating": "good"}) == (400, "invalid_request")
    embedded = node.call("POST", "/v1/embeddings", {"model": "up/embed", "input": "x"})
    assert refused(node, {"request_id": embedded["prsm"]["receipt_id"], "rating": "good"})[0] == 400
    assert given(node, str(UUID(request_id.removeprefix("chatcmpl-")))) is None


def test_feedback_is_paged(node: StartedNode) -> None:
    for number in range(3):
        node.call("POST", "/v1/feedback", {"request_id": ask(node, f"page {number}"), "rating": "good"})
    whole = [each["request_id"] for each in node.call("GET", "/node/v1/feedback?limit=3")]
    first = node.call("GET", "/node/v1/feedback?limit=2")
    second = node.call("GET", f"/node/v1/feedback?limit=1&before={first[-1]['request_id']}")
    assert [each["request_id"] for each in (*first, *second)] == whole


def test_acknowledged_feedback_outlives_kill_9(node: StartedNode) -> None:
    request_id = ask(node, "eight")
    node.call("POST", "/v1/feedback", {"request_id": request_id, "rating": "bad", "comment": "remember me"})
    node.kill()
    node.start()
    stored = given(node, str(UUID(request_id.removeprefix("chatcmpl-"))))
    assert stored is not None
    assert stored["comment"] == "remember me"


def test_one_caller_with_many_keys_moves_a_model_no_further_than_its_bound(node: StartedNode) -> None:
    node.add_model("up/slandered")
    before = standing(node, "slandered")
    principal, _ = node.new_client("liar")
    node.call("POST", f"/node/v1/principals/{principal}/grants", {"id": str(uuid4()), "amount_micro": 10_000_000})

    def lie(key: str) -> None:
        body = {"model": "up/slandered", "messages": [{"role": "user", "content": "the same question"}]}
        request_id = node.call("POST", "/v1/chat/completions", body, key=key)["id"]
        node.call("POST", "/v1/feedback", {"request_id": request_id, "rating": "bad"}, key=key)

    def lies(count: int) -> float:
        for _ in range(count):
            lie(node.new_key("liar", principal_id=principal, scopes=["chat"])[1])
        settled = [0.0, 1.0]
        while settled[-1] != settled[-2]:
            time.sleep(3)
            settled.append(standing(node, "slandered")["ability"])
        return settled[-1]

    some = lies(10)
    assert 0 < before["ability"] - some <= 2.0  # the law's bound at the precision of a model without scores
    assert lies(10) == pytest.approx(some, abs=1e-3), "many keys are one caller, and it has spent what it may"


def test_what_many_say_is_learnt_and_stays_over_a_restart(node: StartedNode) -> None:
    node.add_model("up/poor")
    before = standing(node, "poor")
    for number in range(12):
        principal, key = node.new_client(f"honest {number}")
        node.call("POST", f"/node/v1/principals/{principal}/grants", {"id": str(uuid4()), "amount_micro": 1_000_000})
        body = {"model": "up/poor", "messages": [{"role": "user", "content": "the same question"}]}
        request_id = node.call("POST", "/v1/chat/completions", body, key=key)["id"]
        node.call("POST", "/v1/feedback", {"request_id": request_id, "rating": "bad"}, key=key)
    until(lambda: standing(node, "poor")["outcomes"] == 12, "all of it is learnt")
    after = standing(node, "poor")
    assert after["chance"] < before["chance"] - 0.1, "one batch moves a mean by half a log-odd at most"
    assert after["evidence"] > before["evidence"] == 0
    assert after["clusters"]
    assert node.stop() == 0
    node.start()
    node.until_ready()
    again = standing(node, "poor")
    assert again["outcomes"] == 12
    assert again["chance"] == pytest.approx(after["chance"], abs=1e-3)
    assert (node.metric("prsm_quality_state_version") or 0) > 0
