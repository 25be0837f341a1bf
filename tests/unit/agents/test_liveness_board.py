"""The board: what is under way, what is counted for whom, and what comes of it. Time passes when told to."""

import pytest
from tests.support.asks import target

from prsm.agents.call import Target
from prsm.agents.liveness.board import Liveness, LivenessPolicy
from prsm.agents.liveness.ejection import EjectionPolicy
from prsm.agents.liveness.observed import Ending, ending_of
from prsm.agents.liveness.sla import Event, Sla
from prsm.agents.seams import UpstreamError
from prsm.core.errors import InvalidRequest, Kind

A, B, C = target("a/m"), target("b/m"), target("c/m")


class Setting:
    """A board with its clock in hand; ``draws`` are what its draws give, again and again."""

    def __init__(self, *, most: int = 4096, sla: Sla | None = None, draw: float = 0.0) -> None:
        self.now_s = 5000.0
        self.resting: set[str] = set()
        self.board = Liveness(
            LivenessPolicy(timeout_s=100, ejection=EjectionPolicy(), most_instances=most),
            sla_of=lambda _model: sla or Sla(),
            resting=self.resting.__contains__,
            clock=lambda: self.now_s,
            draw=lambda: draw,
        )

    def ask(self, at: Target, took_s: float = 0.1, error: BaseException | None = None, tokens: int = 0) -> None:
        call = self.board.began(at)
        self.now_s += took_s
        if error is None:
            call.answered(tokens)
        else:
            call.failed(error)

    def in_flight(self, at: Target) -> int:
        instance = self.board.instance(at.name)
        assert instance is not None
        return instance.observed.in_flight

    def counted(self, at: Target) -> dict[str, float]:
        instance = self.board.instance(at.name)
        assert instance is not None
        counts = instance.observed.counts(self.now_s)
        return {ending.name: round(counts[ending], 1) for ending in Ending if counts[ending] > 0.05}

    def events(self) -> dict[str, int]:
        totals = self.board.groups["m"].windows.totals(3600, self.now_s)
        return {event.name: totals[event] for event in Event if totals[event]}


def upstream(code: str, *, kind: Kind | None = None, blames_caller: bool = False) -> UpstreamError:
    return UpstreamError("It failed.", retryable=True, code=code, kind=kind, blames_caller=blames_caller)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (upstream("upstream_timeout"), Ending.TIMEOUT),
        (upstream("unheard_of", kind=Kind.TIMEOUT), Ending.TIMEOUT),
        (upstream("upstream_rate_limited"), Ending.RATE_LIMITED),
        (upstream("upstream_failed"), Ending.SERVER_ERROR),
        (upstream("unheard_of"), Ending.SERVER_ERROR),
        (upstream("upstream_bad_answer"), Ending.MALFORMED),
        (upstream("upstream_cut_off"), Ending.CUT_OFF),
        (upstream("upstream_unreachable"), Ending.UNREACHABLE),
        (upstream("upstream_key_refused"), Ending.DENIED),
        (upstream("upstream_rejected", blames_caller=True), Ending.REFUSED),
        (InvalidRequest("no tools"), Ending.REFUSED),
        (upstream("upstream_busy"), None),
        (upstream("upstream_aborted"), None),
        (ZeroDivisionError(), None),
    ],
)
def test_errors_by_class(error: BaseException, ending: Ending | None) -> None:
    assert ending_of(error) is ending


def test_calls_under_way_are_counted_once_however_often_they_are_ended() -> None:
    here = Setting()
    one, two = here.board.began(A), here.board.began(A, streamed=True)
    assert here.in_flight(A) == 2
    one.answered()
    one.failed(upstream("upstream_failed"))
    one.left()
    assert (here.in_flight(A), here.counted(A)) == (1, {"OK": 1.0})
    two.left()
    two.answered()
    assert (here.in_flight(A), here.counted(A)) == (0, {"OK": 1.0})


def test_what_the_caller_did_is_no_mark_against_the_model() -> None:
    here = Setting()
    here.ask(A, error=InvalidRequest("no tools"))
    here.ask(A, error=ZeroDivisionError())
    here.board.began(A, streamed=True).left()
    assert here.counted(A) == {"REFUSED": 1.0}
    assert here.events() == {}
    assert here.board.health(A.name).availability == 1.0


def test_a_stream_that_its_client_leaves_was_answered_and_one_at_the_time_limit_was_not() -> None:
    here = Setting()
    begun = here.board.began(A, streamed=True)
    here.now_s += 1
    begun.first_piece()
    begun.left()
    silent = here.board.began(A, streamed=True)
    here.now_s += 95
    silent.failed(TimeoutError())
    assert here.events() == {"ANSWERED": 1, "FAILED": 1}
    assert list(here.counted(A)) == ["OK", "TIMEOUT"]


