"""The snapshot for decisions: every way to name a model, the shares of a release, and numbers that fit the targets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.asks import target

from prsm.agents.call import Target
from prsm.agents.rollouts.assignment import place
from prsm.agents.routers.model_router import AUTO, Health, Question, Release, Roster, rank, roster
from prsm.agents.routers.roster import released, scope_of
from prsm.core.errors import Kind, PrsmError

CHAT = Question(frozenset({"chat"}), "hello", 100, 200)
NAMES = [f"{provider}/{model}" for provider in "abc" for model in "xyz"]


def instance(name: str, model: str = "m", version: str = "") -> Target:
    return target(name, model=model, version=version)


def named(models: Roster, asked: str, sticky: UUID | None = None) -> list[str]:
    found = rank(asked, replace(CHAT, sticky=sticky), models, {}, lambda _: Health())
    return sorted(candidate.target.name for candidate in found)


def known(targets: Sequence[Target], *releases: Release) -> Roster:
    return roster(targets, releases)


THREE = (instance("a/x", version="1"), instance("b/y", version="2"), instance("c/z", version="3"))


def test_a_model_is_named_by_itself_its_versions_and_its_aliases() -> None:
    models = known(THREE, Release("m", stable="1", candidate="2", aliases={"old": "3"}))
    assert named(models, "m") == ["a/x"]
    assert named(models, "m@stable") == named(models, "m@1") == ["a/x"]
    assert named(models, "m@candidate") == named(models, "m@2") == ["b/y"]
    assert named(models, "m@old") == named(models, "m@3") == ["c/z"]
    assert named(models, "c/z") == named(models, "z") == ["c/z"]


def test_a_model_without_a_release_means_all_its_instances() -> None:
    assert named(known(THREE), "m") == ["a/x", "b/y", "c/z"]
    assert named(known(THREE), "m@2") == ["b/y"]


def test_an_instance_that_names_no_version_answers_for_what_is_stable() -> None:
    models = known([instance("a/x"), instance("b/y", version="2")], Release("m", stable="1", candidate="2"))
    assert named(models, "m") == named(models, "m@1") == named(models, "m@stable") == ["a/x"]


def test_where_nothing_serves_what_is_stable_whatever_is_no_candidate_answers() -> None:
    assert named(known(THREE, Release("m", stable="9", candidate="2")), "m") == ["a/x", "c/z"]


def test_a_model_that_has_only_a_candidate_is_offered_by_its_full_name_alone() -> None:
    models = known([instance("a/x", version="2")], Release("m", candidate="2"))
    with pytest.raises(PrsmError, match="No version of m is offered to all") as raised:
        named(models, "m")
    assert raised.value.code == "model_not_offered"
    assert named(models, "m@candidate") == ["a/x"]
    with pytest.raises(PrsmError):
        named(models, AUTO)


def test_an_unknown_version_is_refused_with_those_there_are() -> None:
    models = known(THREE, Release("m", stable="1"))
    for asked in ("m@9", "m@candidate", "m@"):
        with pytest.raises(PrsmError) as raised:
            named(models, asked)
        assert (raised.value.kind, raised.value.code) == (Kind.NOT_FOUND, "model_not_found")
        assert "1, 2, 3" in raised.value.remedy


def test_a_name_with_an_at_sign_of_its_own_is_that_name() -> None:
    models = known([instance("v/claude@2024", model=""), instance("w/other", model="claude", version="2024")])
    assert named(models, "v/claude@2024") == ["v/claude@2024"]
    assert named(models, "claude@2024") == ["v/claude@2024"]


def test_a_misspelt_aim_is_refused_with_the_four_there_are() -> None:
    with pytest.raises(PrsmError) as raised:
        named(known(THREE), "auto:chaep")
    assert all(aim in raised.value.remedy for aim in ("auto:cheap", "auto:best", "auto:fast"))


@pytest.mark.parametrize("asked", ["m", AUTO])
def test_a_candidate_gets_its_share_of_sessions_and_each_session_always_the_same(asked: str) -> None:
    stable, candidate = instance("a/x", version="1"), instance("b/y", version="2")
    models = known([stable, candidate], Release("m", stable="1", candidate="2", candidate_bps=2500))
    first: Counter[str] = Counter()
    for number in range(400):
        session = UUID(int=number)
        found = rank(asked, replace(CHAT, sticky=session), models, {}, lambda _: Health())
        assert found == rank(asked, replace(CHAT, sticky=session), models, {}, lambda _: Health())
        name = found[0].target.name
        assert (name == "b/y") == (place("m@2", str(session)) < 2500)
        # A session of the candidate's falls back on what is stable; one of the others never meets the candidate.
        assert [each.target.name for each in found] == (["b/y", "a/x"] if name == "b/y" else ["a/x"])
        first[name] += 1
    assert 60 < first["b/y"] < 140


def test_a_resting_candidate_gives_way_to_what_is_stable() -> None:
    stable, candidate = instance("a/x", version="1"), instance("b/y", version="2")
    models = known([stable, candidate], Release("m", stable="1", candidate="2", candidate_bps=10_000))
    resting = {"b/y": Health(resting=True)}
    found = rank("m", replace(CHAT, sticky=UUID(int=1)), models, {}, lambda name: resting.get(name, Health()))
    assert [each.target.name for each in found] == ["a/x", "b/y"]


targets = st.lists(
    st.builds(
        lambda name, price, able, context, region: target(
            name, price_in=price, capabilities=able, context_tokens=context, region=region, model="m"
        ),
        st.sampled_from(NAMES),
        st.integers(0, 10**9),
        st.frozensets(st.sampled_from(["chat", "tools", "vision"]), min_size=1),
        st.integers(1, 10**6),
        st.sampled_from(["", "eu", "us"]),
    ),
    unique_by=lambda each: each.name,
)


@given(targets)
def test_a_row_says_of_its_instance_what_the_target_says(given_targets: list[Target]) -> None:
    models = roster(given_targets)
    columns = models.columns
    assert [each.name for each in models.targets] == sorted(each.name for each in given_targets)
    for row, each in enumerate(models.targets):
        assert models.row_of[each.name] == row == columns.row[row]
        assert columns.input_price[row] == each.input_price_micro
        assert columns.context[row] == each.context_tokens
        assert models.providers[columns.provider[row]] == each.provider
        assert models.regions[columns.region[row]] == each.region
        assert models.models[columns.model[row]] == "m"
        assert {name for name, bit in models.capabilities.items() if columns.able[row] & bit} == each.capabilities
    scope = scope_of(models, "m")
    assert (scope is None) == (not given_targets)
    assert scope is None or scope.columns.row.tolist() == columns.row.tolist()


several = st.lists(
    st.builds(
        lambda name, model, version: target(name, model=model, version=version),
        st.sampled_from(NAMES),
        st.sampled_from("mn"),
        st.sampled_from(["", "1", "2"]),
    ),
    unique_by=lambda each: each.name,
)
release_of_m = st.builds(
    lambda stable, candidate, bps: Release("m", stable=stable, candidate=candidate, candidate_bps=bps),
    st.sampled_from(["", "1", "2"]),
    st.sampled_from(["", "1", "2"]),
    st.sampled_from([0, 2500]),
)


@given(several, release_of_m, release_of_m)
def test_a_changed_release_gives_what_making_all_anew_gives(
    given_targets: list[Target], before: Release, after: Release
) -> None:
    other = Release("n", stable="1", candidate="2", candidate_bps=100)
    earning = [replace(each, owner_account="new") if each.model == "m" else each for each in given_targets]
    changed = released(known(given_targets, before, other), [each for each in earning if each.model == "m"], [after])
    anew = known(earning, after, other)
    for each in fields(Roster):
        if each.name not in ("columns", "of_model"):
            assert getattr(changed, each.name) == getattr(anew, each.name), each.name
    for each in fields(anew.columns):
        assert getattr(changed.columns, each.name).tolist() == getattr(anew.columns, each.name).tolist(), each.name
