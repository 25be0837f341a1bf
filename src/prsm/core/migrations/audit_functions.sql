-- Changes of watched tables go into audit_pending in the transaction that makes them, whoever makes them.
--
-- One row for each statement (or more, where it changed many rows). A row of a table goes in as its "form": each column
-- as text; a column under the rule skip:COLUMN is left out, one under secret:COLUMN or longer than 256 bytes is
-- {"sha256": hex of its text}, one under personal:COLUMN:SUBJECT is {"salted": hex of sha256(salt || text)} with the salt
-- of the principal whose id the column SUBJECT ends with.

CREATE FUNCTION audit_salt(p_subject uuid) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    found_salt bytea;
BEGIN
    INSERT INTO subject_salts (subject_id, salt)
    VALUES (p_subject, sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))) ON CONFLICT DO NOTHING;
    SELECT salt INTO found_salt FROM subject_salts WHERE subject_id = p_subject;
    RETURN found_salt;
END $$;

CREATE FUNCTION audit_form(p_row jsonb, p_rules text[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    form jsonb := '{}';
    name text;
    value text;
    rule text[];
    subject uuid;
BEGIN
    FOR name, value IN SELECT each.key, each.value FROM jsonb_each_text(p_row) each LOOP
        rule := (SELECT string_to_array(r, ':') FROM unnest(p_rules) r WHERE split_part(r, ':', 2) = name LIMIT 1);
        CONTINUE WHEN rule[1] = 'skip';
        subject := CASE WHEN rule[1] = 'personal' THEN substring(p_row ->> rule[3] FROM '[0-9a-f-]{36}$')::uuid END;
        IF value IS NULL OR (rule[1] = 'personal' AND value = '') THEN
            form := form || jsonb_build_object(name, value);
        ELSIF subject IS NOT NULL THEN
            form := form || jsonb_build_object(name, jsonb_build_object('salted', encode(sha256(
                audit_salt(subject) || convert_to(value, 'UTF8')), 'hex')));
        ELSIF rule[1] IN ('secret', 'personal') OR octet_length(value) > 256 THEN
            form := form || jsonb_build_object(name, jsonb_build_object('sha256',
                encode(sha256(convert_to(value, 'UTF8')), 'hex')));
        ELSE
            form := form || jsonb_build_object(name, value);
        END IF;
    END LOOP;
    RETURN form;
END $$;

CREATE FUNCTION audit_actor() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('prsm.actor', true), ''), CASE
        WHEN current_setting('application_name') LIKE 'prsm%' THEN 'system'
        ELSE 'database:' || session_user || ' ' || current_setting('application_name') END)
$$;

