"""Selection: nobody whom the policy forbids, the best by the caller's aim, one order for one input, true reasons."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.asks import target

from prsm.agents.call import Target
from prsm.agents.routers.explain import explanation
from prsm.agents.routers.model_router import AUTO, Candidate, Health, Question, Rates, Router, candidates, rank, roster
from prsm.agents.routers.policy import AIMS, Policy
from prsm.agents.routers.quality import Item
from prsm.agents.routers.weighing import terms_of
from prsm.core.errors import Kind, PrsmError

CHAT = Question(frozenset({"chat"}), "prove it", 100, 200)
WELL: Mapping[str, Health] = {}
CHEAP, BEST, FAST = "auto:cheap", "auto:best", "auto:fast"


class Opinions:
    """A QualityBoard with fixed chances, and other ones for a Thompson draw; counts the prompts it read."""

    def __init__(self, chances: Mapping[str, float], drawn: Mapping[str, float] | None = None) -> None:
        self._chances = chances
        self._drawn = drawn or chances
        self._models: tuple[str, ...] = ()
        self.read: list[str] = []

    def follow(self, models: Sequence[str]) -> None:
        self._models = tuple(models)

    async def item(self, text: str) -> Item:
        self.read.append(text)
        return Item(0.0, 1.0, 0)

    @property
    def usual(self) -> npt.NDArray[np.float64]:
        return self.chances(Item(0.0, 1.0, 0), explore=False)

    def chances(self, item: Item, *, explore: bool) -> npt.NDArray[np.float64]:
        of = self._drawn if explore else self._chances
        return np.array([of.get(model, 0.5) for model in self._models])


def model(name: str, price: int = 1_000_000, **values: Any) -> Target:
    return target(name, price_in=price, price_out=price, **values)


def router(
    targets: Sequence[Target],
    board: Opinions | None = None,
    health: Mapping[str, Health] = WELL,
    **values: Any,
) -> Router:
    made = Router({"sums": lambda text: "+" in text}, lambda name: health.get(name, Health()), board=board, **values)
    made.models = roster(targets)
    return made


def names(found: Sequence[Candidate]) -> list[str]:
    return [candidate.target.name for candidate in found]


def refused(call: Callable[[], object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        call()
    return raised.value


def ranked(targets: Sequence[Target], question: Question, asked: str = AUTO) -> list[Candidate]:
    return rank(asked, question, roster(targets), {}, lambda _: Health())


def policed(targets: Sequence[Target], asked: str = AUTO, **limits: Any) -> list[str]:
    return names(ranked(targets, replace(CHAT, policy=Policy(**limits)), asked))


# ---------------------------------------------------------------- the policy


def test_each_limit_of_a_policy_takes_away_whom_it_forbids() -> None:
    free = model("a/free", 0, region="eu-west-1", licence="MIT")
    dear = model("b/dear", 9_000_000, region="us-east-1", licence="proprietary", capabilities=frozenset({"chat", "v"}))
    silent = model("c/silent", 5_000_000)
    three = [free, dear, silent]
    assert policed(three, max_input_price_micro=5_000_000) == ["a/free", "c/silent"]
    assert policed(three, max_output_price_micro=4_999_999) == ["a/free"]
    assert policed(three, max_expected_micro=1500) == ["a/free", "c/silent"]
    assert policed(three, max_expected_micro=1499) == ["a/free"]
    assert policed(three, regions=("eu",)) == ["a/free"]
    assert policed(three, regions=("US-EAST-1", "eu-west-1")) == ["a/free", "b/dear"]
    assert policed(three, licences=("mit",)) == ["a/free"]
    assert policed(three, allow_providers=("c", "b")) == ["c/silent", "b/dear"]
    assert policed(three, deny_providers=("a", "c")) == ["b/dear"]
    assert policed(three, capabilities=("v",)) == ["b/dear"]


def test_a_region_is_its_name_or_what_is_inside_it_and_no_mere_beginning() -> None:
    assert policed([model("a/x", region="europe"), model("b/x", region="eu")], regions=("eu",)) == ["b/x"]


def test_a_policy_holds_for_named_models_too() -> None:
    two = [model("a/m", 9_000_000), model("b/m", 1)]
    assert policed(two, "m", max_input_price_micro=10) == ["b/m"]
    error = refused(lambda: policed(two, "a/m", max_input_price_micro=10))
    assert (error.code, error.kind, error.param) == (
        "policy_too_narrow", Kind.UNPROCESSABLE, "prsm.max_input_price_micro"
    )  # fmt: skip


def test_a_policy_that_leaves_nobody_is_refused_with_what_took_how_many_and_what_to_relax() -> None:
    three = [model("a/x", 1, region="us"), model("b/x", 9, region="us"), model("c/x", 9, region="eu")]
    error = refused(lambda: policed(three, max_output_price_micro=5, regions=("eu",)))
    assert error.message == (
        "No model is within the policy: of 3 able models prsm.max_output_price_micro forbids 2, prsm.regions forbids "
        "2; none is left."
    )
    assert error.remedy.startswith("Relax prsm.")
    assert "1 would be left without it" in error.remedy
    several = refused(lambda: policed(three, max_output_price_micro=0, regions=("asia",)))
    assert several.remedy.startswith("Relax several")
    assert "The lowest is 1." in several.remedy
    assert "eu, us" in several.remedy


def test_without_models_a_spend_cap_changes_nothing_of_the_refusal() -> None:
    assert refused(lambda: ranked([], replace(CHAT, cap_micro=1000))).code == "no_able_model"


def test_what_the_cap_does_not_pay_gives_way_to_what_it_does() -> None:
    three = [model("a/dear", 10**9), model("b/cheap", 10**6), model("c/mid", 10**8)]
    question = replace(CHAT, cap_micro=1000, held_input_tokens=400)
    for aim in AIMS:
        assert names(ranked(three, question, aim)) == ["b/cheap"]
    # Where no expected answer is paid for, those stay whose shortest is; where not even that is, the quote will say so.
    assert names(ranked(three, replace(question, cap_micro=401))) == ["b/cheap"]
    assert len(ranked(three, replace(question, cap_micro=1))) == 3


# ---------------------------------------------------------------- quality, price, time


async def test_the_aims_trade_quality_for_price_as_they_say() -> None:
    board = Opinions({"weak": 0.60, "good": 0.80, "great": 0.81})
    three = [model("a/weak", 100_000), model("b/good", 10_000_000), model("c/great", 90_000_000)]
    decide = router(three, board)
    assert names(await decide.rank(CHEAP, CHAT)) == ["a/weak", "b/good", "c/great"]
    assert names(await decide.rank(AUTO, CHAT)) == ["b/good", "a/weak", "c/great"]
    assert names(await decide.rank(BEST, CHAT)) == ["c/great", "b/good", "a/weak"]
    dearer = replace(CHAT, policy=Policy(answer_value_micro=100_000_000))
    assert names(await decide.rank(AUTO, dearer))[0] == "c/great"
    assert names(await router(three, board, rates=Rates(answer_micro_per_mtok=0)).rank(AUTO, CHAT))[0] == "a/weak"


async def test_fast_pays_for_time_and_takes_the_unmeasured_for_usual() -> None:
    health = {"a/slow": Health(False, 900, 20), "b/swift": Health(False, 90, 200)}
    three = [model("a/slow", 0), model("b/swift", 20_000_000), model("c/new", 0)]
    decide = router(three, health=health)
    assert names(await decide.rank(AUTO, CHAT)) == ["c/new", "a/slow", "b/swift"]
    assert names(await decide.rank(FAST, CHAT)) == ["b/swift", "c/new", "a/slow"]


async def test_an_instance_that_often_fails_counts_as_slower() -> None:
    shaky = {"a/x": Health(first_token_ms=100, availability=0.5), "b/x": Health(first_token_ms=150)}
    assert names(await router([model("a/x"), model("b/x")], health=shaky).rank(FAST, CHAT)) == ["b/x", "a/x"]


async def test_a_least_quality_is_kept_also_by_a_named_model() -> None:
    board = Opinions({"weak": 0.4, "good": 0.8})
    decide = router([model("a/weak", 1), model("b/good", 9)], board)
    strict = replace(CHAT, policy=Policy(min_quality=0.5))
    assert names(await decide.rank(CHEAP, strict)) == ["b/good"]
    for asked, least in (("a/weak", 0.5), ("weak", 0.5), (AUTO, 0.9)):
        with pytest.raises(PrsmError) as raised:
            await decide.rank(asked, replace(CHAT, policy=Policy(min_quality=least)))
        assert (raised.value.code, raised.value.param) == ("policy_too_narrow", "prsm.min_quality")
    assert "The highest chance here is 0.8." in raised.value.remedy


async def test_a_least_quality_is_refused_where_quality_is_not_known() -> None:
    strict = replace(CHAT, policy=Policy(min_quality=0.5))
    embedding = Question(frozenset({"embeddings"}), "", 5, 0, policy=Policy(min_quality=0.5))
    able = model("a/x", capabilities=frozenset({"chat", "embeddings"}))
    for decide, question in ((router([able]), strict), (router([able], Opinions({})), embedding)):
        with pytest.raises(PrsmError) as raised:
            await decide.rank(AUTO, question)
        assert (raised.value.code, raised.value.param) == ("no_quality_estimate", "prsm.min_quality")


async def test_no_prompt_is_read_where_that_could_change_nothing() -> None:
    board = Opinions({"weak": 0.4, "good": 0.8})
    two = [model("a/weak"), model("b/good")]
    sums = model("x/sums", 10**9, domain="sums")
    decide = router([*two, model("c/good"), sums], board)
    await decide.rank("a/weak", CHAT)
    await decide.rank("good", CHAT)
    await decide.rank(AUTO, replace(CHAT, text="1 + 1"))
    await decide.rank(AUTO, replace(CHAT, text=""))
    await decide.rank(AUTO, replace(CHAT, policy=Policy(deny_providers=("a",))))
    await router(two, Opinions({})).rank(AUTO, CHAT)
    assert board.read == []
    await decide.rank(AUTO, CHAT)
    assert board.read == ["prove it"]


async def test_nobody_is_read_for_where_all_are_thought_equally_good() -> None:
    board = Opinions({"weak": 0.7, "good": 0.7})
    assert names(await router([model("a/weak", 2), model("b/good", 1)], board).rank(AUTO, CHAT)) == ["b/good", "a/weak"]
    assert board.read == []


async def test_a_cheap_answer_may_pass_a_specialist_by_and_a_balanced_one_not() -> None:
    decide = router([model("x/sums", 10**9, domain="sums"), model("a/all", 10)])
    question = replace(CHAT, text="1 + 1")
    assert names(await decide.rank(AUTO, question)) == ["x/sums", "a/all"]
    assert names(await decide.rank(CHEAP, question)) == ["a/all", "x/sums"]


async def test_reasons_name_the_place_the_chance_the_price_and_the_time() -> None:
    board = Opinions({"weak": 0.6, "good": 0.9})
    health = {"b/good": Health(first_token_ms=500, tokens_per_s=100)}
    found = await router([model("a/weak", 1_000_000), model("b/good", 2_000_000)], board, health).rank(BEST, CHAT)
    assert found[0].reason == (
        "number 1 of 2 able models for auto:best: a good answer with chance 0.90, 0.0006 FTNS, about 2.5 s"
    )
    assert found[1].reason == "number 2 of 2 able models for auto:best: a good answer with chance 0.60, 0.0003 FTNS"


# ---------------------------------------------------------------- exploring


async def test_exploring_tries_one_that_may_be_better_and_says_so() -> None:
    board = Opinions({"known": 0.80, "new": 0.75}, drawn={"known": 0.80, "new": 0.95})
    decide = router([model("a/known"), model("b/new")], board, explore_bps=10_000)
    found = await decide.rank(AUTO, CHAT)
    assert names(found) == ["b/new", "a/known"]
    assert found[0].reason.startswith("tried to learn more of it: a good answer with chance 0.75")
    assert candidates(await decide.decide(AUTO, CHAT, explore=False))[0].target.name == "a/known"


async def test_exploring_never_tries_one_that_another_clearly_beats_nor_one_above_the_price() -> None:
    drawn = {"known": 0.1, "beaten": 1.0, "dear": 1.0}
    board = Opinions({"known": 0.80, "beaten": 0.60, "dear": 0.80}, drawn)
    three = [model("a/known"), model("b/beaten"), model("c/dear", 2_000_000)]
    decide = router(three, board, explore_bps=10_000)
    assert names(await decide.rank(AUTO, CHAT))[0] == "c/dear"
    limited = replace(CHAT, policy=Policy(max_input_price_micro=1_000_000))
    assert names(await decide.rank(AUTO, limited)) == ["a/known", "b/beaten"]


async def test_the_share_of_exploring_is_the_setting() -> None:
    board = Opinions({"known": 0.80, "new": 0.75}, drawn={"known": 0.80, "new": 0.95})
    numbers = iter(number / 1000 for number in range(1000))
    decide = router([model("a/known"), model("b/new")], board, explore_bps=500, chance=lambda: next(numbers))
    tried = [names(await decide.rank(AUTO, CHAT))[0] for _ in range(1000)]
    assert tried.count("b/new") == 50


# ---------------------------------------------------------------- instances of one model


async def test_among_equal_instances_of_the_first_model_the_balancer_decides() -> None:
    offered: list[list[str]] = []

    def last_first(targets: Sequence[Target]) -> list[Target]:
        offered.append([each.name for each in targets])
        return list(reversed(targets))

    same = [model(f"p{number}/i{number}", model="m") for number in range(5)]
    dearer = model("q/dearer", 3_000_000, model="m")
    health = {"p4/i4": Health(resting=True)}
    decide = router([*same, dearer, model("z/other", 9_000_000)], health=health, order=last_first)
    assert names(await decide.rank(AUTO, CHAT)) == ["p3/i3", "p1/i1", "p2/i2"]
    assert offered == [["p0/i0", "p1/i1", "p2/i2", "p3/i3"]]
    assert names(await decide.rank("m", CHAT))[0] == "p3/i3"


async def test_three_tries_are_of_three_providers_where_there_are_three() -> None:
    many = [model(f"a/m{number}", number) for number in range(9)] + [model("b/x", 10**7), model("c/x", 10**8)]
    assert names(await router(many).rank(AUTO, CHAT)) == ["a/m0", "b/x", "c/x"]


async def test_one_of_a_large_roster_that_has_begun_to_rest_is_not_asked() -> None:
    health: dict[str, Health] = {}
    decide = router([model(f"p{number}/m{number}", number) for number in range(200)], health=health)
    question = replace(CHAT, input_tokens=10**6)
    assert names(await decide.rank(AUTO, question)) == ["p0/m0", "p1/m1", "p2/m2"]
    health |= {f"p{number}/m{number}": Health(resting=True) for number in range(10)}
    assert names(await decide.rank(AUTO, question)) == ["p10/m10", "p11/m11", "p12/m12"]
    health.clear()
    await decide.refresh()
    assert names(await decide.rank(AUTO, question)) == ["p0/m0", "p1/m1", "p2/m2"]


async def test_what_is_known_of_an_instance_goes_with_it_to_the_next_roster() -> None:
    health = {"p0/m0": Health(resting=True)}
    many = [model(f"p{number}/m{number}", number) for number in range(200)]
    decide = router(many, health=health)
    question = replace(CHAT, input_tokens=10**6)
    await decide.refresh()
    decide.models = roster([*many, model("a/first", 10**9)])
    assert decide._vitals.of(decide.models, decide.models.columns).resting.sum() == 1
    assert names(await decide.rank(AUTO, question))[0] == "p1/m1"


class Replaced(Opinions):
    """Has the roster replaced while a prompt is read."""

    def __init__(self, chances: Mapping[str, float]) -> None:
        super().__init__(chances)
        self.replace: Callable[[], None] | None = None

    async def item(self, text: str) -> Item:
        if self.replace:
            self.replace()
        return await super().item(text)


async def test_a_roster_that_is_replaced_while_the_prompt_is_read_is_the_one_that_counts() -> None:
    board = Replaced({"weak": 0.4, "good": 0.8, "new": 0.9})
    decide = router([model("a/weak"), model("b/good")], board)

    def change() -> None:
        decide.models = roster([model("a/weak"), model("c/new"), model("d/weak")])

    board.replace = change
    assert names(await decide.rank(AUTO, CHAT))[0] == "c/new"


# ---------------------------------------------------------------- laws

regions = st.sampled_from(["", "eu", "eu-west-1", "us"])
licences = st.sampled_from(["", "MIT", "proprietary"])
prices = st.integers(0, 8).map(lambda price: price * 500_000)
able = st.frozensets(st.sampled_from(["chat", "tools", "vision"]), min_size=1)
many = st.lists(
    st.builds(
        lambda provider, number, price_in, price_out, held, region, licence, context: target(
            f"{provider}/{number}",
            price_in=price_in,
            price_out=price_out,
            capabilities=held,
            region=region,
            licence=licence,
            context_tokens=context,
            model=f"m{number % 3}",
        ),
        st.sampled_from("abcd"),
        st.integers(0, 6),
        prices,
        prices,
        able,
        regions,
        licences,
        st.sampled_from([100, 1000, 100_000]),
    ),
    unique_by=lambda each: each.name,
    max_size=12,
)
some = st.lists(st.sampled_from("abcd"), max_size=2, unique=True).map(tuple)
policies = st.builds(
    Policy,
    max_input_price_micro=st.none() | prices,
    max_output_price_micro=st.none() | prices,
    max_expected_micro=st.none() | st.integers(0, 1000),
    min_quality=st.none() | st.floats(0, 1),
    answer_value_micro=st.none() | st.integers(0, 10**6),
    regions=st.lists(st.sampled_from(["eu", "us"]), max_size=2).map(tuple),
    licences=st.lists(st.sampled_from(["mit", "Proprietary"]), max_size=2).map(tuple),
    allow_providers=some,
    deny_providers=some,
    capabilities=st.lists(st.sampled_from(["tools", "vision"]), max_size=1).map(tuple),
)
chances = st.fixed_dictionaries({f"m{number}": st.floats(0, 1) for number in range(3)})
aims = st.sampled_from(sorted(AIMS))
needs = st.sampled_from([frozenset({"chat"}), frozenset({"chat", "tools"}), frozenset({"chat", "vision"})])


def allows(policy: Policy, one: Target, question: Question, chance: float) -> bool:
    """The policy in plain words."""
    cost = (question.input_tokens * one.input_price_micro + question.output_tokens * one.output_price_micro) / 10**6
    region = one.region.lower()
    return (
        (policy.max_input_price_micro is None or one.input_price_micro <= policy.max_input_price_micro)
        and (policy.max_output_price_micro is None or one.output_price_micro <= policy.max_output_price_micro)
        and (policy.max_expected_micro is None or cost <= policy.max_expected_micro)
        and (policy.min_quality is None or chance >= policy.min_quality)
        and (not policy.regions or any(region == each or region.startswith(f"{each}-") for each in policy.regions))
        and (not policy.licences or one.licence.lower() in [each.lower() for each in policy.licences])
        and (not policy.allow_providers or one.provider in policy.allow_providers)
        and one.provider not in policy.deny_providers
        and set(policy.capabilities) <= one.capabilities
    )


@given(many, policies, chances, aims, needs, st.booleans(), st.sampled_from([0, 500]))
async def test_nobody_answers_whom_the_policy_the_question_or_the_room_forbids(
    targets: list[Target],
    policy: Policy,
    chance: dict[str, float],
    aim: str,
    wanted: frozenset[str],
    explore: bool,
    tokens: int,
) -> None:
    question = replace(CHAT, needs=wanted, policy=policy, least_tokens=tokens, most_tokens=tokens)
    decide = router(targets, Opinions(chance), explore_bps=10_000 if explore else 0)
    fit = [
        one
        for one in targets
        if wanted <= one.capabilities
        and one.context_tokens >= tokens
        and allows(policy, one, question, chance[one.model])
    ]
    if not fit:
        with pytest.raises(PrsmError) as raised:
            await decide.rank(aim, question)
        assert raised.value.kind in (Kind.INVALID, Kind.UNPROCESSABLE)
        return
    found = await decide.rank(aim, question)
    assert {each.target.name for each in found} <= {one.name for one in fit}
    assert len(found) == min(3, len(fit))


@given(many, policies, chances, aims, st.randoms(use_true_random=False))
async def test_one_input_gives_one_order_and_explaining_gives_the_same(
    targets: list[Target], policy: Policy, chance: dict[str, float], aim: str, random: Any
) -> None:
    question = replace(CHAT, policy=policy)
    shuffled = list(targets)
    random.shuffle(shuffled)
    once, decide = router(targets, Opinions(chance)), router(shuffled, Opinions(chance))
    try:
        found = await once.rank(aim, question)
    except PrsmError as refusal:
        with pytest.raises(PrsmError, match=f"^{re.escape(str(refusal))}$"):
            await decide.rank(aim, question)
        return
    assert await decide.rank(aim, question) == found
    told = explanation(await decide.decide(aim, question, explore=False), 1000)
    assert [each.name for each in told.considered if each.place] == names(found)
    assert [each.reason for each in told.considered if each.place] == [each.reason for each in found]
    assert sorted(each.name for each in told.considered) == sorted(each.name for each in targets)
    assert all(bool(each.why_not) == (each.place is None) for each in told.considered)
    assert told.able + sum(gone for _, _, gone in told.excluded) == told.total == len(targets)


@given(many, chances, aims, st.data())
async def test_the_cheaper_of_two_that_are_equal_otherwise_always_comes_first(
    targets: list[Target], chance: dict[str, float], aim: str, data: st.DataObject
) -> None:
    assume(any("chat" in one.capabilities for one in targets))
    original = data.draw(st.sampled_from([one for one in targets if "chat" in one.capabilities]))
    saved = data.draw(st.integers(1, 1000))
    twin = replace(original, name="z/twin", provider="z", upstream_name="twin", input_price_micro=10**7)
    cheaper = replace(twin, name="zz/twin", provider="zz", input_price_micro=10**7 - saved)
    question = replace(CHAT, needs=frozenset({"chat"}))
    told = explanation(await router([*targets, twin, cheaper], Opinions(chance)).decide(aim, question), 1000)
    place = {each.name: number for number, each in enumerate(told.considered) if not each.place}
    tried = [each.name for each in told.considered if each.place]
    if "z/twin" in tried:
        assert "zz/twin" in tried[: tried.index("z/twin")]
    elif "zz/twin" not in tried:
        assert place["zz/twin"] < place["z/twin"]


@given(many, chances, aims)
async def test_every_reason_is_true(targets: list[Target], chance: dict[str, float], aim: str) -> None:
    assume(any("chat" in one.capabilities for one in targets))
    decision = await router(targets, Opinions(chance)).decide(aim, CHAT)
    weighed = decision.weighed
    for place, candidate in zip(decision.places, candidates(decision), strict=True):
        found = re.match(r"number (\d+) (by expected price )?of (\d+) able", candidate.reason)
        assert found
        by = weighed.cost_micro if found[2] else -weighed.all.utility_micro
        better = np.count_nonzero(by[weighed.alive] < by[place])
        assert better < int(found[1]) <= int(found[3]) == np.count_nonzero(weighed.alive)


# ---------------------------------------------------------------- many instances, where only the best few are weighed


def crowd(
    draw: random.Random, models: int, providers: int, unmeasured: float
) -> tuple[list[Target], dict[str, Health]]:
    """More instances than are all weighed, of few different prices and speeds, so that many are equal."""
    targets = [
        model(
            f"p{number % providers}/i{number:05}",
            draw.choice([0, 1_000_000, 2_000_000, 50_000_000]),
            model=f"m{draw.randrange(models)}",
            region=draw.choice(["eu", "us"]),
            capabilities=frozenset({"chat"} if draw.random() < 0.9 else {"embeddings"}),
        )
        for number in range(1500)
    ]
    health = {
        each.name: Health(
            resting=draw.random() < 0.1,
            first_token_ms=0 if draw.random() < unmeasured else draw.choice([100, 60_000]),
            tokens_per_s=draw.choice([0, 1, 100]),
            availability=draw.choice([1, 0.5]),
        )
        for each in targets
    }
    return targets, health


def worth_by_loop(
    targets: Sequence[Target], health: Mapping[str, Health], chance: Mapping[str, float], aim: str
) -> dict[str, float]:
    """Utility by name, one after another in plain numbers."""
    terms = terms_of(CHAT, AIMS[aim], Rates())

    def usual(values: list[float]) -> float:
        known = [value for value in values if value > 0]
        return sum(known) / len(known) if known and aim == FAST else 0.0

    token = {each.name: 1000 / rate if (rate := health[each.name].tokens_per_s) else 0.0 for each in targets}
    usual_first, usual_token = usual([health[each.name].first_token_ms for each in targets]), usual([*token.values()])
    found: dict[str, float] = {}
    for each in targets:
        seen = health[each.name]
        latency = 200 * (token[each.name] or usual_token) + (seen.first_token_ms or usual_first)
        cost = (100 * each.input_price_micro + 200 * each.output_price_micro) / 1e6
        utility = latency / max(seen.availability, 0.05) * (-terms.second_micro / 1000) - cost
        found[each.name] = utility + terms.worth_micro * chance[each.model]
    return found


def chosen_by_loop(
    targets: Sequence[Target], health: Mapping[str, Health], utility: Mapping[str, float], first: str | None
) -> list[str]:
    """Those awake first, of another provider each while there are such, the best first, of equals the first by name."""
    ordered = sorted(targets, key=lambda each: (-utility[each.name], each.name))
    chosen = [each for each in ordered if each.name == first]
    for resting in (False, True):
        for distinct in (True, False):
            for each in ordered:
                taken = each in chosen or (distinct and each.provider in {other.provider for other in chosen})
                if len(chosen) < 3 and not taken and health[each.name].resting == resting:
                    chosen.append(each)
    return [each.name for each in chosen]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32), aims, st.sampled_from([1, 2, 9]), st.sampled_from([3, 60, 700]), st.booleans(),
    st.sampled_from([0.0, 0.5, 1.0]), st.booleans(),
)  # fmt: skip
async def test_of_many_the_same_are_chosen_as_by_a_loop_over_all(
    seed: int, aim: str, providers: int, models: int, explore: bool, unmeasured: float, narrow: bool
) -> None:
    draw = random.Random(seed)
    targets, health = crowd(draw, models, providers, unmeasured)
    chance = {f"m{number}": draw.choice([0.3, 0.5, 0.9, draw.random()]) for number in range(models)}
    drawn = {name: min(1.0, max(0.0, value + draw.uniform(-0.3, 0.3))) for name, value in chance.items()}
    decide = router(targets, Opinions(chance, drawn), health, explore_bps=10_000 if explore else 0)
    await decide.refresh()
    question = replace(CHAT, policy=Policy(regions=("eu",))) if narrow else CHAT
    able = [each for each in targets if "chat" in each.capabilities and (not narrow or each.region == "eu")]
    utility = worth_by_loop(able, health, chance, aim)
    first = None
    awake = [each for each in sorted(able, key=lambda each: each.name) if not health[each.name].resting]
    if explore and len({each.model for each in able}) > 1 and len(set(chance.values())) > 1:
        worth = terms_of(question, AIMS[aim], Rates()).worth_micro
        least = max(utility[each.name] for each in awake) - 0.1 * worth
        near = [each for each in awake if utility[each.name] >= least]
        moved = {each.name: utility[each.name] + worth * (drawn[each.model] - chance[each.model]) for each in near}
        first = max(moved, key=lambda name: moved[name])
    decision = await decide.decide(aim, question)
    found = candidates(decision)
    assert names(found) == chosen_by_loop(able, health, utility, first)
    for place, candidate in zip(decision.places, found, strict=True):
        if number := re.search(r"number (\d+) .*of (\d+) able", candidate.reason):
            ahead = sum(utility[each.name] > utility[candidate.target.name] + 1e-6 for each in able)
            assert "by expected price" in candidate.reason or ahead < int(number[1])
            assert int(number[2]) == len(able)
        assert decision.weighed.at(place)[0] == decision.weighed.all.latency_ms[place]
