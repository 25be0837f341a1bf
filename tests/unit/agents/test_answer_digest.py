"""The digest of an answer is the same whoever recomputes it, and a stream assembles to the whole however it is cut."""

import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.answer_digest import AnswerAssembler, output_digest, tool_input
from prsm.agents.call import Choice, Delta, Json, Usage
from prsm.agents.seams import UpstreamError


def call(arguments: str, name: str = "f") -> Json:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_is_of_these_very_bytes() -> None:
    said = '{"choices":[{"content":"Hi \\"é\\"","tool_calls":[]}]}'
    assert output_digest([Choice(content='Hi "é"')]) == digest_of(said)
    called = r'{"choices":[{"content":"","tool_calls":[{"arguments":"{\"a\":[1,0.5,1e+21],\"b\":null}","name":"f"}]}]}'
    assert output_digest([Choice(tool_calls=[call('{ "b": null, "a": [1.0, 5e-1, 1e21] }')])]) == digest_of(called)


def test_choices_are_ordered_by_index_and_refusals_are_seen() -> None:
    one, two = Choice(index=0, content="a"), Choice(index=1, content=None, refusal="b")
    assert output_digest([two, one]) == output_digest([one, two])
    assert output_digest([one, two]) == output_digest([one, Choice(index=1, content="b")])
    assert output_digest([one, two]) != output_digest([one])
    assert output_digest([Choice(content="", reasoning="x")]) == output_digest([Choice(content=None)])


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("", {}),
        ("  ", {}),
        ("{}", {}),
        ('{"a":1}', {"a": 1}),
        ('{"a":1,"a":2}', {"a": 2}),
        ("[1]", {"raw_arguments": "[1]"}),
        ('{"a":', {"raw_arguments": '{"a":'}),
        ('{"a":NaN}', {"raw_arguments": '{"a":NaN}'}),
        ('{"a":' * 64 + "1" + "}" * 64, None),
        ('{"a":' * 65 + "1" + "}" * 65, "raw"),
        ('{"a":' * 100_000, "raw"),
    ],
)
def test_arguments_become_one_object(arguments: str, value: Any) -> None:
    wanted = {"raw_arguments": arguments} if value == "raw" else json.loads(arguments) if value is None else value
    assert tool_input(arguments) == wanted
    again = json.dumps(wanted, indent=1)
    assert output_digest([Choice(tool_calls=[call(arguments)])]) == output_digest([Choice(tool_calls=[call(again)])])


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (1e20, "100000000000000000000"),
        (123456789012345680000.0, "123456789012345680000"),
        (1e21, "1e+21"),
        (1.5e300, "1.5e+300"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        (-1.25e-9, "-1.25e-9"),
        (333333333.33333329, "333333333.3333333"),
        (4.5, "4.5"),
        (5e-324, "5e-324"),
    ],
)
def test_numbers_are_written_as_ecmascript_does(number: float, text: str) -> None:
    one = output_digest([Choice(tool_calls=[call(json.dumps({"n": number}))])])
    said = json.dumps({"choices": [{"content": "", "tool_calls": [{"arguments": f'{{"n":{text}}}', "name": "f"}]}]})
    assert one == digest_of(said.replace(", ", ",").replace(": ", ":"))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(
    st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False) | texts | st.integers(), max_size=4),
    st.randoms(),
)
def test_the_digest_does_not_depend_on_how_arguments_are_written(value: Json, random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    written = json.dumps(
        {key: value[key] for key in keys}, indent=random.choice([None, 2]), ensure_ascii=random.random() < 0.5
    )
    assert output_digest([Choice(tool_calls=[call(written)])]) == output_digest(
        [Choice(tool_calls=[call(json.dumps(value))])]
    )


@given(
    texts, texts, st.lists(st.tuples(texts, texts), max_size=3), st.lists(st.integers(0, 40), max_size=6), st.randoms()
)
def test_a_stream_assembles_to_the_whole_however_it_is_cut(
    content: str, reasoning: str, tools: list[tuple[str, str]], cuts: list[int], random: Any
) -> None:
    def pieces(text: str) -> list[str]:
        edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
        return [text[a:b] for a, b in pairwise(edges)]

    lanes = [
        [Delta(content=piece) for piece in pieces(content)],
        [Delta(reasoning=piece) for piece in pieces(reasoning)],
    ]
    for index, (name, arguments) in enumerate(tools):
        head = {
            "index": index,
            "id": f"c{index}",
            "type": "function",
            "function": {"name": name or "f", "arguments": ""},
        }
        rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces(arguments)]
        lanes.append([Delta(tool_calls=[fragment]) for fragment in [head, *rest]])
    assembler = AnswerAssembler(100_000)
    while any(lanes):
        assembler.add([random.choice([lane for lane in lanes if lane]).pop(0)])
    assembler.add([Delta(finish_reason="length", usage=Usage(1, 2))])
    calls = [call(arguments, name or "f") | {"id": f"c{index}"} for index, (name, arguments) in enumerate(tools)]
    whole = Choice(
        content=content or (None if calls else ""),
        reasoning=reasoning or None,
        tool_calls=calls,
        finish_reason="length",
    )
    assert assembler.choices() == [whole]
    assert assembler.completion().usage == Usage(1, 2)
    assert output_digest(assembler.choices()) == output_digest([whole])


def test_choices_logprobs_and_reasons_are_gathered() -> None:
    assembler = AnswerAssembler(10_000)
    assembler.add([Delta(index=1, content="b", logprobs={"content": [{"token": "b"}], "refusal": None})])
    assembler.add([Delta(index=1, content="c", logprobs={"content": [{"token": "c"}]}), Delta(index=0, refusal="no")])
    first, second = assembler.choices()
    assert (first.index, first.refusal, first.finish_reason) == (0, "no", "stop")
    assert (second.content, second.logprobs) == ("bc", {"content": [{"token": "b"}, {"token": "c"}]})
    calling = AnswerAssembler(10_000)
    calling.add([Delta(tool_calls=[{"index": 0, "function": {"name": "f"}}])])
    assert calling.choices()[0].finish_reason == "tool_calls"
    assert AnswerAssembler(1).choices() == []


@pytest.mark.parametrize(
    "delta",
    [
        Delta(content="x" * 50),
        Delta(content="é" * 25),
        Delta(reasoning="x" * 50),
        Delta(refusal="x" * 50),
        Delta(tool_calls=[{"index": 0, "function": {}}]),
        Delta(logprobs={"content": ["x" * 50]}),
    ],
)
def test_an_answer_without_end_is_cut_off(delta: Delta) -> None:
    assembler = AnswerAssembler(64 + 100 + 1)
    with pytest.raises(UpstreamError) as caught:
        assembler.add([delta] * 4)
    assert (caught.value.code, caught.value.retryable) == ("answer_too_large", False)


def test_exactly_the_limit_is_accepted() -> None:
    assembler = AnswerAssembler(64 + 10)
    assembler.add([Delta(content="é" * 5)])
    assert assembler.choices()[0].content == "ééééé"
