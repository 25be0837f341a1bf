-- The ledger's rules, set-based: one call moves a whole batch in one transaction.
--
-- Every writer first locks the one row of ledger_head, so batches follow each other and positions have no gap.
-- Outcomes are answered by the order of the input arrays, and are those of the same orders sent one after the other.
--
-- hold outcomes:    0 held, 1 held before (same id), 2 no funds, 3 key over its cap, 4 key revoked, expired or unknown,
--                   5 account unknown, 6 id was used for another hold, or for this one and it has ended
-- settle outcomes:  0 done, 1 done before in the same way, 2 hold unknown, 3 hold ended before in another way,
--                   4 more than was held

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
                    AND h.api_key_id IS NOT DISTINCT FROM i.key_id AND r.hold_id IS NULL THEN 1
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
        LEFT JOIN ledger_resolutions r ON r.hold_id = h.id
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

CREATE FUNCTION ledger_reserve(p_account bigint, p_key uuid, p_amount bigint) RETURNS smallint
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger_accounts SET held_micro = held_micro + p_amount
    WHERE id = p_account AND (allow_negative OR balance_micro - held_micro >= p_amount);
    IF NOT FOUND THEN
        RETURN 2;
    END IF;
    IF p_key IS NOT NULL THEN
        UPDATE ledger_budgets SET held_micro = held_micro + p_amount
        WHERE api_key_id = p_key AND (cap_micro IS NULL OR cap_micro - spent_micro - held_micro >= p_amount);
        IF NOT FOUND THEN
            UPDATE ledger_accounts SET held_micro = held_micro - p_amount WHERE id = p_account;
            RETURN 3;
        END IF;
    END IF;
    RETURN 0;
END $$;

CREATE FUNCTION ledger_settle(
    p_head bigint, p_now timestamptz, p_holds uuid[], p_kinds smallint[], p_captured bigint[],
    p_receipts bytea[], p_answers bytea[], p_leg_places integer[], p_leg_accounts bigint[], p_leg_amounts bigint[],
    p_leg_kinds text[], OUT head bigint, OUT outcomes smallint[]
) LANGUAGE plpgsql AS $$
DECLARE
    ended bigint;
    missing bigint;
