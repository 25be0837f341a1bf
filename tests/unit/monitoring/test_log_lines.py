"""Logs: no secret leaves in them, whatever field or error it stands in."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from prsm.monitoring import logs

TOKEN = "prsm_Ab3dEf7h_" + "x" * 43


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


def written(capsys: pytest.CaptureFixture[str], **fields: object) -> dict[str, str]:
    logs.configure("info", "json")
    structlog.get_logger().info("event", **fields)
    return json.loads(capsys.readouterr().err)


def test_a_line_has_level_time_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    line = written(capsys, request_id="1", code="x")
    assert (line["event"], line["level"], line["request_id"], line["code"]) == ("event", "info", "1", "x")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"token {TOKEN}!", "x" * 20),
        ("authorization: Bearer abcdef.ghijkl", "abcdef"),
        ("key sk-proj-abcdefgh", "abcdefgh"),
        ("key sk-ant-api03-abc_def", "abc_def"),
        ("hf_abcdefghij", "abcdefghij"),
        ("postgresql://prsm:pa55word@127.0.0.1:5432/prsm", "pa55word"),
        ("redis://:pa55word@127.0.0.1", "pa55word"),
        ("redis://:pa55@word@127.0.0.1", "word"),
        ("https://pa55word@provider.example/v1", "pa55word"),
        ("GET https://provider.example/v1?api-key=pa55word&x=1", "pa55word"),
        ("postgresql:///prsm?user=u&password=pa55word", "pa55word"),
        ("{'Authorization': 'Basic cGE1NXdvcmQ='}", "cGE1NXdvcmQ"),
        ("x-api-key: pa55word", "pa55word"),
    ],
)
def test_what_looks_like_a_secret_is_cut(capsys: pytest.CaptureFixture[str], text: str, secret: str) -> None:
    line = written(capsys, error=text)
    assert secret not in json.dumps(line)
    assert "[cut]" in line["error"]


def test_secrets_in_the_event_and_in_a_trace_are_cut_too(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError(f"bad {TOKEN}")
    except ValueError:
        structlog.get_logger().exception(f"failed with {TOKEN}")
    line = capsys.readouterr().err
    assert "x" * 20 not in line
    assert "ValueError" in line


def test_what_is_no_secret_stays(capsys: pytest.CaptureFixture[str]) -> None:
    kept = ("http://127.0.0.1:8420/v1", "sk-", "risk-averse", "mailbox a@b:c", "http://h/x?limit=5", "basic rules")
    for text in kept:
        assert written(capsys, error=text)["error"] == text


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "console")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert "quiet" not in (err := capsys.readouterr().err)
    assert "loud" in err


def test_a_trace_tells_where_and_what_kind_but_not_the_words_of_any_exception(
    capsys: pytest.CaptureFixture[str],
) -> None:
    word = "".join(["can", "ary"])  # the lines of the source are shown, and may be

    def fail() -> None:
        try:
            raise KeyError(word)
        except KeyError as error:
            raise ExceptionGroup(word, [ValueError(word), error]) from error

    for style in ("json", "console"):
        logging.getLogger().handlers.clear()  # else the first who configured logging keeps it
        logs.configure("info", style)
        try:
            fail()
        except ExceptionGroup as error:
            structlog.get_logger().error("failed", exc_info=error)
            logging.getLogger("library").error("failed too", exc_info=error)
        said = capsys.readouterr().err
        assert said.count("in fail") >= 2
        assert "ExceptionGroup of builtins.ValueError, builtins.KeyError" in said
        assert "failed too" in said
        assert word not in said


def test_what_libraries_log_is_cut_too(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers.clear()
    logs.configure("info", "console")
    logging.getLogger("library").warning("cannot reach %s", "redis://:pa55word@127.0.0.1")
    said = capsys.readouterr().err
    assert "cannot reach redis://[cut]@127.0.0.1" in said
