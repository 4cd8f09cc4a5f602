-- Calls are found by their user and time, and in one index they are unique as well. Hours are a cache.
SET search_path = ledger, public;
-- Behind this everybody waits who asks for calls, so it does not wait long itself for one who is at it: it fails, changes
-- nothing, and can be run again.
SET LOCAL lock_timeout = '10s';

-- An id that a client chose is a hash: in an index by id, each of its rows touched a page of its own. The month's rows
-- are kept by user and time instead, which is how they are read. The same id at the same time is one call of its user,
-- whatever else is remembered of it.
ALTER TABLE api_usage DROP CONSTRAINT api_usage_pkey;
DROP INDEX api_usage_user_id_created_at;
ALTER TABLE api_usage ADD PRIMARY KEY (user_id, created_at, id);
-- Calls that our own api made can be asked for by their id alone. Those ids are UUIDs of version 7, which come in the order
-- of time: a page at the right edge takes them all. The ids of clients' calls are of version 8 and not in it. A query that
-- is to use it repeats the condition.
CREATE INDEX api_usage_made_here ON api_usage (id) WHERE get_byte(uuid_send(id), 6) >> 4 = 7;

-- Months that were detached have the same, so that they can be attached again.
DO $$
DECLARE
    detached RECORD;
    dropped RECORD;
BEGIN
    FOR detached IN
        SELECT c.oid, c.oid::regclass::text AS name FROM pg_class c
        WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
          AND c.relname ~ '^api_usage_\d{4}_\d{2}$'
    LOOP
        FOR dropped IN SELECT conname FROM pg_constraint WHERE conrelid = detached.oid AND contype = 'p' LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', detached.name, dropped.conname);
        END LOOP;
        FOR dropped IN
            SELECT indexrelid::regclass::text AS name FROM pg_index
            WHERE indrelid = detached.oid AND pg_get_indexdef(indexrelid) LIKE '%(user_id, created_at)'
        LOOP
            EXECUTE format('DROP INDEX %s', dropped.name);
        END LOOP;
        EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (user_id, created_at, id)', detached.name);
        EXECUTE format('CREATE INDEX ON %s (id) WHERE get_byte(uuid_send(id), 6) >> 4 = 7', detached.name);
    END LOOP;
END
$$;

-- Hours are a cache: made behind the checkpoint of days with many calls, complete or absent. Days are sums of hours.
DROP TABLE usage_daily;

-- Users' days with many calls. What changes a call of a complete hour, or of a day that is being read, changes the day's
-- row first and then takes the hour out of usage_hourly, in one transaction and behind the checkpoint's lock.
CREATE TABLE compacted_days (
    user_id UUID NOT NULL,
    -- Midnight in UTC.
    day     TIMESTAMPTZ NOT NULL,
    -- The hours that usage_hourly has, complete: bit 0 is the first.
    hours   INTEGER NOT NULL DEFAULT 0 CHECK (hours BETWEEN 0 AND 16777215),
    -- Of whoever reads the day's calls now. Gone when one of them changed meanwhile.
    claim   UUID,
    -- When there may be something to do, by the clock; null when nothing is left.
    due_at  TIMESTAMPTZ,
    PRIMARY KEY (user_id, day)
);
CREATE INDEX compacted_days_due_at ON compacted_days (due_at) WHERE due_at IS NOT NULL;

-- What lets a batch see at a glance that it changes no compacted hour.
CREATE TABLE hour_compaction (
    partition SMALLINT PRIMARY KEY,
    -- No hour from here on is compacted.
    frontier  TIMESTAMPTZ NOT NULL,
    -- A bit for the hash of each user with a compacted hour.
    users     BYTEA NOT NULL
);

-- The hours of before are made anew, of the days that are worth it.
INSERT INTO compacted_days (user_id, day, due_at)
SELECT user_id, date_trunc('day', bucket, 'UTC'), now() FROM usage_hourly GROUP BY 1, 2 HAVING sum(calls) >= 1000;
TRUNCATE usage_hourly;
-- Its rows are never updated any more.
ALTER TABLE usage_hourly RESET (fillfactor);
