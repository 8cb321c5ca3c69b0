-- The knarr schema in the target: plan, lease, ledger, undo log, verdicts and audit trail of every run.
-- Installed in one transaction under an advisory lock; every statement holds when it is run again, and it is run again
-- where an older version stands: so a column that came later also has its ADD COLUMN IF NOT EXISTS.

CREATE SCHEMA IF NOT EXISTS knarr;

CREATE TABLE IF NOT EXISTS knarr.version (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version     integer NOT NULL
);
INSERT INTO knarr.version (version) VALUES (4)
ON CONFLICT (only_row) DO UPDATE SET version = excluded.version WHERE knarr.version.version < excluded.version;

CREATE TABLE IF NOT EXISTS knarr.run (
    run_id        text PRIMARY KEY,                -- the workflow id
    plan_name     text NOT NULL,
    plan_hash     text NOT NULL,                   -- SHA-256 of the plan's canonical JSON, hex
    plan          json NOT NULL,                   -- the plan as loaded (knarr.plan.models.Plan); jsonb would lose the
                                                   -- order of its columns
    survey        json,                            -- versions, identities, problems; mappings are rows of their own
    state         text NOT NULL DEFAULT 'running', -- running, sealed, completed, rolled back, aborted
    source_alias  text NOT NULL,
    target_alias  text NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at      timestamptz
);
-- Nothing here is ever taken away: workers of an older version go on while the new ones come. Up to version 3 this
-- column held a decision about all of a run's tables, for good.
ALTER TABLE knarr.run ADD COLUMN IF NOT EXISTS changed_since text;

-- Who may write to the target now. An epoch only grows; no wall clock takes a lease away.
CREATE TABLE IF NOT EXISTS knarr.lease (
    lease_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id      text NOT NULL UNIQUE REFERENCES knarr.run,
    epoch       bigint NOT NULL DEFAULT 1,
    released    boolean NOT NULL DEFAULT false
);

-- Runs that ended before their claim arrived: an activity that was given up may still come, and must find this.
CREATE TABLE IF NOT EXISTS knarr.never_claimed (
    run_id      text PRIMARY KEY
);

-- One row per target table that a run holds; the primary key is the mutual exclusion.
CREATE TABLE IF NOT EXISTS knarr.claim (
    table_schema  text NOT NULL,
    table_name    text NOT NULL,
    run_id        text NOT NULL REFERENCES knarr.run,
    PRIMARY KEY (table_schema, table_name)
);

CREATE TABLE IF NOT EXISTS knarr.mapping (
    run_id      text NOT NULL REFERENCES knarr.run,
    mapping     integer NOT NULL,
    name        text NOT NULL,
    resolved    json NOT NULL,                     -- knarr.plan.resolved.ResolvedMapping
    table_sql   text,                              -- the target table, quoted and qualified, and which one that is:
    table_oid   oid,                               -- it may be given another name, and another table its own
    part_oids   oid[] NOT NULL DEFAULT '{}',       -- its partitions: one may be detached, with rows in it
    PRIMARY KEY (run_id, mapping)
);
ALTER TABLE knarr.mapping
    ADD COLUMN IF NOT EXISTS table_sql text,
    ADD COLUMN IF NOT EXISTS table_oid oid,
    ADD COLUMN IF NOT EXISTS part_oids oid[] NOT NULL DEFAULT '{}';

CREATE TABLE IF NOT EXISTS knarr.partition (
    run_id          text NOT NULL,
    mapping         integer NOT NULL,
    partition       integer NOT NULL,
    lower_bound     text[],                        -- NULL: from the start
    upper_bound     text[],                        -- NULL: to the end
    estimated_rows  bigint NOT NULL,
    PRIMARY KEY (run_id, mapping, partition),
    FOREIGN KEY (run_id, mapping) REFERENCES knarr.mapping
);

-- What a person has decided about rows of others in a mapping's table (knarr.decide), over what the plan says. It holds
-- for the undoing in which it was asked for: every undoing begins by raising the epoch.
CREATE TABLE IF NOT EXISTS knarr.decision (
    run_id         text NOT NULL,
    mapping        integer NOT NULL,
    changed_since  text NOT NULL,
    epoch          bigint NOT NULL,
    PRIMARY KEY (run_id, mapping),
    FOREIGN KEY (run_id, mapping) REFERENCES knarr.mapping
);

