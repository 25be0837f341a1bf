"""Who earns upstream of a version: exact over any lineage, never more than the whole, and no way round in a circle."""

from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest
from prsm.core.money import BASIS_POINTS
from prsm.federation.registry.lineage import (
    MAX_DEPTH,
    MAX_ROYALTIES,
    Maker,
    Royalty,
    ancestors_first,
    check_lineage,
    lineage_shares,
)
from prsm.federation.registry.versions import Parent, Ref, Registered, Version, digest

AT = datetime(2026, 1, 1, tzinfo=UTC)


def ref(number: int) -> Ref:
    return "m", f"v{number}"


@st.composite
def lineages(draw: st.DrawFn) -> dict[Ref, Maker]:
    """Versions v0, v1, ... each made from some of those before it."""
    makers: dict[Ref, Maker] = {}
    for number in range(draw(st.integers(1, 12))):
        parents = draw(st.lists(st.integers(0, max(0, number - 1)), max_size=4, unique=True)) if number else []
        shares = [draw(st.integers(0, BASIS_POINTS // max(1, len(parents)))) for _ in parents]
        owner = draw(st.sampled_from(["", "ada", "bob", "cy"]))
        makers[ref(number)] = Maker(owner, tuple((ref(p), s) for p, s in zip(parents, shares, strict=True)))
    return makers


def by_paths(start: Ref, makers: Mapping[Ref, Maker]) -> dict[str, Fraction]:
    """The same by another way: each path from ``start`` carries the product of its shares."""
    found: dict[str, Fraction] = {}

    def walk(at: Ref, weight: Fraction) -> None:
        made = makers[at]
        passed = sum(share for _, share in made.parents)
        found[made.owner] = found.get(made.owner, Fraction(0)) + weight * (BASIS_POINTS - passed) / BASIS_POINTS
        for parent, share in made.parents:
            walk(parent, weight * share / BASIS_POINTS)

    walk(start, Fraction(1))
    return found


@given(lineages())
def test_shares_are_those_of_all_paths_rounded_down(makers: dict[Ref, Maker]) -> None:
    start = ref(len(makers) - 1)
    paths = by_paths(start, makers)
    assert sum(paths.values()) == 1
    expected = {who: int(part * BASIS_POINTS) for who, part in paths.items() if who not in ("", makers[start].owner)}
    shares = lineage_shares(start, makers)
    assert {share.account: share.bps for share in shares} == {who: bps for who, bps in expected.items() if bps}
    assert sum(share.bps for share in shares) <= BASIS_POINTS
    assert [share.bps for share in shares] == sorted((share.bps for share in shares), reverse=True)


@given(lineages())
def test_ancestors_come_before_what_was_made_of_them(makers: dict[Ref, Maker]) -> None:
    order = ancestors_first(ref(len(makers) - 1), makers)
    assert len(set(order)) == len(order)
    for place, each in enumerate(order):
        assert {parent for parent, _ in makers[each].parents} <= set(order[:place])


def test_a_chain_passes_on_what_it_gets() -> None:
    makers = {
        ref(0): Maker("base"),
        ref(1): Maker("tuner", ((ref(0), 2000),)),
        ref(2): Maker("own", ((ref(1), 5000),)),
    }
    assert lineage_shares(ref(2), makers) == (Royalty("tuner", 4000), Royalty("base", 1000))


def test_a_circle_and_a_gap_are_found() -> None:
    circle = {ref(0): Maker("a", ((ref(1), 1),)), ref(1): Maker("b", ((ref(0), 1),))}
    with pytest.raises(ValueError, match="its own ancestor"):
        lineage_shares(ref(0), circle)
    with pytest.raises(ValueError, match="not known"):
        lineage_shares(ref(0), {ref(0): circle[ref(0)]})


def registered(number: int, parents: tuple[Parent, ...] = (), owner: str = "") -> Registered:
    version = Version(*ref(number), "00" * 32, ("chat",), 1, parents=parents)
    return Registered(version, digest(version), "", owner, AT)


def child_of(*parents: Registered, share_bps: int = 10) -> Version:
    named = tuple(Parent(*parent.version.ref, share_bps, parent.digest) for parent in parents)
    return Version("m", "child", "00" * 32, ("chat",), 1, parents=named)


def test_parents_must_be_registered_as_named() -> None:
    one, other = registered(1), registered(2)
    check_lineage(child_of(one), "", {one.version.ref: one})
    with pytest.raises(InvalidRequest, match="not registered"):
        check_lineage(child_of(one), "", {})
    with pytest.raises(InvalidRequest, match="the digest"):
        check_lineage(child_of(one), "", {one.version.ref: other})


def test_a_lineage_is_bounded_in_depth() -> None:
    known: dict[Ref, Registered] = {}
    last = registered(0)
    for number in range(1, MAX_DEPTH + 1):
        known[last.version.ref] = last
        check_lineage(child_of(last), "", known)
        last = registered(number, (Parent(*last.version.ref, 1, last.digest),))
    known[last.version.ref] = last
    with pytest.raises(InvalidRequest, match="generations"):
        check_lineage(child_of(last), "", known)


def test_a_lineage_is_bounded_in_owners() -> None:
    makers = [registered(number, owner=f"owner {number}") for number in range(MAX_ROYALTIES + 1)]
    middle = registered(100, tuple(Parent(*each.version.ref, 100, each.digest) for each in makers[1:]), "owner 0")
    known = {each.version.ref: each for each in (*makers, middle)}
    with pytest.raises(InvalidRequest, match="owners upstream"):
        check_lineage(child_of(middle, share_bps=9000), "", known)
    check_lineage(child_of(middle, share_bps=9000), "owner 0", known)