BEGIN
    WITH input AS (
        SELECT * FROM unnest(p_holds, p_kinds, p_captured) WITH ORDINALITY AS t(hold_id, kind, captured, ord)
    ), found AS (
        -- ``first`` is the place of the order that ends the hold in this batch.
        SELECT i.*, h.id IS NULL AS unknown, r.kind AS ended_kind, r.captured_micro AS ended_captured,
            (min(i.ord) FILTER (WHERE i.captured <= h.amount_micro AND r.hold_id IS NULL)
                OVER (PARTITION BY i.hold_id))::integer AS first
        FROM input i
        LEFT JOIN ledger_holds h ON h.id = i.hold_id
        LEFT JOIN ledger_resolutions r ON r.hold_id = i.hold_id
    ), judged AS (
        SELECT ord, CASE
            WHEN unknown THEN 2
            WHEN ended_kind = kind AND ended_captured = captured THEN 1
            WHEN ended_kind IS NOT NULL THEN 3
            WHEN ord = first THEN 0
            WHEN ord > first AND p_kinds[first] = kind AND p_captured[first] = captured THEN 1
            WHEN ord > first THEN 3
            ELSE 4 END AS outcome
        FROM found
    )
    SELECT array_agg(outcome ORDER BY ord) INTO outcomes FROM judged;

    INSERT INTO ledger_resolutions (hold_id, position, kind, captured_micro, created_at)
    SELECT o.hold_id, p_head + row_number() OVER (ORDER BY o.ord), o.kind, o.captured, p_now
    FROM unnest(p_holds, p_kinds, p_captured, outcomes) WITH ORDINALITY AS o(hold_id, kind, captured, outcome, ord)
    WHERE o.outcome = 0;
    GET DIAGNOSTICS ended = ROW_COUNT;
    head := p_head + ended;

    WITH placed AS (
        INSERT INTO ledger_transfers
            (position, hold_id, debit_account_id, credit_account_id, amount_micro, kind, created_at)
        SELECT head + row_number() OVER (ORDER BY l.ord), p_holds[l.place], h.account_id, l.account_id, l.amount,
               l.kind, p_now
        FROM unnest(p_leg_places, p_leg_accounts, p_leg_amounts, p_leg_kinds)
            WITH ORDINALITY AS l(place, account_id, amount, kind, ord)
        JOIN ledger_holds h ON h.id = p_holds[l.place]
        WHERE outcomes[l.place] = 0
        RETURNING 1
    )
    SELECT head + count(*) INTO head FROM placed;

    WITH moved AS (
        SELECT h.account_id, -o.captured AS delta, h.amount_micro AS unheld
        FROM unnest(p_holds, p_captured, outcomes) AS o(hold_id, captured, outcome)
        JOIN ledger_holds h ON h.id = o.hold_id WHERE o.outcome = 0
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
        SELECT h.api_key_id, sum(o.captured)::bigint AS captured, sum(h.amount_micro)::bigint AS unheld
        FROM unnest(p_holds, p_captured, outcomes) AS o(hold_id, captured, outcome)
        JOIN ledger_holds h ON h.id = o.hold_id
        WHERE o.outcome = 0 AND h.api_key_id IS NOT NULL GROUP BY h.api_key_id
    )
    UPDATE ledger_budgets b SET spent_micro = b.spent_micro + s.captured, held_micro = b.held_micro - s.unheld
    FROM summed s WHERE b.api_key_id = s.api_key_id;

    INSERT INTO receipts (id, account_id, body, created_at)
    SELECT o.hold_id, h.account_id, o.body, p_now
    FROM unnest(p_holds, p_receipts, outcomes) AS o(hold_id, body, outcome)
    JOIN ledger_holds h ON h.id = o.hold_id WHERE o.outcome = 0 AND o.body IS NOT NULL;

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