-- Objects that a run made on the target; a row is written in the transaction that makes the object.
CREATE TABLE IF NOT EXISTS knarr.object (
    run_id      text NOT NULL REFERENCES knarr.run,
    sequence    bigint GENERATED ALWAYS AS IDENTITY,  -- dropped in reverse of this order
    mapping     integer NOT NULL,                  -- -1: of the run as a whole
    stage       text NOT NULL,
    kind        text NOT NULL,
    name        text NOT NULL,
    drop_sql    text NOT NULL,
    epoch       bigint NOT NULL,
    PRIMARY KEY (run_id, mapping, stage, kind, name)
);

-- Positions of sequences before a phase of the run moved them: a rollback may go back phase by phase.
CREATE TABLE IF NOT EXISTS knarr.sequence_before (
    run_id      text NOT NULL REFERENCES knarr.run,
    mapping     integer NOT NULL,
    phase       text NOT NULL,
    sequence    text NOT NULL,                     -- quoted, qualified
    last_value  bigint NOT NULL,
    is_called   boolean NOT NULL,
    left_value  bigint,                            -- where the phase moves it to; elsewhere: others have drawn from it
    left_called boolean,
    PRIMARY KEY (run_id, phase, sequence)
);
ALTER TABLE knarr.sequence_before
    ADD COLUMN IF NOT EXISTS left_value bigint,
    ADD COLUMN IF NOT EXISTS left_called boolean,
    ADD COLUMN IF NOT EXISTS phase text NOT NULL DEFAULT '',
    DROP CONSTRAINT IF EXISTS sequence_before_pkey;
ALTER TABLE knarr.sequence_before
    ALTER COLUMN phase DROP DEFAULT,
    ADD CONSTRAINT sequence_before_pkey PRIMARY KEY (run_id, phase, sequence);

-- One row per partition and phase written: inserted first in the transaction that copies the rows, so that a
-- second attempt meets this row and not the data (ledger last looks like a poisoned row: measured, M7).
CREATE TABLE IF NOT EXISTS knarr.ledger (
    run_id       text NOT NULL,
    mapping      integer NOT NULL,
    phase        text NOT NULL,
    partition    integer NOT NULL,
    epoch        bigint NOT NULL,
    attempt      integer NOT NULL,
    rows         bigint,
    bytes        bigint,
    seconds      double precision,
    copied_at    timestamptz,
    inserted     bigint,                           -- append and merge: what became of the target's rows
    updated      bigint,
    deleted      bigint,
    others       bigint,                           -- rows updated or deleted that somebody else wrote during the run
    checksum_change numeric,                       -- how it changed the sum that knarr.table_before holds
    xid          xid8,                             -- the transaction that wrote it: tells our rows from other people's
    repairs      integer NOT NULL DEFAULT 0,       -- how many times verification had its rows repaired
    repaired_at  timestamptz,
    repair_xids  xid8[] NOT NULL DEFAULT '{}',     -- the transactions that did, which wrote rows anew
    PRIMARY KEY (run_id, mapping, phase, partition),
    FOREIGN KEY (run_id, mapping, partition) REFERENCES knarr.partition
);
ALTER TABLE knarr.ledger
    ADD COLUMN IF NOT EXISTS inserted bigint,
    ADD COLUMN IF NOT EXISTS updated bigint,
    ADD COLUMN IF NOT EXISTS deleted bigint,
    ADD COLUMN IF NOT EXISTS others bigint,
    ADD COLUMN IF NOT EXISTS checksum_change numeric,
    ADD COLUMN IF NOT EXISTS xid xid8,
    ADD COLUMN IF NOT EXISTS repairs integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS repaired_at timestamptz,
    ADD COLUMN IF NOT EXISTS repair_xids xid8[] NOT NULL DEFAULT '{}';