-- Rows go in by parts small enough for an entry of the log, which has at most 65,535 bytes.
CREATE FUNCTION audit_write(p_what text, p_op text, p_rows jsonb[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    part jsonb[] := '{}';
    part_bytes integer := 0;
    one jsonb;
BEGIN
    FOREACH one IN ARRAY coalesce(p_rows, '{}') LOOP
        IF part_bytes > 0 AND part_bytes + octet_length(one::text) > 16000 THEN
            INSERT INTO audit_pending (at, actor, request, what, op, rows) VALUES (clock_timestamp(), audit_actor(),
                coalesce(current_setting('prsm.request', true), ''), p_what, p_op, to_jsonb(part));
            part := '{}';
            part_bytes := 0;
        END IF;
        part := part || one;
        part_bytes := part_bytes + octet_length(one::text);
    END LOOP;
    IF part_bytes > 0 THEN
        INSERT INTO audit_pending (at, actor, request, what, op, rows) VALUES (clock_timestamp(), audit_actor(),
            coalesce(current_setting('prsm.request', true), ''), p_what, p_op, to_jsonb(part));
    END IF;
END $$;

-- What happened and is no change of a table: who read what of whom, an erasure. Facts are texts by name.
CREATE FUNCTION audit_note(p_what text, p_facts jsonb) RETURNS void LANGUAGE sql AS $$
    SELECT audit_write(p_what, 'event', ARRAY[p_facts])
$$;

CREATE FUNCTION audit_changed(p_was jsonb, p_now jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN p_was IS NULL THEN jsonb_build_object('now', p_now)
        WHEN p_now IS NULL THEN jsonb_build_object('was', p_was)
        ELSE jsonb_build_object('now', p_now, 'was', (SELECT jsonb_object_agg(each.key, each.value)
            FROM jsonb_each(p_was) each WHERE p_now -> each.key IS DISTINCT FROM each.value)) END
$$;

CREATE FUNCTION audit_statement() RETURNS trigger LANGUAGE plpgsql
SET timezone = 'UTC' SET bytea_output = 'hex' SET datestyle = 'ISO' SET extra_float_digits = 1 AS $$
DECLARE
    watched audit_tables;
BEGIN
    SELECT * INTO watched FROM audit_tables WHERE name = TG_TABLE_NAME;
    IF TG_OP = 'INSERT' THEN
        PERFORM audit_write(TG_TABLE_NAME, 'insert', array_agg(audit_changed(NULL, audit_form(to_jsonb(n), watched.rules))))
        FROM new_rows n;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM audit_write(TG_TABLE_NAME, 'delete', array_agg(audit_changed(audit_form(to_jsonb(o), watched.rules), NULL)))
        FROM old_rows o;
    ELSIF TG_OP = 'UPDATE' THEN
        WITH o AS (SELECT audit_form(to_jsonb(t), watched.rules) AS form FROM old_rows t),
            n AS (SELECT audit_form(to_jsonb(t), watched.rules) AS form FROM new_rows t),
            old_keyed AS (SELECT form, (SELECT array_agg(form ->> c) FROM unnest(watched.key_columns) c) AS key FROM o),
            new_keyed AS (SELECT form, (SELECT array_agg(form ->> c) FROM unnest(watched.key_columns) c) AS key FROM n)
        SELECT audit_write(TG_TABLE_NAME, 'update', array_agg(audit_changed(ok.form, nk.form)))
        FROM old_keyed ok FULL JOIN new_keyed nk USING (key) WHERE ok.form IS DISTINCT FROM nk.form INTO watched.name;
    ELSE
        PERFORM audit_write(TG_TABLE_NAME, 'truncate', ARRAY['{}'::jsonb]);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql
SET timezone = 'UTC' SET bytea_output = 'hex' SET datestyle = 'ISO' SET extra_float_digits = 1 AS $$
DECLARE
    rules text[] := coalesce((SELECT t.rules FROM audit_tables t WHERE t.name = TG_TABLE_NAME), '{}');
BEGIN
    PERFORM audit_write(TG_TABLE_NAME, lower(TG_OP), ARRAY[audit_changed(
        CASE WHEN TG_OP = 'UPDATE' THEN audit_form(to_jsonb(OLD), rules) END, audit_form(to_jsonb(NEW), rules))]);
    RETURN NULL;
END $$;

-- Watch a table from now on; what it holds already goes in as its baseline. With p_update_of, an update counts only where
-- it changes one of these columns, and costs nothing where its statement does not name them.
CREATE FUNCTION audit_watch(p_table text, p_rules text[], p_update_of text[] DEFAULT NULL) RETURNS void LANGUAGE plpgsql
SET timezone = 'UTC' SET bytea_output = 'hex' SET datestyle = 'ISO' SET extra_float_digits = 1 AS $$
DECLARE
    keys text[];
    forms jsonb[];
BEGIN
    SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum)) INTO keys
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = p_table::regclass AND i.indisprimary;
    INSERT INTO audit_tables (name, key_columns, rules) VALUES (p_table, keys, p_rules);
    EXECUTE format('CREATE TRIGGER audit_insert AFTER INSERT ON %I REFERENCING NEW TABLE AS new_rows '
        'FOR EACH STATEMENT EXECUTE FUNCTION audit_statement()', p_table);
    EXECUTE format('CREATE TRIGGER audit_delete AFTER DELETE ON %I REFERENCING OLD TABLE AS old_rows '
        'FOR EACH STATEMENT EXECUTE FUNCTION audit_statement()', p_table);
    EXECUTE format('CREATE TRIGGER audit_truncate AFTER TRUNCATE ON %I '
        'FOR EACH STATEMENT EXECUTE FUNCTION audit_statement()', p_table);
    IF p_update_of IS NULL THEN
        EXECUTE format('CREATE TRIGGER audit_update AFTER UPDATE ON %I REFERENCING OLD TABLE AS old_rows '
            'NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit_statement()', p_table);
    ELSE
        EXECUTE format('CREATE TRIGGER audit_update AFTER UPDATE OF %s ON %I FOR EACH ROW WHEN (%s) '
            'EXECUTE FUNCTION audit_row()', (SELECT string_agg(format('%I', c), ', ') FROM unnest(p_update_of) c),
            p_table, (SELECT string_agg(format('OLD.%I IS DISTINCT FROM NEW.%I', c, c), ' OR ') FROM unnest(p_update_of) c));
    END IF;
    PERFORM audit_note('audit.watched', jsonb_build_object('table', p_table, 'rules', array_to_string(p_rules, ' ')));
    EXECUTE format('SELECT array_agg(jsonb_build_object(''now'', audit_form(to_jsonb(t), $1))) FROM %I t', p_table)
        INTO forms USING p_rules;
    PERFORM audit_write(p_table, 'baseline', forms);
END $$;