-- One batch: first what ends (its money becomes free), then what begins.
-- The plans are fixed to index look-ups: between two runs of autovacuum a table of thousands of new rows passes for an
-- empty one, and a plan made then would read all of it for every batch.
CREATE FUNCTION ledger_apply(
    p_holds uuid[], p_kinds smallint[], p_captured bigint[], p_receipts bytea[], p_answers bytea[],
    p_leg_places integer[], p_leg_accounts bigint[], p_leg_amounts bigint[], p_leg_kinds text[],
    p_ids uuid[], p_accounts bigint[], p_keys uuid[], p_amounts bigint[], p_ttl_s integer,
    OUT settled smallint[], OUT held smallint[]
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    before bigint;
    after bigint;
    swept timestamptz;
    at timestamptz;
BEGIN
    SELECT position, swept_until INTO before, swept FROM ledger_head WHERE id = 1 FOR UPDATE;
    at := clock_timestamp();
    after := before;
    settled := '{}';
    held := '{}';
    IF cardinality(p_holds) > 0 THEN
        SELECT s.head, s.outcomes INTO after, settled FROM ledger_settle(
            after, at, p_holds, p_kinds, p_captured, p_receipts, p_answers,
            p_leg_places, p_leg_accounts, p_leg_amounts, p_leg_kinds) s;
    END IF;
    IF cardinality(p_ids) > 0 THEN
        -- Should the clock have been set back, the hold still ends after what the sweep has passed already.
        SELECT h.head, h.outcomes INTO after, held FROM ledger_hold(
            after, at, p_ids, p_accounts, p_keys, p_amounts,
            greatest(at, swept) + make_interval(secs => p_ttl_s)) h;
    END IF;
    IF after > before THEN
        UPDATE ledger_head SET position = after WHERE id = 1;
    END IF;
END $$;

-- Ends holds whose time is over, in one bounded step: looks at the next p_limit holds by the time they end (and those
-- that end with the last of them), so that the lock is short whatever has piled up. ``done`` when no more are due.
CREATE FUNCTION ledger_expire(p_limit integer, OUT ended integer, OUT done boolean) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    before bigint;
    swept timestamptz;
    until timestamptz;
    at timestamptz;
    due uuid[];
BEGIN
    SELECT position, swept_until INTO before, swept FROM ledger_head WHERE id = 1 FOR UPDATE;
    at := greatest(clock_timestamp(), swept);
    SELECT expires_at INTO until FROM ledger_holds
    WHERE expires_at > swept AND expires_at <= at ORDER BY expires_at OFFSET p_limit - 1 LIMIT 1;
    done := until IS NULL;
    until := coalesce(until, at);
    SELECT coalesce(array_agg(h.id ORDER BY h.position), '{}') INTO due FROM ledger_holds h
    LEFT JOIN ledger_resolutions r ON r.hold_id = h.id
    WHERE h.expires_at > swept AND h.expires_at <= until AND r.hold_id IS NULL;
    ended := cardinality(due);
    UPDATE ledger_head SET position = before + ended, swept_until = until WHERE id = 1;
    IF ended = 0 THEN
        RETURN;
    END IF;
    INSERT INTO ledger_resolutions (hold_id, position, kind, captured_micro, created_at)
    SELECT d.id, before + d.ord, 3, 0, at FROM unnest(due) WITH ORDINALITY AS d(id, ord);
    UPDATE ledger_accounts a SET held_micro = a.held_micro - s.amount FROM (
        SELECT account_id, sum(amount_micro)::bigint AS amount FROM ledger_holds WHERE id = ANY (due) GROUP BY 1
    ) s WHERE a.id = s.account_id;
    UPDATE ledger_budgets b SET held_micro = b.held_micro - s.amount FROM (
        SELECT api_key_id, sum(amount_micro)::bigint AS amount FROM ledger_holds
        WHERE id = ANY (due) AND api_key_id IS NOT NULL GROUP BY 1
    ) s WHERE b.api_key_id = s.api_key_id;
    DELETE FROM idempotency_keys WHERE request_id = ANY (due) AND answer IS NULL;
END $$;

-- A posting outside a hold (grant, payout, correction). Outcomes: 0 done, 1 done before, 2 no funds,
-- 5 account unknown, 6 id was used for another transfer.
CREATE FUNCTION ledger_transfer(p_id uuid, p_debit text, p_credit text, p_amount bigint, p_kind text)
RETURNS smallint LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
    debit bigint;
    credit bigint;
    known ledger_transfers;
BEGIN
    SELECT position INTO before FROM ledger_head WHERE id = 1 FOR UPDATE;
    SELECT id INTO debit FROM ledger_accounts WHERE name = p_debit;
    SELECT id INTO credit FROM ledger_accounts WHERE name = p_credit;
    IF debit IS NULL OR credit IS NULL THEN
        RETURN 5;
    END IF;
    SELECT * INTO known FROM ledger_transfers WHERE id = p_id;
    IF FOUND THEN
        RETURN CASE WHEN known.debit_account_id = debit AND known.credit_account_id = credit
            AND known.amount_micro = p_amount AND known.kind = p_kind THEN 1 ELSE 6 END;
    END IF;
    UPDATE ledger_accounts SET balance_micro = balance_micro - p_amount
    WHERE id = debit AND (allow_negative OR balance_micro - held_micro >= p_amount);
    IF NOT FOUND THEN
        RETURN 2;
    END IF;
    UPDATE ledger_accounts SET balance_micro = balance_micro + p_amount WHERE id = credit;
    INSERT INTO ledger_transfers (position, id, debit_account_id, credit_account_id, amount_micro, kind, created_at)
    VALUES (before + 1, p_id, debit, credit, p_amount, p_kind, clock_timestamp());
    UPDATE ledger_head SET position = before + 1 WHERE id = 1;
    RETURN 0;
END $$;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_holds
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_resolutions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON receipts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