-- The undo log of append and merge: one entry for each row changed, written in the transaction that changes it and
-- deleted in the one that takes it back; a repair that changes the row again changes the entry. No foreign key: checking one would cost more than writing the entry.
CREATE TABLE IF NOT EXISTS knarr.undo (
    run_id      text NOT NULL,
    mapping     integer NOT NULL,
    phase       text NOT NULL,
    partition   integer NOT NULL,
    sequence    bigint GENERATED ALWAYS AS IDENTITY,  -- taken back in reverse of this order
    operation   text NOT NULL CHECK (operation IN ('insert', 'update', 'delete')),
    key         text[] NOT NULL,
    before      text,                              -- the whole row as a record's text; NULL: there was none
    left_hash   bigint,                            -- hash of the row's text as we left it; NULL: we left none
    PRIMARY KEY (run_id, mapping, phase, sequence),
    CHECK ((before IS NULL) = (operation = 'insert') AND (left_hash IS NULL) = (operation = 'delete'))
);

-- What an occupied table held, within the mapping's scope, before the run's first write to it.
CREATE TABLE IF NOT EXISTS knarr.table_before (
    run_id       text NOT NULL,
    mapping      integer NOT NULL,
    columns      text[] NOT NULL,                  -- name and type of each, in order: what an entry's `before` is made of
    rows         bigint NOT NULL,
    checksum     numeric NOT NULL,                 -- sum of hashtextextended(row::text), as in the undo log
    snapshot     pg_snapshot NOT NULL,             -- who had committed by then
    others       bigint NOT NULL DEFAULT 0,        -- rows that somebody else wrote meanwhile, met by what is taken back
    recorded_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, mapping),
    FOREIGN KEY (run_id, mapping) REFERENCES knarr.mapping
);

-- One row for each transaction that took entries of the undo log back.
CREATE TABLE IF NOT EXISTS knarr.undone (
    run_id         text NOT NULL,
    mapping        integer NOT NULL,
    phase          text NOT NULL,
    xid            xid8 NOT NULL DEFAULT pg_current_xact_id(),
    entries        bigint NOT NULL,
    kept           bigint NOT NULL,                -- of these: rows left as somebody else had made them since
    kept_rows      bigint NOT NULL,                -- of these: how many were in the table before, and the sum of
    kept_checksum  numeric NOT NULL,               -- their hashes
    finished       boolean NOT NULL DEFAULT false, -- the phase was taken back to its end
    PRIMARY KEY (run_id, mapping, phase, xid),
    FOREIGN KEY (run_id, mapping) REFERENCES knarr.mapping
);

-- What verification computed, by check; a verdict is derived from these rows and from nothing else.
CREATE TABLE IF NOT EXISTS knarr.check_result (
    run_id          text NOT NULL REFERENCES knarr.run,
    phase           text NOT NULL,
    round           integer NOT NULL,              -- verification of a phase can be repeated (repair, resume)
    kind            text NOT NULL,                 -- parity, integrity, rule, cross, downstream
    name            text NOT NULL,
    mapping         integer NOT NULL DEFAULT -1,
    partition       integer NOT NULL DEFAULT -1,
    outcome         text NOT NULL,                 -- passed, failed, could not run
    result          jsonb NOT NULL,                -- knarr.verify.models.CheckResult
    computed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, phase, round, kind, name, mapping, partition)
);

CREATE TABLE IF NOT EXISTS knarr.verdict (
    run_id      text NOT NULL REFERENCES knarr.run,
    phase       text NOT NULL,
    round       integer NOT NULL,
    passed      boolean NOT NULL,
    withdrawn   boolean NOT NULL DEFAULT false,    -- set when the phase is rolled back
    document    jsonb NOT NULL,                    -- knarr.verify.models.Verdict
    digest      text NOT NULL,                     -- SHA-256 of the document's canonical JSON, hex; also in the audit trail
    PRIMARY KEY (run_id, phase, round)
);

CREATE TABLE IF NOT EXISTS knarr.checkpoint (
    run_id      text NOT NULL REFERENCES knarr.run,
    name        text NOT NULL,
    reached_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, name)
);

