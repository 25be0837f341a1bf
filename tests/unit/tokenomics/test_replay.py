"""The replay: a sound history gives no violation, and each invariant has a tampered history in which it is found."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prsm.tokenomics.replay import (
    VIOLATIONS_KEPT,
    Event,
    HoldEvent,
    ReceiptAmounts,
    RefundedCapture,
    Replay,
    Replayer,
    ResolutionEvent,
    Stored,
    StoredAccount,
    StoredBudget,
    TransferEvent,
    replay,
)
from prsm.tokenomics.splits import Leg

ISSUANCE, PAYER, OWNER, TREASURY = 1, 2, 3, 4
KEY = UUID(int=99)
A, B, C, D, E = (UUID(int=number) for number in range(1, 6))
CAPTURE, RELEASE, EXPIRE = 1, 2, 3


def receipt(hold_id: UUID, held: int, captured: int, *legs: Leg) -> ReceiptAmounts:
    return ReceiptAmounts(PAYER, str(hold_id), "payer", held, captured, legs)


EVENTS: tuple[Event, ...] = (
    TransferEvent(1, None, ISSUANCE, PAYER, 1000, "grant"),
    HoldEvent(2, A, PAYER, KEY, 300),
    HoldEvent(3, B, PAYER, KEY, 200),
    HoldEvent(4, C, PAYER, None, 500),
    # One batch: three endings, their legs, a new hold.
    ResolutionEvent(
        5, A, CAPTURE, 250, receipt(A, 300, 250, Leg("owner", "owner", 200), Leg("treasury", "treasury", 50))
    ),
    ResolutionEvent(6, B, RELEASE, 0),
    ResolutionEvent(7, C, CAPTURE, 500, receipt(C, 500, 500, Leg("owner", "owner", 500))),
    TransferEvent(8, A, PAYER, OWNER, 200, "owner"),
    TransferEvent(9, A, PAYER, TREASURY, 50, "treasury"),
    TransferEvent(10, C, PAYER, OWNER, 500, "owner"),
    HoldEvent(11, D, PAYER, KEY, 250),
    ResolutionEvent(12, D, EXPIRE, 0),
    HoldEvent(13, E, PAYER, KEY, 30),
)
STORED = Stored(
    head=13,
    accounts=(
        StoredAccount(ISSUANCE, "issuance", True, -1000, 0),
        StoredAccount(PAYER, "payer", False, 250, 30),
        StoredAccount(OWNER, "owner", False, 700, 0),
        StoredAccount(TREASURY, "treasury", False, 50, 0),
    ),
    budgets=(StoredBudget(KEY, 250, 30),),
)


def changed(at: int, **changes: object) -> tuple[Event, ...]:
    return tuple(replace(event, **changes) if event.position == at else event for event in EVENTS)


def renumbered(events: list[Event]) -> tuple[Event, ...]:
    return tuple(replace(event, position=place) for place, event in enumerate(events, 1))


def without(position: int) -> tuple[Event, ...]:
    return renumbered([event for event in EVENTS if event.position != position])


def inserted(before: int, event: Event) -> tuple[Event, ...]:
    events = list(EVENTS)
    events.insert(before - 1, event)
    return renumbered(events)


def moved(position: int, to: int) -> tuple[Event, ...]:
    events = list(EVENTS)
    events.insert(to - 1, events.pop(position - 1))
    return renumbered(events)


def test_a_sound_history_has_no_violation() -> None:
    found = replay(EVENTS, STORED)
    assert found.violations == ()
    assert found.violation_count == 0
    assert (found.events, found.head) == (13, 13)
    assert (found.holds, found.captures, found.releases, found.expiries) == (5, 2, 1, 1)
    assert (found.transfers, found.open_holds, found.captures_without_receipt) == (4, 1, 0)
    assert (found.accounts[PAYER].balance_micro, found.accounts[PAYER].held_micro) == (250, 30)
    assert (found.budgets[KEY].balance_micro, found.budgets[KEY].held_micro) == (250, 30)


def test_an_empty_ledger_is_sound() -> None:
    empty = Stored(0, (StoredAccount(ISSUANCE, "issuance", True, 0, 0),), ())
    assert replay((), empty).violation_count == 0


TAMPERED: dict[str, tuple[tuple[Event, ...], str]] = {
    "first position missing": (EVENTS[1:], "Position 1 is missing."),
    "positions missing": (EVENTS[:5] + EVENTS[7:], "Positions 6 to 7 are missing."),
    "position twice": (changed(6, position=5), "Position 5 is used more than once."),
    "position goes back": (changed(6, position=4), "Position 4 stands after position 5."),
    "last event cut off": (EVENTS[:-1], "The head says position 13; the last event stands at 12."),
    "hold twice": (inserted(3, replace(EVENTS[1])), "was placed already at position 2."),
    "hold negative": (changed(13, amount_micro=-30), "is of a negative amount, -30."),
    "hold on no account": (changed(13, account_id=77), "names account 77, which does not exist."),
    "hold of no key": (changed(13, api_key_id=UUID(int=3)), "which has no budget row."),
    "hold over what is available": (changed(13, amount_micro=251), "leaves account 2 with -1 available."),
    "ended twice": (inserted(13, ResolutionEvent(0, B, RELEASE, 0)), "it ended already."),
    "captured and released": (inserted(13, ResolutionEvent(0, A, RELEASE, 0)), "it ended already."),
    "ended and never held": (changed(6, hold_id=UUID(int=77)), "names no open hold"),
    "ended before it was held": (moved(6, 3), "names no open hold"),
    "ended in an unknown way": (changed(6, kind=4), "is of the unknown kind 4."),
    "captured more than held": (changed(5, captured_micro=301), "captures 301 of 300 held."),
    "captured less than nothing": (changed(5, captured_micro=-1), "captures -1 of 300 held."),
    "release that captures": (changed(6, captured_micro=1), "is no capture and yet captures 1."),
    "release with a receipt": (changed(6, receipt=receipt(B, 200, 0)), "is no capture and yet has a receipt."),
    "capture made smaller": (changed(5, captured_micro=249), "is of 249 and its legs pay 250."),
    "leg missing": (without(9), "is of 250 and its legs pay 200."),
    "last leg missing": (without(10), "is of 500 and its legs pay 0."),
    "leg twice": (inserted(10, replace(EVENTS[8])), "is of 250 and its legs pay 300."),
    "leg of a release": (changed(8, hold_id=B), "whose capture does not stand directly before it."),
    "leg of no hold": (changed(8, hold_id=UUID(int=77)), "whose capture does not stand directly before it."),
    "leg before its capture": (moved(8, 5), "whose capture does not stand directly before it."),
    "leg long after its capture": (moved(10, 13), "whose capture does not stand directly before it."),
    "leg from another account": (changed(8, debit_account_id=TREASURY), "takes from account 4; hold"),
    "leg of nothing": (changed(9, amount_micro=0), "is of 0, which is not positive."),
    "leg to no account": (changed(9, credit_account_id=77), "names account 77, which does not exist."),
    "transfer negative": (changed(1, amount_micro=-1000), "is of -1000, which is not positive."),
    "transfer to itself": (changed(1, credit_account_id=ISSUANCE), "goes from account 1 to itself."),
    "transfer from no account": (changed(1, debit_account_id=77), "names account 77, which does not exist."),
    "transfer of more than there is": (
        inserted(14, TransferEvent(0, None, PAYER, OWNER, 221, "payout")),
        "leaves account 2 with -1 available.",
    ),
    "receipt of another request": (
        changed(7, receipt=receipt(A, 500, 500, Leg("owner", "owner", 500))),
        "has a receipt whose id is",
    ),
    "receipt of another account": (
        changed(7, receipt=replace(receipt(C, 500, 500, Leg("owner", "owner", 500)), account="owner")),
        "has a receipt whose account is owner where the ledger has payer.",
    ),
    "receipt filed elsewhere": (
        changed(7, receipt=replace(receipt(C, 500, 500, Leg("owner", "owner", 500)), account_id=OWNER)),
        "has a receipt whose stored account is 3 where the ledger has 2.",
    ),
    "receipt of another hold": (
        changed(7, receipt=receipt(C, 501, 500, Leg("owner", "owner", 500))),
        "has a receipt whose held amount is 501 where the ledger has 500.",
    ),
    "receipt of another amount": (
        changed(7, receipt=receipt(C, 500, 499, Leg("owner", "owner", 500))),
        "has a receipt whose captured amount is 499 where the ledger has 500.",
    ),
    "receipt with other splits": (
        changed(7, receipt=receipt(C, 500, 500, Leg("treasury", "owner", 500))),
        "has a receipt whose splits are not its legs.",
    ),
    "receipt unreadable": (changed(7, receipt="truncated"), "has a receipt that cannot be read: truncated."),
}


@pytest.mark.parametrize(("events", "sentence"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_history_is_found(events: tuple[Event, ...], sentence: str) -> None:
    found = replay(events, STORED)
    assert any(sentence in violation for violation in found.violations), found.violations


def account(place: int, **changes: object) -> Stored:
    accounts = list(STORED.accounts)
    accounts[place] = replace(accounts[place], **changes)
    return replace(STORED, accounts=tuple(accounts))


STORED_WRONG: dict[str, tuple[Stored, str]] = {
    "balance": (account(2, balance_micro=701), "Account 3 (owner) has a balance of 701; its events give 700."),
    "sum of balances": (account(2, balance_micro=701), "the stored balances sum to 1, not to zero."),
    "held": (account(1, held_micro=0), "Account 2 (payer) has a held amount of 0; its events give 30."),
    "spent": (replace(STORED, budgets=(StoredBudget(KEY, 0, 30),)), "has a spent amount of 0; its events give 250."),
    "key's held": (replace(STORED, budgets=(StoredBudget(KEY, 250, 0),)), "has a held amount of 0; its events give 30"),
    "budget gone": (replace(STORED, budgets=()), "which has no budget row."),
    "account gone": (replace(STORED, accounts=STORED.accounts[:-1]), "names account 4, which does not exist."),
    "head": (replace(STORED, head=14), "The head says position 14; the last event stands at 13."),
    "overdraft forbidden": (account(0, allow_negative=False), "leaves account 1 with -1000 available."),
}


@pytest.mark.parametrize(("stored", "sentence"), STORED_WRONG.values(), ids=STORED_WRONG.keys())
def test_stored_state_that_differs_is_found(stored: Stored, sentence: str) -> None:
    found = replay(EVENTS, stored)
    assert any(sentence in violation for violation in found.violations), found.violations


def test_a_capture_without_receipt_is_counted() -> None:
    found = replay(changed(7, receipt=None), STORED)
    assert (found.violations, found.captures_without_receipt) == ((), 1)


def test_a_free_capture_needs_no_legs_and_may_have_none() -> None:
    free: tuple[Event, ...] = (
        *EVENTS,
        ResolutionEvent(14, E, CAPTURE, 0, receipt(E, 30, 0)),
    )
    accounts = replace(account(1, held_micro=0), head=14, budgets=(StoredBudget(KEY, 250, 0),))
    assert replay(free, accounts).violations == ()
    paid: tuple[Event, ...] = (*free, TransferEvent(15, E, PAYER, OWNER, 1, "owner"))
    assert any("directly before it" in violation for violation in replay(paid, accounts).violations)


def test_violations_beyond_the_bound_are_only_counted() -> None:
    events = [HoldEvent(2 * place, UUID(int=place), PAYER, None, 0) for place in range(1, VIOLATIONS_KEPT + 50)]
    found = replay(events, STORED)
    assert len(found.violations) == VIOLATIONS_KEPT
    assert found.violation_count > VIOLATIONS_KEPT + 40


def test_memory_is_that_of_open_holds() -> None:
    """What has ended and is paid is forgotten: the replay's own tables stay empty over any number of pairs."""
    replayer = Replayer(STORED)
    position = 0
    for number in range(1, 2000):
        hold = HoldEvent(position + 1, UUID(int=number), ISSUANCE, KEY, 5)
        replayer.apply(hold)
        replayer.apply(ResolutionEvent(position + 2, hold.id, CAPTURE, 5))
        replayer.apply(TransferEvent(position + 3, hold.id, ISSUANCE, OWNER, 5, "owner"))
        position += 3
        assert len(replayer._open) + len(replayer._captures) <= 1


