"""Teachers of folders on a served node: listed, asked and paid by name, broken ones named, new ones offered at once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.served_node import Served, serve_node
from tests.support.small_teachers import write_teacher

from prsm.node.releases import refresh_teachers

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    home = tmp_path_factory.mktemp("home")
    write_teacher(home / "teachers" / "sums", input_price_micro=1_000_000, output_price_micro=2_000_000)
    torn = write_teacher(home / "teachers" / "torn", seed=1)
    (torn / "teacher.json").write_text("{}")
    async with serve_node(home, postgres_url, valkey_url) as one:
        yield one


def _folder(served: Served) -> Path:
    return served.node.settings.home / "teachers"


async def _asked(served: Served, model: str, question: str) -> tuple[int, dict]:
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    return await served.send("POST", "/v1/chat/completions", body, key=served.user)


async def test_a_teacher_of_a_folder_is_asked_and_paid(served: Served) -> None:
    listed = {entry["id"] for entry in (await served.done("GET", "/v1/models"))["data"]}
    assert listed >= {"local/arithmetic", "local/sums"}
    status, answer = await _asked(served, "local/sums", "12 + 30")
    assert status == 200
    teacher = served.node.teachers.of_folders["sums"]
    pieces = list(teacher.answer("12 + 30", 20))
    assert answer["choices"][0]["message"]["content"] == "".join(p.text for p in pieces if not p.is_reasoning)
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (8, len(pieces))
    assert answer["prsm"]["cost_micro"] == 8 + 2 * len(pieces)
    registered = served.node.registry.catalogue.versions["sums", teacher.version].version
    assert registered.weights_cid


@pytest.mark.parametrize(
    ("question", "answer", "model"),
    [
        ("Spell elephant backwards.", "tnahpele", "local/letters-numerals"),
        ("Write 1994 in Roman numerals.", "MCMXCIV", "local/letters-numerals"),
        ("What number is MMXXVI?", "2026", "local/letters-numerals"),
        ("Write 37 in binary.", "100101", "local/letters-numerals"),
        ("What is 12 + 30?", "42", "local/arithmetic"),
        ("12345+678", "13023", "local/arithmetic"),
        ("What is 1234 / 7?", "176 remainder 2", "local/scholar"),
        ("Sort 31, 4, 15.", "4, 15, 31", "local/scholar"),
    ],
)
async def test_auto_finds_the_teacher_that_knows(served: Served, question: str, answer: str, model: str) -> None:
    status, found = await _asked(served, "auto", question)
    assert status == 200
    assert (found["choices"][0]["message"]["content"], found["prsm"]["model"]) == (answer, model)
    assert found["prsm"]["reason"] == f"specialist for {model.removeprefix('local/')}"


async def test_what_it_was_not_trained_for_is_refused(served: Served) -> None:
    status, answer = await _asked(served, "local/sums", "Write a poem")
    assert status == 422
    assert "sums of two numbers" in answer["error"]["message"]


async def test_a_broken_folder_is_named_and_the_node_is_ready(served: Served) -> None:
    status, parts = await served.send("GET", "/readyz")
    assert status == 200
    assert parts["teachers"]["ok"] is False
    assert "torn" in parts["teachers"]["error"]
    assert "title" in parts["teachers"]["error"]


async def test_a_new_folder_is_offered_at_once(served: Served) -> None:
    assert (await _asked(served, "local/more", "1 + 2"))[0] == 404
    write_teacher(_folder(served) / "more", seed=2)
    await refresh_teachers(served.node)
    status, answer = await _asked(served, "local/more", "1 + 2")
    assert (status, answer["prsm"]["model"]) == (200, "local/more")