-- The audit trail: append-only, hash-chained per run; the head row makes a cut tail visible.
CREATE TABLE IF NOT EXISTS knarr.audit (
    run_id      text NOT NULL,
    position    bigint NOT NULL,                   -- 1, 2, 3 without a gap
    entry_key   text NOT NULL,                     -- idempotency: a retried activity appends once
    at          timestamptz NOT NULL,
    kind        text NOT NULL,
    body        text NOT NULL,                     -- canonical JSON, hashed byte for byte
    previous    bytea NOT NULL,                    -- digest of the entry before; 32 zero bytes at the start
    digest      bytea NOT NULL,
    PRIMARY KEY (run_id, position),
    UNIQUE (run_id, entry_key)
);

CREATE TABLE IF NOT EXISTS knarr.audit_head (
    run_id      text PRIMARY KEY,
    position    bigint NOT NULL,
    digest      bytea NOT NULL
);

CREATE OR REPLACE FUNCTION knarr.audit_digest(
    p_previous bytea, p_run_id text, p_position bigint, p_at timestamptz, p_kind text,
    p_key text, p_body text
) RETURNS bytea LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
    SELECT sha256(p_previous || convert_to(
        p_run_id || chr(31) || p_position::text || chr(31)
        || (extract(epoch FROM p_at) * 1000000)::bigint::text || chr(31) || p_kind || chr(31)
        || p_key || chr(31) || p_body, 'UTF8'))
$$;

-- What Temporal's history says was done must survive a crash of this server, whatever the database or the role has set
-- for others. For the transaction alone; called by all that a run writes by (the fence, and the trail).
CREATE OR REPLACE FUNCTION knarr.durably() RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'
$$;

