"""The walk over ``derived_from``: order, doubles, contradictions, cycles and bounds."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.data_layer.provenance.lineage import Step, lineage, newest
from prsm.data_layer.provenance.signed_statement import ContentKind, Origin, Provenance, Relation

AT = datetime(2026, 1, 1, tzinfo=UTC)


def says(
    cid: str, *parents: str, key: str = "k", at: datetime = AT, relation: Relation = Relation.PART_OF
) -> Provenance:
    """A statement as after verification; the walk reads names only, so they are short here."""
    origins = tuple(Origin(parent, relation) for parent in parents)
    return Provenance(cid, ContentKind.MODEL, "publisher", key, at, "MIT", "title", "a/b", 1, origins)


def test_nothing_said_is_no_lineage() -> None:
    assert lineage([], "a").steps == ()
    assert lineage([says("b", "a")], "a").steps == ()


def test_nearest_first_with_relation_and_key() -> None:
    statements = [says("c", "b", relation=Relation.QUANTISED_FROM), says("b", "a", "data", key="j")]
    found = lineage(statements, "c")
    assert found.steps == (
        Step("c", "b", Relation.QUANTISED_FROM, "k", 1),
        Step("b", "a", Relation.PART_OF, "j", 2),
        Step("b", "data", Relation.PART_OF, "j", 2),
    )
    assert not found.cyclic
    assert not found.truncated


def test_a_common_ancestor_is_visited_once() -> None:
    found = lineage([says("d", "b", "c"), says("b", "a"), says("c", "a"), says("a", "root")], "d")
    assert [(step.child, step.parent) for step in found.steps] == [
        ("d", "b"),
        ("d", "c"),
        ("b", "a"),
        ("c", "a"),
        ("a", "root"),
    ]
    assert not found.cyclic


def test_publishers_may_contradict_each_other_and_each_is_named() -> None:
    found = lineage([says("b", "a", key="one"), says("b", "x", key="two")], "b")
    assert {(step.parent, step.public_key) for step in found.steps} == {("a", "one"), ("x", "two")}


def test_a_later_statement_replaces_an_earlier_one_of_the_same_key() -> None:
    old, new = says("b", "a"), says("b", "x", at=AT + timedelta(seconds=1))
    assert [step.parent for step in lineage([new, old], "b").steps] == ["x"]
    assert newest([old, new, replace(old, public_key="j")]) == {"b": [replace(old, public_key="j"), new]}


def test_cycles_end_and_are_told() -> None:
    loop = [says("a", "b"), says("b", "c"), says("c", "a"), says("c", "root", key="j")]
    found = lineage(loop, "a")
    assert found.cyclic
    assert {step.parent for step in found.steps} == {"a", "b", "c", "root"}
    assert lineage([says("x", "a"), *loop], "x").cyclic
    assert not lineage([*loop, says("y", "z")], "y").cyclic


def test_depth_and_number_are_bounded() -> None:
    chain = [says(str(number), str(number + 1)) for number in range(100)]
    found = lineage(chain, "0", max_depth=10)
    assert (len(found.steps), found.truncated) == (10, True)
    assert lineage(chain, "90", max_depth=10).truncated is False
    wide = [
        says("0", *map(str, range(1, 65))),
        *(says(str(child), *map(str, range(1000, 1064))) for child in range(1, 65)),
    ]
    found = lineage(wide, "0", max_steps=100)
    assert (len(found.steps), found.truncated) == (100, True)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from("jk")), max_size=20),
    st.randoms(use_true_random=False),
)
def test_the_order_of_statements_changes_nothing(edges: list[tuple[int, int, str]], random: object) -> None:
    statements = [says(str(child), str(parent), key=key) for child, parent, key in edges if child != parent]
    expected = lineage(statements, "0")
    assert lineage(reversed(statements), "0") == expected
    reachable = {"0"} | {step.parent for step in expected.steps}
    assert {step.child for step in expected.steps} <= reachable


@pytest.mark.parametrize("count", [5000])
def test_a_long_chain_takes_no_recursion(count: int) -> None:
    chain = [says(str(number), str(number + 1)) for number in range(count)]
    found = lineage(chain, "0", max_depth=count, max_steps=count)
    assert (len(found.steps), found.cyclic, found.truncated) == (count, False, False)
