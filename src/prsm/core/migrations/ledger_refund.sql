-- Gives back what a request was charged, from those it paid: a posting for each account that has something to give.
--
-- p_owed is all that each account owes of this request by every grant so far, so that asking again pays what is left and
-- nothing twice. An account gives at most what it has available; the rest waits for the next call. All refunds of a
-- request together never exceed its capture. Outcomes: 0 done, 2 nothing was captured, 5 account unknown.
CREATE FUNCTION ledger_refund(
    p_request uuid, p_accounts text[], p_owed bigint[], OUT outcome smallint, OUT left_micro bigint
) LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
    after bigint;
    payer bigint;
    captured bigint;
    refunded bigint;
    giver bigint;
    due bigint;
    amount bigint;
BEGIN
    SELECT position INTO before FROM ledger_head WHERE id = 1 FOR UPDATE;
    after := before;
    left_micro := 0;
    SELECT h.account_id, r.captured_micro INTO payer, captured
    FROM ledger_resolutions r JOIN ledger_holds h ON h.id = r.hold_id WHERE r.hold_id = p_request AND r.kind = 1;
    IF NOT FOUND THEN
        outcome := 2;
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM unnest(p_accounts) AS n(name) WHERE NOT EXISTS (
            SELECT FROM ledger_accounts a WHERE a.name = n.name)) THEN
        outcome := 5;
        RETURN;
    END IF;
    SELECT coalesce(sum(amount_micro), 0) INTO refunded FROM ledger_transfers WHERE refund_of = p_request;
    FOR place IN 1 .. cardinality(p_accounts) LOOP
        SELECT id INTO giver FROM ledger_accounts WHERE name = p_accounts[place];
        CONTINUE WHEN giver = payer;
        SELECT p_owed[place] - coalesce(sum(amount_micro), 0) INTO due
        FROM ledger_transfers WHERE refund_of = p_request AND debit_account_id = giver;
        CONTINUE WHEN due <= 0;
        SELECT least(due, captured - refunded, CASE WHEN allow_negative THEN due ELSE balance_micro - held_micro END)
        INTO amount FROM ledger_accounts WHERE id = giver;
        left_micro := left_micro + due - amount;
        CONTINUE WHEN amount <= 0;
        after := after + 1;
        refunded := refunded + amount;
        UPDATE ledger_accounts a SET balance_micro = a.balance_micro + m.delta
        FROM (VALUES (giver, -amount), (payer, amount)) AS m(id, delta) WHERE a.id = m.id;
        INSERT INTO ledger_transfers
            (position, refund_of, debit_account_id, credit_account_id, amount_micro, kind, created_at)
        VALUES (after, p_request, giver, payer, amount, 'refund', clock_timestamp());
    END LOOP;
    IF after > before THEN
        UPDATE ledger_head SET position = after WHERE id = 1;
    END IF;
    outcome := 0;
END $$;
