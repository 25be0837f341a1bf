-- Two of the ledger's rules as they are since revision 0004; outcomes and all other functions are those of
-- ledger_functions.sql.

CREATE FUNCTION ledger_hold(
    p_head bigint, p_now timestamptz, p_ids uuid[], p_accounts bigint[], p_keys uuid[], p_amounts bigint[],
    p_expires timestamptz, OUT head bigint, OUT outcomes smallint[]
) LANGUAGE plpgsql AS $$
DECLARE
    contested boolean;
    place integer;
BEGIN
    head := p_head;
    -- Classify each order against what stands before the batch; -1 means it competes with others for the rest,
    -- -3 that the batch names its id more than once.
    WITH input AS (
        SELECT * FROM unnest(p_ids, p_accounts, p_keys, p_amounts)
            WITH ORDINALITY AS t(id, account_id, key_id, amount, ord)
    ), judged AS (
        SELECT i.ord, CASE
            WHEN h.id IS NOT NULL THEN CASE
                WHEN h.account_id = i.account_id AND h.amount_micro = i.amount
                    AND h.api_key_id IS NOT DISTINCT FROM i.key_id
                    AND NOT EXISTS (SELECT FROM ledger_resolutions r WHERE r.hold_id = i.id) THEN 1
                ELSE 6 END
            WHEN a.id IS NULL THEN 5
            WHEN i.key_id IS NOT NULL AND (b.api_key_id IS NULL OR k.revoked_at <= p_now OR k.expires_at <= p_now) THEN 4
            WHEN count(*) OVER (PARTITION BY i.id) > 1 THEN -3
            WHEN NOT a.allow_negative
                AND sum(i.amount) OVER (PARTITION BY i.account_id) > a.balance_micro - a.held_micro THEN -1
            WHEN b.cap_micro IS NOT NULL
                AND sum(i.amount) OVER (PARTITION BY i.key_id) > b.cap_micro - b.spent_micro - b.held_micro THEN -1
            ELSE 0 END AS outcome
        FROM input i
        LEFT JOIN ledger_holds h ON h.id = i.id
        LEFT JOIN ledger_accounts a ON a.id = i.account_id
        LEFT JOIN ledger_budgets b ON b.api_key_id = i.key_id
        LEFT JOIN api_keys k ON k.id = i.key_id
    )
    SELECT array_agg(outcome ORDER BY ord), bool_or(outcome < 0) INTO outcomes, contested FROM judged;

    IF contested THEN
        FOR place IN 1 .. cardinality(p_ids) LOOP
            IF outcomes[place] = -3 THEN
                FOR earlier IN 1 .. place - 1 LOOP
                    IF p_ids[earlier] = p_ids[place] AND outcomes[earlier] = 0 THEN
                        outcomes[place] := CASE WHEN p_accounts[earlier] = p_accounts[place]
                            AND p_amounts[earlier] = p_amounts[place]
                            AND p_keys[earlier] IS NOT DISTINCT FROM p_keys[place] THEN 1 ELSE 6 END;
                    END IF;
                END LOOP;
            END IF;
            IF outcomes[place] < 0 THEN
                outcomes[place] := ledger_reserve(p_accounts[place], p_keys[place], p_amounts[place]);
            ELSIF outcomes[place] = 0 THEN
                outcomes[place] := -2;  -- still to be reserved below
            END IF;
        END LOOP;
    END IF;

    WITH admitted AS (
        SELECT o.account_id, sum(o.amount)::bigint AS amount
        FROM unnest(p_accounts, p_amounts, outcomes) AS o(account_id, amount, outcome)
        WHERE outcome = CASE WHEN contested THEN -2 ELSE 0 END GROUP BY o.account_id
    )
    UPDATE ledger_accounts a SET held_micro = a.held_micro + d.amount FROM admitted d WHERE a.id = d.account_id;

    WITH admitted AS (
        SELECT o.key_id, sum(o.amount)::bigint AS amount
        FROM unnest(p_keys, p_amounts, outcomes) AS o(key_id, amount, outcome)
        WHERE outcome = CASE WHEN contested THEN -2 ELSE 0 END AND key_id IS NOT NULL GROUP BY o.key_id
    )
    UPDATE ledger_budgets b SET held_micro = b.held_micro + d.amount FROM admitted d WHERE b.api_key_id = d.key_id;

    IF contested THEN
        outcomes := array_replace(outcomes, -2::smallint, 0::smallint);
    END IF;

    WITH placed AS (
        INSERT INTO ledger_holds (id, position, account_id, api_key_id, amount_micro, expires_at, created_at)
        SELECT o.id, p_head + row_number() OVER (ORDER BY o.ord), o.account_id, o.key_id, o.amount,
               p_expires, p_now
        FROM unnest(p_ids, p_accounts, p_keys, p_amounts, outcomes)
            WITH ORDINALITY AS o(id, account_id, key_id, amount, outcome, ord)
        WHERE o.outcome = 0
        RETURNING 1
    )
    SELECT p_head + count(*) INTO head FROM placed;
END $$;

CREATE FUNCTION ledger_settle(
    p_head bigint, p_now timestamptz, p_holds uuid[], p_kinds smallint[], p_captured bigint[],
    p_receipts bytea[], p_answers bytea[], p_leg_places integer[], p_leg_accounts bigint[], p_leg_amounts bigint[],
    p_leg_kinds text[], OUT head bigint, OUT outcomes smallint[]
) LANGUAGE plpgsql AS $$
DECLARE
    ended bigint;
    payers bigint[];
    keys uuid[];
    held bigint[];
    missing bigint;