def test_first_pieces_and_paces_are_those_of_streams_and_whole_answers() -> None:
    here = Setting(sla=Sla(0.99, first_token_s=0.4, min_tokens_s=50))
    stream = here.board.began(A, streamed=True)
    here.now_s += 0.5
    stream.first_piece()
    here.now_s += 1.9
    stream.answered(tokens=200, pieces=20)  # the first of twenty pieces had a twentieth of them
    instance = here.board.instance(A.name)
    assert instance is not None
    assert instance.observed.first_pieces.quantiles((0.5,)) == [pytest.approx(0.5, rel=0.02)]
    assert instance.observed.paces.quantiles((0.5,)) == [pytest.approx(100, rel=0.02)]
    assert here.events() == {"ANSWERED": 1, "LATE": 1, "BRISK": 1}
    here.ask(B, took_s=2, tokens=40)
    here.ask(B, took_s=2, tokens=3)  # too short to tell of the pace
    other = here.board.instance(B.name)
    assert other is not None
    assert other.observed.first_pieces.quantiles((0.5,)) is None
    assert (other.observed.pace_smooth, other.observed.paces.count(here.now_s)) == (20, pytest.approx(1, rel=0.1))
    assert here.events()["SLOW"] == 1


def test_health_recovers_by_itself_when_nobody_asks() -> None:
    here = Setting()
    for _ in range(20):
        here.ask(A, error=upstream("upstream_failed"))
    assert here.board.health(A.name).availability < 0.06
    here.now_s += 1800
    assert here.board.health(A.name).availability > 0.95
    assert not here.board.health(A.name).resting
    here.resting.add(A.name)
    assert here.board.health(A.name).resting
    here.resting.add("never/seen")
    assert here.board.health("never/seen").resting


def test_the_usual_silence_is_known_from_twenty_streams_on() -> None:
    here = Setting()
    assert here.board.silence(A.name) is None
    for _ in range(25):
        here.now_s += 1.5
        call = here.board.began(A, streamed=True)
        here.now_s += 0.3
        call.first_piece()
        call.answered()
    assert here.board.silence(A.name) == pytest.approx(0.3, rel=0.02)


def test_an_outlier_is_ejected_returns_by_time_and_is_judged_anew() -> None:
    here = Setting()
    for _ in range(30):
        here.ask(A)
        here.ask(B)
        here.ask(C, error=upstream("upstream_failed"))
    here.board.sweep()
    assert [here.board.health(each.name).resting for each in (A, B, C)] == [False, False, True]
    assert here.board.order([C, A, B])[-1] is C
    here.now_s += 31
    here.board.sweep()
    assert not here.board.health(C.name).resting
    assert here.counted(C) == {}
    here.board.sweep()
    assert not here.board.health(C.name).resting


def test_a_failed_probe_keeps_out_what_is_out_and_ejects_nobody() -> None:
    here = Setting()
    here.board.probed(A, Ending.UNREACHABLE)
    assert (here.board.health(A.name).resting, here.counted(A)) == (False, {"UNREACHABLE": 1.0})
    assert here.events() == {}
    for _ in range(30):
        here.ask(A)
        here.ask(B)
        here.ask(C, error=upstream("upstream_failed"))
    here.board.sweep()
    here.now_s += 29
    here.board.probed(C, Ending.UNREACHABLE)
    here.now_s += 5
    assert here.board.health(C.name).resting
    here.board.probed(C, None)
    here.now_s += 26
    assert not here.board.health(C.name).resting


def test_the_slow_one_is_tried_again_after_a_while_of_silence() -> None:
    here = Setting()
    here.ask(A, took_s=8.0)
    here.ask(B, took_s=0.5)
    assert here.board.order([A, B])[0] is B
    for _ in range(60):  # B is asked once a second, A never
        here.now_s += 0.5
        here.ask(B, took_s=0.5)
    assert here.board.order([A, B])[0] is A


def test_instances_are_bounded_and_those_under_way_are_kept() -> None:
    here = Setting(most=8)
    kept = here.board.began(target("busy/m"))
    for number in range(40):
        here.ask(target(f"p{number}/m{number}"))
    assert len(list(here.board.instances())) <= 8
    assert len(here.board.groups) <= 8
    assert here.in_flight(target("busy/m")) == 1
    assert here.board.instance("p39/m39") is not None
    kept.answered()
    assert here.in_flight(target("busy/m")) == 0


def test_what_leaves_the_catalogue_is_forgotten_and_its_late_calls_harm_nobody() -> None:
    here = Setting()
    late = here.board.began(A)
    here.ask(B)
    here.board.follow({B.name: B})
    assert here.board.instance(A.name) is None
    assert here.board.instance(B.name) is not None
    late.answered()
    here.board.follow({})
    assert not here.board.groups


def test_a_breach_is_a_verdict_of_the_sweep_and_of_the_moment() -> None:
    here = Setting()
    for _ in range(30):
        here.ask(A, error=upstream("upstream_failed"))
    here.board.sweep()
    verdict = here.board.verdicts()["m"]
    assert (verdict.breached, verdict.urgent) == (True, True)
    assert here.board.verdict("m") is not None
    assert here.board.verdict("never-asked") is None
