"""The states of alerts, and what is told of them: a law for each way that an alert may go."""

from uuid import UUID

import msgspec

from prsm.monitoring.alerting.states import Alert, AlertPolicy, Notice, Silence, due, key_of, silenced, step
from prsm.monitoring.objectives.evaluation import Finding

POLICY = AlertPolicy(clear_s=8, escalate_s=900, repeat_s=14_400)
FULL = Finding("DiskAlmostFull", "page", 10, (("disk", "home"),), "full", 0.01)
SLOW = Finding("OutboxLag", "ticket", 0, (), "slow", 90.0)
NEVER = UUID(int=0)


class Node:
    """Alerts as they go on, turn after turn; ``told`` is what came of the last."""

    def __init__(self, policy: AlertPolicy = POLICY) -> None:
        self.policy = policy
        self.alerts: dict[str, Alert] = {}
        self.silences: list[Silence] = []
        self.told: list[Notice] = []
        self._ids = 0

    def turn(self, now_s: float, *found: Finding) -> list[tuple[str, str, int]]:
        ids: dict[str, UUID] = {}
        for one in found:
            self._ids += 1
            ids[key_of(one.rule, one.labels)] = UUID(int=self._ids)
        after = silenced(step(self.alerts, found, ids, now_s, self.policy), self.silences, now_s)
        self.alerts, self.told = due(after, now_s, self.policy)
        return [(notice.kind, notice.rule, len(notice.alerts)) for notice in self.told]

    def state(self) -> list[str]:
        return [alert.state for alert in self.alerts.values()]


def test_pending_until_it_held_long_enough_then_firing_once_then_resolved_once() -> None:
    node = Node()
    assert node.turn(0, FULL) == []
    assert node.state() == ["pending"]
    assert node.turn(5, FULL) == []
    assert node.turn(10, FULL) == [("firing", "DiskAlmostFull", 1)]
    assert node.turn(15, FULL) == []
    assert node.turn(20) == []
    assert node.state() == ["firing"], "a moment without it is not its end"
    assert node.turn(24) == [("resolved", "DiskAlmostFull", 1)]
    assert node.alerts == {}
    assert node.told[0].alerts[0].resolved_s == 24


def test_a_clock_that_is_set_back_keeps_no_alert_waiting() -> None:
    node = Node()
    node.turn(3600, FULL)
    node.turn(5, FULL)
    assert node.turn(15, FULL) == [("firing", "DiskAlmostFull", 1)]
    node.turn(7200, FULL)
    node.turn(20)
    assert node.turn(28) == [("resolved", "DiskAlmostFull", 1)]


def test_what_passes_before_it_held_long_enough_is_never_told() -> None:
    node = Node()
    node.turn(0, FULL)
    assert node.turn(5) == []
    assert node.alerts == {}
    node.turn(6, FULL)
    assert node.turn(12, FULL) == [], "it begins anew"


def test_a_level_that_flickers_is_told_once() -> None:
    node = Node()
    told = [node.turn(5 * turn, *([FULL] if turn % 2 == 0 or turn < 4 else [])) for turn in range(40)]
    assert [each for each in told if each] == [[("firing", "DiskAlmostFull", 1)]]


def test_one_that_comes_back_after_its_end_is_another() -> None:
    node = Node()
    node.turn(0, SLOW)
    first = node.told[0].alerts[0].id
    node.turn(10)
    assert node.turn(20, SLOW) == [("firing", "OutboxLag", 1)]
    assert node.told[0].alerts[0].id != first


def test_alerts_of_one_rule_that_begin_together_are_one_message() -> None:
    node = Node()
    disks = [FULL._replace(labels=(("disk", str(number)),), for_s=0) for number in range(12)]
    assert node.turn(0, *disks, SLOW) == [("firing", "DiskAlmostFull", 12), ("firing", "OutboxLag", 1)]
    assert node.turn(5, *disks, SLOW) == []


def test_a_page_that_nobody_takes_is_escalated_once_and_a_ticket_never() -> None:
    node = Node()
    page = FULL._replace(for_s=0)
    node.turn(0, page, SLOW)
    assert node.turn(899, page, SLOW) == []
    assert node.turn(900, page, SLOW) == [("escalated", "DiskAlmostFull", 1)]
    assert node.turn(2000, page, SLOW) == []


def test_what_somebody_took_is_neither_escalated_nor_told_again_but_its_end_is() -> None:
    node = Node()
    page = FULL._replace(for_s=0)
    node.turn(0, page)
    (key,) = node.alerts
    node.alerts[key] = msgspec.structs.replace(node.alerts[key], acked_by="ann", acked_s=5.0)
    assert node.turn(900, page) == []
    assert node.turn(20_000, page) == []
    assert node.turn(20_010) == [("resolved", "DiskAlmostFull", 1)]


def test_what_fires_on_is_told_again() -> None:
    node = Node()
    node.turn(0, SLOW)
    assert node.turn(14_399, SLOW) == []
    assert node.turn(14_400, SLOW) == [("still_firing", "OutboxLag", 1)]


def test_nobody_is_told_of_what_is_silenced_until_the_silence_ends() -> None:
    node = Node()
    node.silences = [Silence(NEVER, "OutboxLag", {}, "ann", "being moved", 100.0)]
    assert node.turn(0, SLOW) == []
    assert node.state() == ["firing"], "it is evaluated and shown"
    assert next(iter(node.alerts.values())).silenced_by == "ann: being moved"
    assert node.turn(99, SLOW) == []
    assert node.turn(101, SLOW) == [("firing", "OutboxLag", 1)]


def test_a_silence_over_the_end_of_what_was_told_lets_its_end_be_told() -> None:
    node = Node()
    node.turn(0, SLOW)
    node.silences = [Silence(NEVER, "", {}, "ann", "known", 1e9)]
    node.turn(5, SLOW)
    assert node.turn(20) == [("resolved", "OutboxLag", 1)]


def test_a_silence_is_of_its_rule_and_labels_only() -> None:
    node = Node()
    node.silences = [Silence(NEVER, "DiskAlmostFull", {"disk": "home"}, "ann", "known", 1e9)]
    other = FULL._replace(labels=(("disk", "data"),), for_s=0)
    assert node.turn(0, FULL._replace(for_s=0), other) == [("firing", "DiskAlmostFull", 1)]
    assert node.told[0].alerts[0].labels == {"disk": "data"}


def test_alerts_are_bounded() -> None:
    node = Node(AlertPolicy(most=3))
    node.turn(0, *[SLOW._replace(labels=(("n", str(number)),)) for number in range(10)])
    assert len(node.alerts) == 3


def test_a_key_is_the_rule_with_its_labels_in_any_order() -> None:
    assert key_of("a", [("x", "1"), ("y", "2")]) == key_of("a", [("y", "2"), ("x", "1")])
    assert len({key_of("a", []), key_of("a", [("x", "")]), key_of("ax", []), key_of("a", [("x", "1")])}) == 4
