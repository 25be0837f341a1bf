"""The OpenAI reader and the error reader, without a socket."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.answer_digest import AnswerAssembler, output_digest
from prsm.agents.call import Delta, Usage
from prsm.agents.executors.openai_compatible import StreamReader, completion_of, embeddings_of, estimated_usage
from prsm.agents.executors.upstream_errors import clean, parse_error_body, retry_after_s, status_error
from prsm.agents.seams import UpstreamError
from prsm.api.wire import openai_chat, openai_responses
from prsm.api.wire.openai_chat import ChatStream


def event(**chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def choice(content: str | None = None, finish: str | None = None, index: int = 0) -> bytes:
    return event(choices=[{"index": index, "delta": {"content": content}, "finish_reason": finish}])


DONE = b"data: [DONE]\n\n"
STREAM = (
    choice("")
    + choice("Hel")
    + choice("lo Zoë")
    + event(choices=[], usage=None)
    + choice(None, "stop")
    + event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
    + DONE
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_any_split_of_a_stream_gives_the_same_deltas(cuts: list[int]) -> None:
    reader = StreamReader()
    deltas: list[Delta] = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(STREAM)], strict=True):
        deltas.extend(reader.feed(STREAM[start:end]))
    assert reader.done
    assert deltas == [
        Delta(content="Hel"),
        Delta(content="lo Zoë"),
        Delta(finish_reason="stop"),
        Delta(usage=Usage(3, 2)),
    ]


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30), st.booleans())
def test_what_comes_in_one_read_says_the_same_as_piece_by_piece(texts: list[str], ascii_only: bool) -> None:
    def plain(text: str) -> bytes:
        chunk = {"id": "a", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        return b"data: " + json.dumps(chunk, ensure_ascii=ascii_only).encode() + b"\n\n"

    events = [plain(text.encode("utf-8", "replace").decode()) for text in texts]
    apart, together = StreamReader(), StreamReader()
    one_by_one = [delta for each in events for delta in apart.feed(each)]
    at_once = together.feed(b"".join(events))
    assert [piece for delta in at_once for piece in delta.pieces or [delta.content]] == [d.content for d in one_by_one]
    assert all("".join(delta.pieces) == delta.content for delta in at_once if delta.pieces)

    def chunks(batches: list[list[Delta]]) -> bytes:
        stream = ChatStream(answer_id="a", created=1, model="m")
        return b"".join(map(stream.feed, batches))

    assert chunks([at_once]) == chunks([[delta] for delta in one_by_one])


def test_a_run_ends_where_anything_but_the_text_differs() -> None:
    deltas = StreamReader(choices=2).feed(
        b"".join([choice(text) for text in "abcd"]) + choice("e", "stop") + choice("f", index=1) + choice("g") * 5
    )
    assert [(d.index, d.content, d.pieces, d.finish_reason) for d in deltas] == [
        (0, "a", None, None),
        (0, "bcd", ["b", "c", "d"], None),
        (0, "e", None, "stop"),
        (1, "f", None, None),
        (0, "g", None, None),
        (0, "gggg", ["g"] * 4, None),
    ]


def test_another_field_of_the_same_name_and_value_is_not_taken_for_the_text() -> None:
    def odd(other: str, text: str) -> bytes:
        return b'data: {"x":{"content":"%b"},"choices":[{"delta":{"content":"%b"}}]}\n\n' % (
            other.encode(),
            text.encode(),
        )

    deltas = StreamReader().feed(odd("a", "a") + b"".join([odd(other, "b") for other in "acde"]))
    assert "".join(delta.content or "" for delta in deltas) == "abbbb"
    assert all(delta.pieces is None for delta in deltas)


PLAIN = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n'


@pytest.mark.parametrize("bad", [b"\x01", b"\xff", b"\n", b'"', b"\\"])
def test_a_run_takes_no_text_that_is_none(bad: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        StreamReader().feed(PLAIN % b"a" * 5 + PLAIN % bad + PLAIN % b"a" * 5 + DONE)
    assert caught.value.code == "upstream_bad_answer"


def test_a_run_reads_as_json_says_what_has_a_quote_or_an_escape_in_it() -> None:
    deltas = StreamReader().feed(PLAIN % b"a" * 5 + PLAIN % b'x","content":"y' + PLAIN % b"\\n" + PLAIN % b"b" * 5)
    assert "".join(delta.content or "" for delta in deltas) == "aaaaay\nbbbbb"


def test_usage_in_every_chunk_is_told_once_and_last() -> None:
    reader = StreamReader()
    deltas: list[Delta] = []
    for tokens in (1, 2, 3):
        last = "stop" if tokens == 3 else None
        part = {"index": 0, "delta": {"content": "x"}, "finish_reason": last}
        deltas += reader.feed(event(choices=[part], usage={"prompt_tokens": 9, "completion_tokens": tokens}))
    assert [d.usage for d in deltas] == [None, None, None]
    assert reader.feed(DONE) == [Delta(usage=Usage(9, 3))]


def test_a_stream_without_done_is_whole_when_every_choice_finished() -> None:
    reader = StreamReader(choices=2)
    reader.feed(choice("a", "stop") + choice("b", index=1))
    with pytest.raises(UpstreamError) as caught:
        reader.close()
    assert caught.value.code == "upstream_cut_off"
    reader = StreamReader()
    reader.feed(choice("a", "stop") + choice("b", index=1) + choice(None, "length", index=1))
    assert reader.close() == []
    assert reader.done


def test_a_stream_of_nothing_is_cut_off() -> None:
    with pytest.raises(UpstreamError, match="before the answer was finished"):
        StreamReader().close()


def test_the_last_empty_line_may_be_missing() -> None:
    reader = StreamReader()
    reader.feed(choice("a", "stop") + DONE.rstrip())
    assert not reader.done
    assert reader.close() == []
    assert reader.done


@pytest.mark.parametrize(
    "bad",
    [
        {"choices": [{"index": -1, "delta": {}}]},
        {"choices": [{"index": 0, "delta": {"content": 5}}]},
        {"choices": [], "usage": {"prompt_tokens": -1}},
        {"choices": [], "usage": {"prompt_tokens": 2**60}},
        {"choices": {}},
    ],
)
def test_chunks_that_lie_about_their_form_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        StreamReader().feed(event(**bad))
    assert caught.value.code == "upstream_bad_answer"


def test_cached_tokens_never_exceed_the_input() -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}
    answer = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    assert completion_of(json.dumps(answer).encode()).usage == Usage(4, 1, 4)


def test_several_choices_refusals_and_logprobs_come_through() -> None:
    choices = [
        {"index": 0, "message": {"content": "x"}, "finish_reason": "length", "logprobs": {"content": []}},
        {"index": 1, "message": {"content": None, "refusal": "no"}, "finish_reason": "stop"},
    ]
    completion = completion_of(json.dumps({"choices": choices}).encode(), choices=2)
    assert [c.finish_reason for c in completion.choices] == ["length", "stop"]
    assert (completion.choices[0].logprobs, completion.choices[1].refusal) == ({"content": []}, "no")
    assert completion.usage is None


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"choices":[]}', b"\xff", b"[" * 100_000])
def test_answers_that_are_none(body: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        completion_of(body)
    assert caught.value.code == "upstream_bad_answer"


def test_an_error_inside_a_200_is_an_error() -> None:
    with pytest.raises(UpstreamError, match="no luck"):
        completion_of(b'{"error":{"message":"no luck","code":502}}')


@pytest.mark.parametrize("vectors", [[[1.0]], [[1.0], [1.0, 2.0]], [[], []], [[1.0], [1e39]]])
def test_vectors_that_do_not_fit_are_refused(vectors: list[list[float]]) -> None:
    data = [{"index": i, "embedding": v} for i, v in enumerate(vectors)]
    with pytest.raises(UpstreamError, match="vectors"):
        embeddings_of(json.dumps({"data": data}).encode(), ["a", "b"])


def test_the_largest_32_bit_float_fits_in_a_vector() -> None:
    body = b'{"data":[{"embedding":[3.4028235e38,-3.4028235e38]}]}'  # its shortest form; as a double it is above it
    assert embeddings_of(body, ["a"]).vectors == [[3.4028235e38, -3.4028235e38]]


def test_unmetered_texts_count_a_token_per_four_bytes() -> None:
    assert estimated_usage(["", "abcd", "abcde", "ü" * 4, "\ud800"]) == Usage(0 + 1 + 2 + 2 + 1, 0)


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"m","type":"t","code":"c"}}', "m", "c"),
        (b'{"error":{"message":"m","code":400}}', "m", "400"),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}', "m", "overloaded_error"),
        (b'{"error":"m"}', "m", ""),
        (b'{"detail":"m"}', "m", ""),
        (b'{"detail":[{"loc":["x"]}]}', "", ""),
        (b'{"message":"m"}', "m", ""),
        (b"<html>", "", ""),
        (b'{"error":7}', "", ""),
        (b"", "", ""),
        (b'{"error":"' + b"x" * 70_000 + b'"}', "", ""),
    ],
)
def test_error_bodies(body: bytes, message: str, code: str) -> None:
    parsed = parse_error_body(body)
    assert (parsed.message, parsed.code) == (message, code)


def test_an_empty_account_is_not_a_rate_limit() -> None:
    error = status_error(429, [], b'{"error":{"message":"quota","code":"insufficient_quota"}}')
    assert (error.code, error.retryable, error.upstream_status) == ("upstream_no_credit", False, 429)


def test_keys_never_come_back_in_messages() -> None:
    secret = "key with spaces"
    said = f"bad {secret} or sk-abc***XYZ, Bearer abc.def, hf_abcdefgh, {'a1' * 20}\x00\n{'long ' * 200}"
    line = clean(said, secret)
    assert line.startswith("bad [key] or [key], [key] [key], [key] long")
    assert len(line) <= 303
    refused = status_error(401, [], json.dumps({"error": {"message": "Incorrect API key: zzz"}}).encode())
    assert "zzz" not in refused.message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b" 1.5 ")], 1.5),
        ([(b"retry-after", b"9"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"Wed, 21 Oct 2015 07:28:00 GMT")], None),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"9" * 400)], None),
        ([(b"retry-after", "²".encode())], None),
        ([], None),
    ],
)
def test_retry_after(headers: list[tuple[bytes, bytes]], expected: float | None) -> None:
    assert retry_after_s(headers) == expected


def _calling(**function: Any) -> list[Any]:
    return [{"index": 0, "id": "call_1", "type": "function", "function": function}]


def test_arguments_that_come_as_an_object_are_text() -> None:
    calls = _calling(name="weather", arguments={"city": "Zoë", "days": 2})
    answer = completion_of(json.dumps({"choices": [{"message": {"tool_calls": calls}}]}).encode())
    (streamed,) = StreamReader().feed(event(choices=[{"delta": {"tool_calls": calls}}]))
    for told in (answer.choices[0].tool_calls, streamed.tool_calls or []):
        assert json.loads(told[0]["function"]["arguments"]) == {"city": "Zoë", "days": 2}
        assert told[0]["type"] == "function"


@pytest.mark.parametrize(
    "calls",
    [
        _calling(name=7, arguments="{}"),
        _calling(name="f", arguments=[1]),
        _calling(name="f", arguments=1.5),
        [{"function": "f"}],
        [{"id": 3, "function": {"name": "f"}}],
        [{"index": -1, "function": {"name": "f"}}],
    ],
)
def test_a_tool_called_in_no_known_form_is_the_upstreams_fault(calls: list[Any]) -> None:
    with pytest.raises(UpstreamError, match="calls a tool in another form"):
        completion_of(json.dumps({"choices": [{"message": {"tool_calls": calls}}]}).encode())
    with pytest.raises(UpstreamError, match="calls a tool in another form"):
        StreamReader().feed(event(choices=[{"delta": {"tool_calls": calls}}]))


@pytest.mark.parametrize("function", [{"name": "f"}, {"name": "f", "arguments": None}, {"name": "f", "arguments": ""}])
def test_a_whole_call_without_arguments_has_none(function: dict[str, Any]) -> None:
    calls = [{"function": function}, {"id": "", "function": dict(function)}]
    answer = completion_of(json.dumps({"choices": [{"message": {"tool_calls": calls}}]}).encode())
    told = answer.choices[0].tool_calls
    assert [(call["type"], call["function"]) for call in told] == [("function", {"name": "f", "arguments": "{}"})] * 2
    assert len({call["id"] for call in told} - {""}) == 2
    assert len(output_digest(answer.choices)) == 64


@pytest.mark.parametrize("call", [{"id": "a"}, {"function": {"arguments": "{}"}}, {"function": {"name": ""}}])
def test_a_whole_call_of_no_function_is_the_upstreams_fault(call: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError, match="without naming it"):
        completion_of(json.dumps({"choices": [{"message": {"tool_calls": [call]}}]}).encode())


def _piece(**call: Any) -> dict[str, Any]:
    return {name: value for name, value in call.items() if value is not None}


def _named(name: str, arguments: str, **call: Any) -> dict[str, Any]:
    return _piece(function={"name": name, "arguments": arguments}, **call)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [
        [_named("f", '{"x":1}', id="a"), _named("g", "{}", id="b")],
        [_named("f", '{"x":1}', index=0, id="a"), _named("g", "{}", index=0, id="b")],
        [_named("f", '{"x":1}'), _named("g", "{}")],
        [{"index": None, **_named("f", '{"x":1}', id="a")}, {"index": None, **_named("g", "{}", id="b")}],
        [_named("f", '{"x"', id="a"), {"function": {"arguments": ":1}"}}, _named("g", "{}", id="b")],
        [
            _named("f", "", index=1, id="a"),
            _named("g", "", index=2, id="b"),
            {"index": 1, "id": "z", "function": {"arguments": '{"x":1}'}},
            {"index": 2, "function": {"arguments": "{}"}},
        ],
        [_named("f", '{"x":', index=0, id="a"), _named("f", "1}", index=0, id="a"), _named("g", "{}", index=1)],
    ],
)
def test_calls_side_by_side_are_told_apart_however_they_are_numbered(
    pieces: list[dict[str, Any]], together: bool
) -> None:
    pieces = json.loads(json.dumps(pieces))
    steps = [pieces] if together else [[piece] for piece in pieces]
    reader, assembler, ids = StreamReader(), AnswerAssembler(10_000), dict[int, str]()
    for step in steps:
        deltas = reader.feed(event(choices=[{"delta": {"tool_calls": step}}]))
        assembler.add(deltas)
        for call in [call for delta in deltas for call in delta.tool_calls or []]:
            assert call["index"] in ids or call["id"]
            ids[call["index"]] = ids.get(call["index"], "") + call.get("id", "")  # as SDKs gather them
    calls = assembler.choices()[0].tool_calls
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == [
        ("f", '{"x":1}'),
        ("g", "{}"),
    ]
    assert [call["id"] for call in calls] == [*ids.values()]
    assert len(set(ids.values())) == 2


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
def test_who_counts_no_token_at_all_has_not_metered(usage: dict[str, int]) -> None:
    whole = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": usage}
    assert completion_of(json.dumps(whole).encode()).usage is None
    deltas = StreamReader().feed(choice("hi", "stop") + event(choices=[], usage=usage) + DONE)
    assert [delta.usage for delta in deltas] == [None]
    vectors = {"data": [{"embedding": [1.0]}], "usage": usage}
    assert embeddings_of(json.dumps(vectors).encode(), ["four bytes"]).usage == Usage(3, 0)


def test_tokens_of_reasoning_are_told_on_as_part_of_the_output() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 9}}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, **details}
    whole = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": usage}
    completion = completion_of(json.dumps(whole).encode())
    assert completion.usage == Usage(3, 5, 0, 5)
    chat = json.loads(openai_chat.render(completion, answer_id="chatcmpl-1", created=1, model="m", prsm={}))
    assert chat["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}
    request = openai_responses.parse(b'{"model":"m","input":"q"}', max_bytes=100)
    told = openai_responses.render(completion, answer_id="resp_1", created=1, model="m", prsm={}, request=request)
    assert json.loads(told)["usage"]["output_tokens_details"] == {"reasoning_tokens": 5}


def test_only_the_choices_that_were_asked_for_are_taken() -> None:
    def whole(*indexes: int) -> bytes:
        said = [{"index": index, "message": {"content": str(index)}, "finish_reason": "stop"} for index in indexes]
        return json.dumps({"choices": said}).encode()

    assert [choice.content for choice in completion_of(whole(1, 0)).choices] == ["0"]
    assert [choice.content for choice in completion_of(whole(2, 1, 0), choices=2).choices] == ["0", "1"]
    with pytest.raises(UpstreamError, match="no choice"):
        completion_of(whole(1))
    reader = StreamReader()
    came = choice("a") + choice("x", index=1) * 5 + choice("b", "stop") + choice(None, "length", index=1) + DONE
    assert [(d.content, d.finish_reason) for d in reader.feed(came)] == [("a", None), ("b", "stop")]
    assert {d.index for d in StreamReader(choices=2).feed(came)} == {0, 1}
