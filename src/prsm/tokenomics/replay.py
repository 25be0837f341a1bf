"""Replays the ledger from its first position and says, in sentences, where it breaks its own rules.

Pure: events in, recomputed balances and violations out. Memory is bounded by what can still matter: a hold is kept
from its placing to its ending, after which no event may name it but the legs of its capture. The ledger writes the
legs of a batch directly after the endings of that batch, so a capture is kept until anything else follows its legs.
A refund comes with what its capture was, as that has been replayed before; what was given back is kept by request.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from prsm.tokenomics.orders import Resolution
from prsm.tokenomics.splits import Leg

REFUND = "refund"
"""The kind of a posting that gives back what a request was charged, and of no other."""
VIOLATIONS_KEPT = 1000
"""Sentences kept; further violations are only counted."""


@dataclass(frozen=True, slots=True)
class HoldEvent:
    """A row of ``ledger_holds``."""

    position: int
    id: UUID
    account_id: int
    api_key_id: UUID | None
    amount_micro: int


@dataclass(frozen=True, slots=True)
class ReceiptAmounts:
    """What a stored receipt says of the money: ``account_id`` of its row, all else of its signed body."""

    account_id: int
    id: str
    account: str
    held_micro: int
    captured_micro: int
    splits: tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class ResolutionEvent:
    """A row of ``ledger_resolutions``; ``receipt`` is what its stored receipt says, or why it cannot be read."""

    position: int
    hold_id: UUID
    kind: int
    captured_micro: int
    receipt: ReceiptAmounts | str | None = None


@dataclass(frozen=True, slots=True)
class RefundedCapture:
    """The capture that a refund gives back: its position, who paid how much, and its receipt as in ResolutionEvent."""

    position: int
    payer_account_id: int
    captured_micro: int
    receipt: ReceiptAmounts | str | None = None


@dataclass(frozen=True, slots=True)
class TransferEvent:
    """A row of ``ledger_transfers``: a leg of a capture where it names a hold, a refund where it names ``refund_of``.

    ``refunded`` is the capture of ``refund_of``, None where there is none.
    """

    position: int
    hold_id: UUID | None
    debit_account_id: int
    credit_account_id: int
    amount_micro: int
    kind: str
    refund_of: UUID | None = None
    refunded: RefundedCapture | None = None


Event: TypeAlias = HoldEvent | ResolutionEvent | TransferEvent


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """A row of ``ledger_accounts``."""

    id: int
    name: str
    allow_negative: bool
    balance_micro: int
    held_micro: int


@dataclass(frozen=True, slots=True)
class StoredBudget:
    """A row of ``ledger_budgets``."""

    api_key_id: UUID
    spent_micro: int
    held_micro: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What the ledger claims: the position of its head, its balances and its budgets."""

    head: int
    accounts: tuple[StoredAccount, ...]
    budgets: tuple[StoredBudget, ...]


