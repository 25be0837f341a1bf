"""Error budgets and burn rates: what is counted, when it is a breach, and that the sentence says it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.liveness.sla import BurnRule, Event, Sla, SlaPolicy, Verdict, Windows, judge

POLICY = SlaPolicy()
HOUR_S, DAY_S = 3600.0, 86_400.0
START_S = 1e6


def run(windows: Windows, start_s: float, seconds: float, good: int, bad: int, event: Event = Event.ANSWERED) -> float:
    """So many good and bad events each minute; answers when it ended."""
    now_s = start_s
    while now_s < start_s + seconds:
        for _ in range(good):
            windows.add(event, now_s)
        for _ in range(bad):
            windows.add(Event(event + 1), now_s)
        now_s += 60
    return now_s


def verdict(windows: Windows, now_s: float, sla: Sla | None = None, policy: SlaPolicy = POLICY) -> Verdict:
    return judge("m", sla or Sla(), windows, now_s, policy)


def test_a_model_that_keeps_its_target_is_not_in_breach_and_has_its_budget_left() -> None:
    windows = Windows(START_S)
    now_s = run(windows, START_S, 4 * HOUR_S, good=200, bad=1)
    found = verdict(windows, now_s)
    (availability,) = found.objectives
    assert not found.breached
    assert (availability.events, availability.bad) == (48_240, 240)
    assert availability.budget_left == pytest.approx(1 - 240 / (48_240 * 0.01))
    assert found.sentence == "m keeps what it is to keep."


def test_an_outage_is_urgent_within_minutes_and_no_more_half_an_hour_after_its_end() -> None:
    windows = Windows(START_S)
    now_s = run(windows, START_S, HOUR_S, good=100, bad=0)
    now_s = run(windows, now_s, 600, good=0, bad=100)
    found = verdict(windows, now_s)
    assert found.breached
    assert found.urgent
    assert found.objectives[0].breach == POLICY.rules[0]
    assert found.objectives[0].budget_left < 0
    assert "85.7% are answered, 99.0% are to" in found.sentence
    assert "limit 14.4" in found.sentence
    now_s = run(windows, now_s, 1860, good=100, bad=0)
    late = verdict(windows, now_s)
    # All of the budget is gone, so it stays a breach for hours; but no short window burns any more.
    assert late.objectives[0].breach == POLICY.rules[2]
    assert (late.breached, late.urgent) == (True, False)
    assert not verdict(windows, run(windows, now_s, 6.1 * HOUR_S, good=1, bad=0)).breached


def test_a_slow_burn_is_found_by_the_longer_windows_only() -> None:
    windows = Windows(START_S)
    now_s = run(windows, START_S, 7 * HOUR_S, good=93, bad=7)
    assert verdict(windows, now_s).objectives[0].breach == POLICY.rules[1]
    windows = Windows(START_S)
    now_s = run(windows, START_S, 3 * DAY_S, good=98, bad=2)
    assert verdict(windows, now_s).objectives[0].breach == POLICY.rules[2]


def test_a_few_calls_are_no_breach() -> None:
    windows = Windows(START_S)
    for _ in range(POLICY.min_events - 1):
        windows.add(Event.FAILED, START_S)
    assert not verdict(windows, START_S + 1).breached
    windows.add(Event.FAILED, START_S + 1)
    assert verdict(windows, START_S + 1).breached


def test_limits_of_time_are_objectives_of_their_own() -> None:
    windows = Windows(START_S)
    now_s = run(windows, START_S, HOUR_S, good=10, bad=90, event=Event.PROMPT)
    now_s = run(windows, now_s - HOUR_S, HOUR_S, good=100, bad=0, event=Event.BRISK)
    sla = Sla(0.99, first_token_s=0.5, min_tokens_s=20)
    found = verdict(windows, now_s, sla)
    assert [each.name for each in found.objectives] == ["availability", "first token", "tokens per second"]
    assert [each.breach is not None for each in found.objectives] == [False, True, False]
    assert "10.0% begin within 500 ms, 95.0% are to" in found.sentence


def test_nothing_seen_is_nothing_broken() -> None:
    found = verdict(Windows(START_S), START_S)
    assert (found.breached, found.objectives[0].kept, found.objectives[0].budget_left) == (False, None, 1.0)


def test_a_breach_is_forgotten_with_its_window() -> None:
    windows = Windows(START_S)
    now_s = run(windows, START_S, 600, good=0, bad=100)
    assert verdict(windows, now_s).breached
    gone = verdict(windows, now_s + 31 * DAY_S)
    assert (gone.breached, gone.objectives[0].events) == (False, 0)


events = st.lists(st.tuples(st.sampled_from(list(Event)), st.floats(0, 7200)), max_size=80)


@given(events, st.floats(0, 1e8), st.sampled_from([300.0, 3600.0, 6 * HOUR_S, 3 * DAY_S]))
def test_a_window_has_what_came_within_it_to_a_slot(
    events: list[tuple[Event, float]], start_s: float, window_s: float
) -> None:
    windows, now_s = Windows(start_s), start_s
    seen: list[tuple[Event, float]] = []
    for event, later_s in events:
        now_s += later_s
        windows.add(event, now_s)
        seen.append((event, now_s))
    slot_s = 60.0 if window_s <= 6 * HOUR_S else HOUR_S
    totals = windows.totals(window_s, now_s)
    for event in Event:
        at_least = sum(1 for kind, at_s in seen if kind is event and at_s > now_s - window_s)
        at_most = sum(1 for kind, at_s in seen if kind is event and at_s >= now_s - window_s - 2 * slot_s)
        assert at_least <= totals[event] <= at_most


@pytest.mark.parametrize(("availability", "first_s", "pace"), [(1.0, 0, 0), (0.0, 0, 0), (0.9, -1, 0), (0.9, 0, -1)])
def test_an_sla_that_cannot_be_kept_or_broken_is_refused(availability: float, first_s: float, pace: float) -> None:
    with pytest.raises(ValueError, match="SLA"):
        Sla(availability, first_s, pace)


def test_a_rule_of_ones_own_is_used() -> None:
    windows = Windows(START_S)
    now_s = run(windows, START_S, 600, good=96, bad=4)
    policy = SlaPolicy(rules=(BurnRule(600, 120, 3.0),))
    assert verdict(windows, now_s, policy=policy).objectives[0].breach == policy.rules[0]