-- Appends one entry and returns the chain's head; the same key again returns the entry that stands.
CREATE OR REPLACE FUNCTION knarr.audit_append(p_run_id text, p_key text, p_kind text, p_body text)
RETURNS TABLE (entry_position bigint, entry_digest bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    head knarr.audit_head;
    now_at timestamptz;
BEGIN
    PERFORM knarr.durably();
    INSERT INTO knarr.audit_head VALUES (p_run_id, 0, decode(repeat('00', 32), 'hex')) ON CONFLICT DO NOTHING;
    SELECT * INTO head FROM knarr.audit_head WHERE run_id = p_run_id FOR UPDATE;
    SELECT a.position, a.digest INTO entry_position, entry_digest
      FROM knarr.audit a WHERE a.run_id = p_run_id AND a.entry_key = p_key;
    IF FOUND THEN
        RETURN NEXT;
        RETURN;
    END IF;
    now_at := clock_timestamp();
    entry_position := head.position + 1;
    entry_digest := knarr.audit_digest(head.digest, p_run_id, entry_position, now_at, p_kind, p_key, p_body);
    INSERT INTO knarr.audit VALUES
        (p_run_id, entry_position, p_key, now_at, p_kind, p_body, head.digest, entry_digest);
    UPDATE knarr.audit_head SET position = entry_position, digest = entry_digest WHERE run_id = p_run_id;
    RETURN NEXT;
END
$$;

CREATE OR REPLACE FUNCTION knarr.audit_refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % on knarr.audit is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON knarr.audit
    FOR EACH ROW EXECUTE FUNCTION knarr.audit_refuse();
CREATE OR REPLACE TRIGGER audit_no_truncate BEFORE TRUNCATE ON knarr.audit
    FOR EACH STATEMENT EXECUTE FUNCTION knarr.audit_refuse();
REVOKE ALL ON knarr.audit, knarr.audit_head FROM PUBLIC;

-- What a rollback does with rows that somebody else has changed since: a person's answer when it has stopped at them.
-- It is about one mapping's table; with NULL for its name about all of the run's.
CREATE OR REPLACE FUNCTION knarr.decide(
    p_run_id text, p_mapping text, p_changed_since text, p_actor text, p_reason text
) RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
DECLARE
    about text := coalesce(p_mapping, 'every table');
BEGIN
    IF p_changed_since IS NULL OR p_changed_since NOT IN ('stop', 'keep theirs', 'restore ours') THEN
        RAISE EXCEPTION 'found %, expected stop, keep theirs or restore ours', coalesce(p_changed_since, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF coalesce(p_actor, '') = '' OR coalesce(p_reason, '') = '' THEN
        RAISE EXCEPTION 'a decision needs who and why: an auditor will read it' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT EXISTS (SELECT FROM knarr.lease WHERE run_id = p_run_id AND NOT released) THEN
        RAISE EXCEPTION 'run % is not known in this database, or has ended', p_run_id USING ERRCODE = 'no_data_found';
    END IF;
    INSERT INTO knarr.decision (run_id, mapping, changed_since, epoch)
    SELECT m.run_id, m.mapping, p_changed_since, l.epoch
      FROM knarr.mapping m JOIN knarr.lease l USING (run_id)
     WHERE m.run_id = p_run_id AND (p_mapping IS NULL OR m.name = p_mapping)
    ON CONFLICT (run_id, mapping) DO UPDATE SET changed_since = excluded.changed_since, epoch = excluded.epoch;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'run % has no mapping %; it has %', p_run_id, coalesce(p_mapping, 'yet'), coalesce(
            (SELECT string_agg(name, ', ' ORDER BY mapping) FROM knarr.mapping WHERE run_id = p_run_id), 'none')
            USING ERRCODE = 'no_data_found';
    END IF;
    PERFORM knarr.audit_append(
        p_run_id, 'decide ' || pg_current_xact_id() || ' ' || clock_timestamp(), 'operator',
        '{"accepted":true,"action":"decide","actor":' || to_json(p_actor)
        || ',"answer":' || to_json('rows of ' || about || ' that somebody else has written: ' || p_changed_since)
        || ',"reason":' || to_json(p_reason) || '}');
    RETURN about || ': ' || p_changed_since || ', until the run has been taken back; next: knarr retry ' || p_run_id
        || ', or knarr doctor --unwind ' || p_run_id || ' where its workflow is gone';
END
$$;

-- As an older version tells people to call it: about every table of the run.
CREATE OR REPLACE FUNCTION knarr.decide(p_run_id text, p_changed_since text, p_actor text, p_reason text)
RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
BEGIN
    UPDATE knarr.run SET changed_since = p_changed_since WHERE run_id = p_run_id;
    RETURN knarr.decide(p_run_id, NULL, p_changed_since, p_actor, p_reason);
END
$$;

-- A row's 32-bit xmin as the transaction's full id, and whether somebody else wrote it since a snapshot was taken.
CREATE OR REPLACE FUNCTION knarr.full_xid(p_xid xid) RETURNS xid8 LANGUAGE sql STABLE AS $$
    -- One expression, no FROM and no SET, so that it is inlined: it is asked of every row of a table.
    SELECT (pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
            - ((pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint - p_xid::text::bigint)
               & 4294967295))::text::xid8
$$;
CREATE OR REPLACE FUNCTION knarr.is_others(p_xmin xid, p_since pg_snapshot, p_ours xid8[]) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT pg_catalog.pg_visible_in_snapshot(knarr.full_xid(p_xmin), p_since)
       AND knarr.full_xid(p_xmin) <> ALL (p_ours)
$$;

-- The fence. VOLATILE plpgsql, so that the second statement has a snapshot newer than the lock (a STABLE function
-- or one SELECT reads the old epoch: measured, M2). The shared advisory lock comes first: FOR SHARE alone lets
-- busy writers starve the raise for a minute (M3). FOR KEY SHARE does not fence at all (M1).
CREATE OR REPLACE FUNCTION knarr.fence(p_lease integer, p_epoch bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
DECLARE
    epoch_now bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the fence needs READ COMMITTED, found %', current_setting('transaction_isolation')
            USING ERRCODE = 'KN002';
    END IF;
    PERFORM knarr.durably();
    PERFORM pg_advisory_xact_lock_shared(1802396018, p_lease);  -- 0x6b6e6172 and so on: 'knar'
    SELECT epoch INTO epoch_now FROM knarr.lease WHERE lease_id = p_lease FOR SHARE;
    IF epoch_now IS DISTINCT FROM p_epoch THEN
        RAISE EXCEPTION 'lost lease %: this writer has epoch %, the lease has %', p_lease, p_epoch, epoch_now
            USING ERRCODE = 'KN001';
    END IF;
END
$$;