BEGIN
    WITH input AS (
        SELECT * FROM unnest(p_holds, p_kinds, p_captured) WITH ORDINALITY AS t(hold_id, kind, captured, ord)
    ), found AS (
        -- ``first`` is the place of the order that ends the hold in this batch.
        SELECT i.*, h.id IS NULL AS unknown, h.account_id, h.api_key_id, h.amount_micro,
            r.kind AS ended_kind, r.captured_micro AS ended_captured,
            (min(i.ord) FILTER (WHERE i.captured <= h.amount_micro AND r.hold_id IS NULL)
                OVER (PARTITION BY i.hold_id))::integer AS first
        FROM input i
        LEFT JOIN ledger_holds h ON h.id = i.hold_id
        LEFT JOIN ledger_resolutions r ON r.hold_id = i.hold_id
    ), judged AS (
        SELECT ord, account_id, api_key_id, amount_micro, CASE
            WHEN unknown THEN 2
            WHEN ended_kind = kind AND ended_captured = captured THEN 1
            WHEN ended_kind IS NOT NULL THEN 3
            WHEN ord = first THEN 0
            WHEN ord > first AND p_kinds[first] = kind AND p_captured[first] = captured THEN 1
            WHEN ord > first THEN 3
            ELSE 4 END AS outcome
        FROM found
    )
    SELECT array_agg(outcome ORDER BY ord), array_agg(account_id ORDER BY ord), array_agg(api_key_id ORDER BY ord),
        array_agg(amount_micro ORDER BY ord)
    INTO outcomes, payers, keys, held FROM judged;

    INSERT INTO ledger_resolutions (hold_id, position, kind, captured_micro, created_at)
    SELECT o.hold_id, p_head + row_number() OVER (ORDER BY o.ord), o.kind, o.captured, p_now
    FROM unnest(p_holds, p_kinds, p_captured, outcomes) WITH ORDINALITY AS o(hold_id, kind, captured, outcome, ord)
    WHERE o.outcome = 0;
    GET DIAGNOSTICS ended = ROW_COUNT;
    head := p_head + ended;

    WITH placed AS (
        INSERT INTO ledger_transfers
            (position, hold_id, debit_account_id, credit_account_id, amount_micro, kind, created_at)
        SELECT head + row_number() OVER (ORDER BY l.ord), p_holds[l.place], payers[l.place], l.account_id,
               l.amount, l.kind, p_now
        FROM unnest(p_leg_places, p_leg_accounts, p_leg_amounts, p_leg_kinds)
            WITH ORDINALITY AS l(place, account_id, amount, kind, ord)
        WHERE outcomes[l.place] = 0
        RETURNING 1
    )
    SELECT head + count(*) INTO head FROM placed;

    WITH moved AS (
        SELECT o.account_id, -o.captured AS delta, o.held AS unheld
        FROM unnest(payers, p_captured, held, outcomes) AS o(account_id, captured, held, outcome)
        WHERE o.outcome = 0
        UNION ALL
        SELECT l.account_id, l.amount, 0
        FROM unnest(p_leg_places, p_leg_accounts, p_leg_amounts) AS l(place, account_id, amount)
        WHERE outcomes[l.place] = 0
    ), summed AS (
        SELECT account_id, sum(delta)::bigint AS delta, sum(unheld)::bigint AS unheld FROM moved GROUP BY account_id
    ), posted AS (
        UPDATE ledger_accounts a SET balance_micro = a.balance_micro + s.delta, held_micro = a.held_micro - s.unheld
        FROM summed s WHERE a.id = s.account_id RETURNING 1
    )
    SELECT (SELECT count(*) FROM summed) - (SELECT count(*) FROM posted) INTO missing;
    IF missing > 0 THEN
        -- Cheaper than a foreign key, which would lock the account's row once for each leg.
        RAISE EXCEPTION 'a leg pays an account that does not exist' USING ERRCODE = 'foreign_key_violation';
    END IF;

    WITH summed AS (
        SELECT o.key_id, sum(o.captured)::bigint AS captured, sum(o.held)::bigint AS unheld
        FROM unnest(keys, p_captured, held, outcomes) AS o(key_id, captured, held, outcome)
        WHERE o.outcome = 0 AND o.key_id IS NOT NULL GROUP BY o.key_id
    )
    UPDATE ledger_budgets b SET spent_micro = b.spent_micro + s.captured, held_micro = b.held_micro - s.unheld
    FROM summed s WHERE b.api_key_id = s.key_id;

    INSERT INTO receipts (id, account_id, body, created_at)
    SELECT o.hold_id, o.account_id, o.body, p_now
    FROM unnest(p_holds, payers, p_receipts, outcomes) AS o(hold_id, account_id, body, outcome)
    WHERE o.outcome = 0 AND o.body IS NOT NULL;

    IF array_position(p_kinds, 2::smallint) IS NOT NULL THEN
        -- A request that was let go frees its Idempotency-Key, so that the caller's next try is a real one.
        DELETE FROM idempotency_keys i USING unnest(p_holds, p_kinds, outcomes) AS o(hold_id, kind, outcome)
        WHERE i.request_id = o.hold_id AND o.kind = 2 AND o.outcome = 0;
    END IF;
    IF p_answers IS NOT NULL THEN
        UPDATE idempotency_keys i SET answer = o.answer
        FROM unnest(p_holds, p_answers, outcomes) AS o(hold_id, answer, outcome)
        WHERE i.request_id = o.hold_id AND o.outcome = 0 AND o.answer IS NOT NULL;
    END IF;
END $$;