@dataclass(slots=True)
class Sums:
    """The recomputed money of one account, or the spending of one key (``balance_micro`` then is what was spent)."""

    balance_micro: int = 0
    held_micro: int = 0


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found; the ledger is sound when ``violation_count`` is zero.

    ``accounts`` and ``budgets`` are the recomputed state; ``captures_without_receipt`` is no violation by itself.
    """

    events: int
    head: int
    holds: int
    captures: int
    releases: int
    expiries: int
    transfers: int
    refunds: int
    open_holds: int
    captures_without_receipt: int
    accounts: Mapping[int, Sums]
    budgets: Mapping[UUID, Sums]
    violation_count: int
    violations: tuple[str, ...]


@dataclass(slots=True)
class _Capture:
    position: int
    payer: int
    amount_micro: int
    receipt: ReceiptAmounts | None
    legs: list[Leg] = field(default_factory=list[Leg])
    paid_micro: int = 0


def replay(events: Iterable[Event], stored: Stored) -> Replay:
    """Replay ``events``, given by ascending position, and compare with what is ``stored``."""
    replayer = Replayer(stored)
    for event in events:
        replayer.apply(event)
    return replayer.finish()


class Replayer:
    """A replay in steps, for events that arrive in pieces: ``apply`` each, then ``finish`` once."""

    def __init__(self, stored: Stored) -> None:
        self.events = 0
        self._stored = stored
        self._accounts = {account.id: Sums() for account in stored.accounts}
        self._names = {account.id: account.name for account in stored.accounts}
        self._overdraw = frozenset(account.id for account in stored.accounts if account.allow_negative)
        self._budgets = {budget.api_key_id: Sums() for budget in stored.budgets}
        self._open: dict[UUID, HoldEvent] = {}
        self._captures: dict[UUID, _Capture] = {}
        self._refunded: dict[UUID, dict[int, int]] = {}
        self._refund_count = 0
        self._in_legs = False
        self._position = 0
        self._holds = self._transfers = self._without_receipt = 0
        self._ended = dict.fromkeys(Resolution, 0)
        self._violations: list[str] = []
        self._violation_count = 0

    def apply(self, event: Event) -> None:
        """Take the next event."""
        self.events += 1
        self._check_position(event.position)
        if isinstance(event, TransferEvent):
            self._transfer(event)
            return
        if self._in_legs or isinstance(event, HoldEvent):
            self._close_captures()
        if isinstance(event, HoldEvent):
            self._hold(event)
        else:
            self._resolve(event)

    def finish(self) -> Replay:
        """Compare the recomputed state with the stored one and answer all that was found."""
        self._close_captures()
        self._compare()
        return Replay(
            events=self.events,
            head=self._position,
            holds=self._holds,
            captures=self._ended[Resolution.CAPTURE],
            releases=self._ended[Resolution.RELEASE],
            expiries=self._ended[Resolution.EXPIRE],
            transfers=self._transfers,
            refunds=self._refund_count,
            open_holds=len(self._open),
            captures_without_receipt=self._without_receipt,
            accounts=self._accounts,
            budgets=self._budgets,
            violation_count=self._violation_count,
            violations=tuple(self._violations),
        )

    def violate(self, sentence: str) -> None:
        """Note a violation; also for a reader that finds one of its own."""
        self._violation_count += 1
        if len(self._violations) < VIOLATIONS_KEPT:
            self._violations.append(sentence)

    # -- the events ---------------------------------------------------------------------------------------------

    def _check_position(self, position: int) -> None:
        due = self._position + 1
        if position == due - 1:
            self.violate(f"Position {position} is used more than once.")
        elif position < due:
            self.violate(f"Position {position} stands after position {due - 1}.")
        elif position > due:
            missing = f"Position {due} is" if position == due + 1 else f"Positions {due} to {position - 1} are"
            self.violate(f"{missing} missing.")
        self._position = max(position, self._position)

    def _hold(self, event: HoldEvent) -> None:
        self._holds += 1
        at = f"Position {event.position}: the hold {event.id}"
        if event.id in self._open:
            self.violate(f"{at} was placed already at position {self._open[event.id].position}.")
            return
        if event.amount_micro < 0:
            self.violate(f"{at} is of a negative amount, {event.amount_micro}.")
        self._open[event.id] = event
        self._account(event.account_id, at).held_micro += event.amount_micro
        self._check_available(event.account_id, at)
        if event.api_key_id is not None:
            self._budget(event.api_key_id, at).held_micro += event.amount_micro

    def _resolve(self, event: ResolutionEvent) -> None:
        at = f"Position {event.position}: the ending of hold {event.hold_id}"
        kind = _resolution(event.kind)
        if kind is None:
            self.violate(f"{at} is of the unknown kind {event.kind}.")
            return
        self._ended[kind] += 1
        hold = self._open.pop(event.hold_id, None)
        if hold is None:
            self.violate(f"{at} names no open hold: none was placed before, or it ended already.")
            return
        self._account(hold.account_id, at).held_micro -= hold.amount_micro
        if hold.api_key_id is not None:
            budget = self._budget(hold.api_key_id, at)
            budget.held_micro -= hold.amount_micro
            budget.balance_micro += event.captured_micro
        if kind is Resolution.CAPTURE:
            self._capture(event, hold, at)
        elif event.captured_micro:
            self.violate(f"{at} is no capture and yet captures {event.captured_micro}.")
        elif event.receipt is not None:
            self.violate(f"{at} is no capture and yet has a receipt.")

    def _capture(self, event: ResolutionEvent, hold: HoldEvent, at: str) -> None:
        if not 0 <= event.captured_micro <= hold.amount_micro:
            self.violate(f"{at} captures {event.captured_micro} of {hold.amount_micro} held.")
        if isinstance(event.receipt, str):
            self.violate(f"{at} has a receipt that cannot be read: {event.receipt}.")
        receipt = event.receipt if isinstance(event.receipt, ReceiptAmounts) else None
        if event.receipt is None:
            self._without_receipt += 1
        if receipt is not None:
            self._check_receipt(receipt, event, hold, at)
        capture = _Capture(event.position, hold.account_id, event.captured_micro, receipt)
        if event.captured_micro:
            self._captures[event.hold_id] = capture
        else:
            self._close(event.hold_id, capture)

    def _check_receipt(self, receipt: ReceiptAmounts, event: ResolutionEvent, hold: HoldEvent, at: str) -> None:
        claims = (
            ("id", receipt.id, str(event.hold_id)),
            ("account", receipt.account, self._names.get(hold.account_id)),
            ("stored account", receipt.account_id, hold.account_id),
            ("held amount", receipt.held_micro, hold.amount_micro),
            ("captured amount", receipt.captured_micro, event.captured_micro),
        )
        for what, said, is_so in claims:
            if said != is_so:
                self.violate(f"{at} has a receipt whose {what} is {said} where the ledger has {is_so}.")

    def _transfer(self, event: TransferEvent) -> None:
        self._transfers += 1
        at = f"Position {event.position}: the transfer"
        if event.hold_id is None:
            self._close_captures()
        else:
            self._leg(event, event.hold_id, at)
        if event.refund_of is not None:
            self._refund(event, event.refund_of, at)
        elif event.kind == REFUND:
            self.violate(f"{at} is called a refund and names no request.")
        if event.amount_micro <= 0:
            self.violate(f"{at} is of {event.amount_micro}, which is not positive.")
        if event.hold_id is None and event.debit_account_id == event.credit_account_id:
            # A leg may pay the payer: who asks a model of its own gets the owner's share back.
            self.violate(f"{at} goes from account {event.debit_account_id} to itself.")
        self._account(event.debit_account_id, at).balance_micro -= event.amount_micro
        self._account(event.credit_account_id, at).balance_micro += event.amount_micro
        self._check_available(event.debit_account_id, at)

    def _leg(self, event: TransferEvent, hold_id: UUID, at: str) -> None:
        self._in_legs = True
        capture = self._captures.get(hold_id)
        if capture is None:
            self.violate(f"{at} is a leg of hold {hold_id}, whose capture does not stand directly before it.")
            return
        if event.debit_account_id != capture.payer:
            self.violate(f"{at} takes from account {event.debit_account_id}; hold {hold_id} is on {capture.payer}.")
        capture.paid_micro += event.amount_micro
        name = self._names.get(event.credit_account_id, "")
        capture.legs.append(Leg(name, event.kind, event.amount_micro))

    def _refund(self, event: TransferEvent, request_id: UUID, at: str) -> None:
        """What goes back goes to who paid, from those who were paid, and never exceeds either."""
        self._refund_count += 1
        capture = event.refunded
        if event.hold_id is not None or event.kind != REFUND:
            self.violate(f"{at} refunds request {request_id} and is of the kind {event.kind}, hold {event.hold_id}.")
        if capture is None or capture.position >= event.position:
            self.violate(f"{at} refunds request {request_id}, which had captured nothing.")
            return
        if event.credit_account_id != capture.payer_account_id:
            self.violate(
                f"{at} refunds account {event.credit_account_id}; request {request_id} was paid by "
                f"{capture.payer_account_id}."
            )
        given = self._refunded.setdefault(request_id, {})
        giver = event.debit_account_id
        given[giver] = given.get(giver, 0) + event.amount_micro
        if (total := sum(given.values())) > capture.captured_micro:
            self.violate(
                f"{at} makes {total} refunded of request {request_id}, which captured {capture.captured_micro}."
            )
        if isinstance(capture.receipt, ReceiptAmounts):
            name = self._names.get(giver)
            paid = sum(leg.amount_micro for leg in capture.receipt.splits if leg.account == name)
            if given[giver] > paid:
                self.violate(
                    f"{at} makes account {giver} give back {given[giver]} of request {request_id}; it got {paid}."
                )

    # -- the checks ---------------------------------------------------------------------------------------------

    def _close_captures(self) -> None:
        """What was captured must be paid by now, to whom the receipt says; after this it can be forgotten."""
        self._in_legs = False
        for hold_id, capture in self._captures.items():
            self._close(hold_id, capture)
        self._captures.clear()

    def _close(self, hold_id: UUID, capture: _Capture) -> None:
        at = f"Position {capture.position}: the capture of hold {hold_id}"
        if capture.paid_micro != capture.amount_micro:
            self.violate(f"{at} is of {capture.amount_micro} and its legs pay {capture.paid_micro}.")
        if capture.receipt is not None and capture.receipt.splits != tuple(capture.legs):
            self.violate(f"{at} has a receipt whose splits are not its legs.")

    def _check_available(self, account_id: int, at: str) -> None:
        sums = self._accounts.get(account_id)
        if sums is not None and account_id not in self._overdraw and sums.balance_micro < sums.held_micro:
            available = sums.balance_micro - sums.held_micro
            self.violate(f"{at} leaves account {account_id} with {available} available.")

    def _account(self, account_id: int, at: str) -> Sums:
        sums = self._accounts.get(account_id)
        if sums is None:
            self.violate(f"{at} names account {account_id}, which does not exist.")
            sums = Sums()  # of nobody: counted nowhere, so that the sum of all balances shows it too
        return sums

    def _budget(self, api_key_id: UUID, at: str) -> Sums:
        sums = self._budgets.get(api_key_id)
        if sums is None:
            self.violate(f"{at} names key {api_key_id}, which has no budget row.")
            sums = Sums()
        return sums

    def _compare(self) -> None:
        stored = self._stored
        if stored.head != self._position:
            self.violate(f"The head says position {stored.head}; the last event stands at {self._position}.")
        if total := sum(account.balance_micro for account in stored.accounts):
            self.violate(f"Debits and credits differ: the stored balances sum to {total}, not to zero.")
        for account in stored.accounts:
            sums = self._accounts[account.id]
            who = f"Account {account.id} ({account.name})"
            self._equal(who, "a balance", account.balance_micro, sums.balance_micro)
            self._equal(who, "a held amount", account.held_micro, sums.held_micro)
        for budget in stored.budgets:
            sums = self._budgets[budget.api_key_id]
            who = f"Key {budget.api_key_id}"
            self._equal(who, "a spent amount", budget.spent_micro, sums.balance_micro)
            self._equal(who, "a held amount", budget.held_micro, sums.held_micro)

    def _equal(self, who: str, what: str, stored_micro: int, replayed_micro: int) -> None:
        if stored_micro != replayed_micro:
            self.violate(f"{who} has {what} of {stored_micro}; its events give {replayed_micro}.")


def _resolution(kind: int) -> Resolution | None:
    try:
        return Resolution(kind)
    except ValueError:
        return None
