-- Calls are found by their user and time, and in one index they are unique as well.
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