@st.composite
def histories(draw: st.DrawFn) -> tuple[tuple[Event, ...], Stored]:
    """Sound histories of single-order batches, with the state a ledger would have stored for them."""
    events: list[Event] = [TransferEvent(1, None, ISSUANCE, PAYER, 10_000, "grant")]
    balance, held, spent, paid = 10_000, 0, 0, 0
    open_holds: list[HoldEvent] = []
    for number in range(draw(st.integers(0, 25))):
        position = len(events) + 1
        if open_holds and draw(st.booleans()):
            hold = open_holds.pop(draw(st.integers(0, len(open_holds) - 1)))
            kind = draw(st.sampled_from([CAPTURE, RELEASE, EXPIRE]))
            captured = draw(st.integers(0, hold.amount_micro)) if kind == CAPTURE else 0
            events.append(ResolutionEvent(position, hold.id, kind, captured))
            held -= hold.amount_micro
            if captured:
                events.append(TransferEvent(position + 1, hold.id, PAYER, OWNER, captured, "owner"))
                balance, spent, paid = balance - captured, spent + captured, paid + captured
        elif balance - held >= 1:
            # Of one at least: a hold of nothing that is taken out again leaves no trace to be found.
            hold = HoldEvent(position, UUID(int=number), PAYER, KEY, draw(st.integers(1, (balance - held + 1) // 2)))
            events.append(hold)
            open_holds.append(hold)
            held += hold.amount_micro
    accounts = (
        StoredAccount(ISSUANCE, "issuance", True, -10_000, 0),
        StoredAccount(PAYER, "payer", False, balance, held),
        StoredAccount(OWNER, "owner", False, paid, 0),
    )
    return tuple(events), Stored(len(events), accounts, (StoredBudget(KEY, spent, held),))


def _event_removed(events: list[Event], place: int) -> None:
    del events[place]


def _event_doubled(events: list[Event], place: int) -> None:
    events.insert(place, events[place])


def _amount_raised(events: list[Event], place: int) -> None:
    event = events[place]
    if isinstance(event, ResolutionEvent):
        events[place] = replace(event, captured_micro=event.captured_micro + 1)
    else:
        events[place] = replace(event, amount_micro=event.amount_micro + 1)


def check(events: tuple[Event, ...], stored: Stored) -> Replay:
    return replay(events, stored)


@given(histories())
def test_any_sound_history_has_no_violation(history: tuple[tuple[Event, ...], Stored]) -> None:
    assert check(*history).violations == ()


@given(histories(), st.data(), st.sampled_from([_event_removed, _event_doubled, _amount_raised]))
def test_any_single_change_is_found(
    history: tuple[tuple[Event, ...], Stored], data: st.DataObject, change: Callable[[list[Event], int], None]
) -> None:
    events = list(history[0])
    place = data.draw(st.integers(0, len(events) - 1))
    ended = {event.hold_id for event in events if isinstance(event, ResolutionEvent)}
    # What an ended hold was of is said nowhere else but in its receipt, and these captures have none.
    assume(change is not _amount_raised or getattr(events[place], "id", None) not in ended)
    change(events, place)
    assert check(tuple(events), history[1]).violation_count > 0
    # Closing the gap in the positions hides nothing either.
    renumbering = replace(history[1], head=len(events))
    assert check(renumbered(events), renumbering).violation_count > 0


# -- refunds ----------------------------------------------------------------------------------------------------

REFUNDED = RefundedCapture(5, PAYER, 250, EVENTS[4].receipt)  # type: ignore[union-attr]


def refund(position: int, amount: int, giver: int = OWNER, **changes: object) -> TransferEvent:
    event = TransferEvent(position, None, giver, PAYER, amount, "refund", A, REFUNDED)
    return replace(event, **changes)


def refunded(*refunds: TransferEvent) -> Replay:
    """The history with refunds after it, and the balances that come of them."""
    sums = {account.id: account.balance_micro for account in STORED.accounts}
    for event in refunds:
        sums[event.debit_account_id] -= event.amount_micro
        sums[event.credit_account_id] += event.amount_micro
    accounts = tuple(replace(account, balance_micro=sums[account.id]) for account in STORED.accounts)
    return replay((*EVENTS, *refunds), replace(STORED, head=13 + len(refunds), accounts=accounts))


def test_refunds_within_what_was_captured_and_paid_are_sound() -> None:
    found = refunded(refund(14, 199), refund(15, 50, TREASURY), refund(16, 1))
    assert found.violations == ()
    assert (found.refunds, found.transfers) == (3, 7)


UNSOUND_REFUNDS: dict[str, tuple[tuple[TransferEvent, ...], str]] = {
    "more than was captured": ((refund(14, 251),), "makes 251 refunded of request"),
    "more in two steps": ((refund(14, 200), refund(15, 51, TREASURY)), "makes 251 refunded of request"),
    "more than the account was paid": ((refund(14, 201),), "give back 201 of request"),
    "more in two steps of an account": ((refund(14, 150), refund(15, 51)), "give back 201 of request"),
    "from who was not paid": ((refund(14, 1, ISSUANCE),), "it got 0"),
    "to who did not pay": ((refund(14, 1, credit_account_id=TREASURY),), "refunds account 4; request"),
    "of what captured nothing": ((refund(14, 1, refunded=None),), "which had captured nothing"),
    "before its capture": ((refund(14, 1, refunded=replace(REFUNDED, position=15)),), "which had captured nothing"),
    "by another name": ((refund(14, 1, kind="gift"),), "is of the kind gift"),
    "of no request": ((refund(14, 1, refund_of=None, refunded=None),), "names no request"),
}


@pytest.mark.parametrize(("refunds", "sentence"), UNSOUND_REFUNDS.values(), ids=UNSOUND_REFUNDS.keys())
def test_an_unsound_refund_is_found(refunds: tuple[TransferEvent, ...], sentence: str) -> None:
    found = refunded(*refunds)
    assert any(sentence in violation for violation in found.violations), found.violations


def test_a_capture_without_receipt_bounds_its_refunds_all_the_same() -> None:
    bare = replace(REFUNDED, receipt=None)
    assert refunded(refund(14, 250, refunded=bare)).violations == ()
    assert refunded(refund(14, 251, refunded=bare)).violation_count == 1
