"""The laws of suspicion: it adds up, halves with time, slows, suspends for a while, and forgets."""

from hypothesis import given
from hypothesis import strategies as st

from prsm.safety.threat import UNSUSPECTED, Event, Law, lifted, noted, score_at

LAW = Law()


def after(*events: Event, now_s: float = 1000.0, threat=UNSUSPECTED):  # type: ignore[no-untyped-def]
    for event in events:
        threat = noted(threat, event, now_s, LAW)
    return threat


def test_it_halves_with_time() -> None:
    threat = after(Event.BLOCKED)
    assert score_at(threat, 1000, LAW) == 1.0
    assert score_at(threat, 1000 + LAW.half_life_s, LAW) == 0.5


def test_three_blocks_slow_and_eight_suspend_for_a_while() -> None:
    slowed = after(*[Event.BLOCKED] * 3)
    assert slowed.throttled_until_s == 1000 + LAW.throttle_s
    assert slowed.suspended_until_s == 0
    suspended = after(*[Event.BLOCKED] * 8)
    assert suspended.suspended_until_s == 1000 + LAW.suspend_s
    assert suspended.suspensions == 1
    again = after(*[Event.BLOCKED] * 8, threat=suspended, now_s=suspended.suspended_until_s)
    assert again.suspended_until_s - suspended.suspended_until_s == 2 * LAW.suspend_s
    later = after(*[Event.BLOCKED] * 8, threat=again, now_s=again.suspended_until_s + LAW.forget_s + 1)
    assert later.suspensions == 1


def test_who_was_never_blocked_does_not_probe() -> None:
    assert after(*[Event.NEAR] * 50) is UNSUSPECTED
    assert after(Event.BLOCKED, *[Event.NEAR] * 4).throttled_until_s > 0


def test_asking_too_fast_alone_slows_only_who_does_not_stop() -> None:
    assert after(*[Event.RATE_LIMITED] * 100).throttled_until_s == 0
    assert noted(UNSUSPECTED, Event.RATE_LIMITED, 1000, LAW, times=200).throttled_until_s > 0


def test_what_is_lifted_counts_no_more() -> None:
    cleared = lifted(after(*[Event.ESCALATED] * 9), 2000)
    assert (cleared.score, cleared.throttled_until_s, cleared.suspended_until_s, cleared.suspensions) == (0, 0, 0, 0)


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 50_000)), max_size=60))
def test_every_suspension_ends_and_none_is_lengthened_while_it_lasts(steps: list[tuple[Event, float]]) -> None:
    threat, now_s = UNSUSPECTED, 1.0
    for event, passed_s in steps:
        now_s += passed_s
        before = threat
        threat = noted(threat, event, now_s, LAW)
        assert threat.suspended_until_s <= now_s + LAW.longest_s
        assert threat.score <= LAW.suspend_at + LAW.escalated
        if before.suspended_until_s > now_s:
            assert threat.suspended_until_s == before.suspended_until_s
