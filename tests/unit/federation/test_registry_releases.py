"""Releases under any sequence of changes: what their names mean is always offered, and a rollback comes back."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prsm.core.errors import InvalidRequest, PrsmError
from prsm.federation.registry.lifecycle import OFFERED, Limits, State, Status
from prsm.federation.registry.releases import (
    MAX_ALIASES,
    MAX_FORMER,
    Release,
    Standing,
    aliased,
    entered,
    limited,
    promoted,
    rolled_back,
    shared,
    shifted,
    withdrawn,
)

AT = datetime(2026, 6, 1, tzinfo=UTC)
LABELS = [f"v{number}" for number in range(6)]
ALL = frozenset(LABELS)
NOTHING = Standing(Release("m"), {})

labels = st.sampled_from(LABELS)


def standing(**states: str) -> Standing:
    """Versions in these states; the candidate is the release's, and so is the one live version."""
    statuses = {label: Status(State(state), AT) for label, state in states.items()}
    named = {state: next((v for v, s in states.items() if s == state), "") for state in ("live", "candidate")}
    return Standing(Release("m", named["live"], named["candidate"]), statuses)


class Releases(RuleBasedStateMachine):
    """Any admin does anything; what is refused changes nothing, what is done leaves the invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOTHING

    @rule(label=labels)
    def register(self, label: str) -> None:
        if label not in self.now.statuses:
            self.now = entered(self.now, label, AT)

    @rule(label=labels, to=st.sampled_from(State))
    def shift(self, label: str, to: State) -> None:
        try:
            self.now = shifted(self.now, label, to, AT, "")
        except PrsmError:
            return
        assert self.now.statuses[label].state is to is not State.LIVE

    @rule(label=labels, served=st.sets(labels))
    def promote(self, label: str, served: set[str]) -> None:
        before = self.now
        try:
            self.now = promoted(before, label, frozenset(served), AT, "")
        except PrsmError:
            return
        assert label in served
        assert self.now.release.stable == label
        assert not before.release.stable or self.now.release.former[-1] == before.release.stable
        # Who was stable answers on: those who name it are not let down.
        assert not before.release.stable or self.now.statuses[before.release.stable].state in OFFERED

    @rule(served=st.sets(labels), away_from=st.none() | labels)
    def roll_back(self, served: set[str], away_from: str | None) -> None:
        before = self.now
        try:
            self.now = rolled_back(before, away_from or "", frozenset(served), AT, "worse")
        except PrsmError:
            return
        release = self.now.release
        assert release.stable in served
        assert release.stable in before.release.former
        assert self.now.statuses[before.release.stable].state is State.DEPRECATED
        assert len(release.former) < len(before.release.former)

    @rule(alias=st.sampled_from(["nightly", "v1", "old"]), label=labels | st.just(""))
    def alias(self, alias: str, label: str) -> None:
        try:
            self.now = aliased(self.now, alias, label)
        except PrsmError:
            return
        assert self.now.release.aliases.get(alias, "") == label

    @rule(candidate=st.integers(0, 10_000), shadow=st.integers(0, 10_000))
    def share(self, candidate: int, shadow: int) -> None:
        try:
            self.now = shared(self.now, candidate, shadow)
        except PrsmError:
            assert not self.now.release.candidate

    @precondition(lambda self: self.now.release.candidate)
    @rule()
    def withdraw(self) -> None:
        label = self.now.release.candidate
        self.now = withdrawn(self.now, label, AT, "it was worse")
        assert self.now.statuses[label].state is State.DRAFT
        assert withdrawn(self.now, label, AT, "again") == self.now

    @invariant()
    def what_names_mean_is_offered(self) -> None:
        release, statuses = self.now.release, self.now.statuses
        candidates = [label for label, status in statuses.items() if status.state is State.CANDIDATE]
        assert candidates == ([release.candidate] if release.candidate else [])
        if release.stable:
            assert statuses[release.stable].state in (State.LIVE, State.DEPRECATED)
        assert all(statuses[label].state in OFFERED for label in release.aliases.values())
        assert not release.aliases.keys() & statuses.keys()
        assert release.candidate or not release.candidate_bps + release.shadow_bps
        assert release.stable not in release.former
        assert len(set(release.former)) == len(release.former) <= MAX_FORMER
        assert all(statuses[label].state in (State.LIVE, State.DEPRECATED) for label in release.former)


Releases.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestReleases = Releases.TestCase


def refused(code: str) -> "pytest.RaisesExc[PrsmError]":
    return pytest.RaisesExc(PrsmError, check=lambda error: error.code == code)


def test_a_candidate_goes_live_and_comes_back_by_one_rollback() -> None:
    first = shared(standing(v0="live", v1="candidate"), 500, 1000)
    second = promoted(first, "v1", ALL, AT, "better")
    assert (second.release.stable, second.release.candidate, second.release.candidate_bps) == ("v1", "", 0)
    assert second.release.former == ("v0",)
    back = rolled_back(second, "v1", ALL, AT, "slower")
    assert (back.release.stable, back.release.former) == ("v0", ())
    assert (back.statuses["v1"].state, back.statuses["v1"].reason) == (State.DEPRECATED, "slower")
    again = promoted(back, "v1", ALL, AT, "it was the network")
    assert again.release.stable == "v1"
    assert again.statuses["v1"].state is State.LIVE


def test_what_nobody_serves_is_not_promoted_and_not_rolled_back_to() -> None:
    now = standing(v0="live", v1="candidate", v2="draft")
    with refused("not_served"):
        promoted(now, "v1", frozenset({"v0"}), AT, "")
    with refused("state_not_reachable"):
        promoted(now, "v2", ALL, AT, "")
    third = promoted(shifted(promoted(now, "v1", ALL, AT, ""), "v2", State.CANDIDATE, AT, ""), "v2", ALL, AT, "")
    assert rolled_back(third, "", frozenset({"v0", "v2"}), AT, "").release.stable == "v0"
    with refused("no_former_version"):
        rolled_back(third, "", frozenset({"v2"}), AT, "")


def test_two_who_roll_back_at_once_go_back_one_step() -> None:
    now = standing(v0="live", v1="candidate")
    now = promoted(promoted(now, "v1", ALL, AT, ""), "v0", ALL, AT, "")
    now = promoted(now, "v1", ALL, AT, "")
    once = rolled_back(now, "v1", ALL, AT, "")
    with refused("release_moved"):
        rolled_back(once, "v1", ALL, AT, "")


def test_a_new_candidate_takes_the_place_and_not_the_share() -> None:
    now = shared(standing(v0="live", v1="candidate", v2="draft"), 500, 0)
    now = shifted(now, "v2", State.CANDIDATE, AT, "")
    assert (now.release.candidate, now.release.candidate_bps) == ("v2", 0)
    assert now.statuses["v1"].state is State.DRAFT


def test_a_live_version_is_deprecated_first_and_loses_its_names_when_it_retires() -> None:
    now = aliased(standing(v0="live"), "nightly", "v0")
    with refused("state_not_reachable"):
        shifted(now, "v0", State.RETIRED, AT, "")
    now = shifted(now, "v0", State.DEPRECATED, AT, "")
    assert (now.release.stable, now.release.aliases) == ("v0", {"nightly": "v0"})
    now = shifted(now, "v0", State.RETIRED, AT, "")
    assert (now.release.stable, now.release.aliases) == ("", {})


def test_aliases_name_what_is_offered_and_are_no_version() -> None:
    now = standing(v0="live", v1="draft")
    for alias in ("stable", "candidate", "Upper", "", "a@b"):
        with pytest.raises(InvalidRequest):
            aliased(now, alias, "v0")
    with refused("not_offered"):
        aliased(now, "new", "v1")
    with refused("alias_taken"):
        aliased(now, "v1", "v0")
    with refused("unknown_version"):
        aliased(now, "new", "v9")
    full = replace(now, release=replace(now.release, aliases={f"a{n}": "v0" for n in range(MAX_ALIASES)}))
    with pytest.raises(InvalidRequest, match="at most"):
        aliased(full, "new", "v0")
    with refused("alias_taken"):
        entered(aliased(now, "v7", "v0"), "v7", AT)


def test_a_release_without_a_candidate_shares_nothing() -> None:
    with refused("no_candidate"):
        shared(standing(v0="live"), 1, 0)
    with pytest.raises(InvalidRequest):
        shared(standing(v0="live", v1="candidate"), 10_001, 0)
    with refused("promote_instead"):
        shifted(standing(v1="candidate"), "v1", State.LIVE, AT, "")
    with refused("no_candidate"):
        promoted(standing(v0="live"), "", ALL, AT, "")


def test_limits_are_a_versions_own() -> None:
    now = limited(standing(v0="live"), "v0", Limits(error_bps=100))
    assert shifted(now, "v0", State.DEPRECATED, AT, "").statuses["v0"].limits == Limits(error_bps=100)
    with refused("unknown_version"):
        limited(now, "v9", Limits())


def test_a_name_means_what_the_release_says() -> None:
    release = Release("m", "v0", "v1", aliases={"old": "v9"})
    assert [release.meaning(label) for label in ("stable", "candidate", "old", "v5")] == ["v0", "v1", "v9", "v5"]
    assert Release("m").meaning("stable") == ""
