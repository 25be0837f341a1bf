"""Orders and refusals: what callers are told for each outcome of the SQL functions."""

from uuid import UUID

import pytest

from prsm.core.errors import Kind
from prsm.tokenomics.orders import (
    Balance,
    HoldOrder,
    LedgerRefusal,
    Resolution,
    SettleOrder,
    hold_refusal,
    settle_refusal,
)

ID = UUID(int=1)
HOLD = HoldOrder(ID, 7, None, 1_250_000)


@pytest.mark.parametrize(
    ("outcome", "code", "kind"),
    [
        (2, "insufficient_funds", Kind.PAYMENT_REQUIRED),
        (3, "key_cap_exceeded", Kind.PAYMENT_REQUIRED),
        (4, "invalid_api_key", Kind.UNAUTHENTICATED),
        (5, "unknown_account", Kind.NOT_FOUND),
        (6, "duplicate_request", Kind.CONFLICT),
    ],
)
def test_hold_refusals(outcome: int, code: str, kind: Kind) -> None:
    refusal = hold_refusal(outcome, HOLD)
    assert (refusal.code, refusal.kind) == (code, kind)
    assert isinstance(refusal, LedgerRefusal) == (kind is Kind.PAYMENT_REQUIRED)


@pytest.mark.parametrize("outcome", [2, 3])
def test_money_refusals_say_how_much_and_what_to_do(outcome: int) -> None:
    refusal = hold_refusal(outcome, HOLD)
    assert "1.25 FTNS" in refusal.message
    assert refusal.remedy


@pytest.mark.parametrize(
    ("outcome", "code", "kind"),
    [
        (2, "unknown_hold", Kind.NOT_FOUND),
        (3, "hold_already_resolved", Kind.CONFLICT),
        (4, "capture_exceeds_hold", Kind.CONFLICT),
    ],
)
def test_settle_refusals(outcome: int, code: str, kind: Kind) -> None:
    order = SettleOrder(ID, Resolution.CAPTURE, 5, ((1, 5, "owner"),))
    refusal = settle_refusal(outcome, order)
    assert (refusal.code, refusal.kind) == (code, kind)
    assert str(ID) in refusal.message


@pytest.mark.parametrize(("captured", "legs"), [(5, ()), (5, ((1, 4, "a"),)), (0, ((1, 1, "a"),))])
def test_legs_must_sum_to_the_captured_amount(captured: int, legs: tuple[tuple[int, int, str], ...]) -> None:
    with pytest.raises(ValueError, match="sum to the captured amount"):
        SettleOrder(ID, Resolution.CAPTURE, captured, legs)


def test_available_is_what_is_not_held() -> None:
    assert Balance(10, 4).available_micro == 6
