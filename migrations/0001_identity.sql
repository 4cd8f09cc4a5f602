-- What must be mutable or erasable lives in `public`; what can be rebuilt from the log lives in `ledger`.
-- Queries name tables without a schema: the search_path decides which projection they see, so that a rebuild
-- fills `ledger_next` with the very same SQL.
CREATE SCHEMA ledger;

DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = ledger, public', current_database());
END
$$;
SET search_path = ledger, public;

CREATE TABLE public.users (
    user_id     UUID PRIMARY KEY,
    external_id TEXT UNIQUE CHECK (octet_length(external_id) BETWEEN 1 AND 255),
    email       TEXT CHECK (octet_length(email) <= 255),
    name        TEXT CHECK (octet_length(name) <= 255),
    status      TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    created_at  TIMESTAMPTZ NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL
);

-- One row per (principal, method, path, key); the event's id is fixed before the first publish, so a retry after a
-- crash publishes the same event. `status_code` is null while the first request still runs.
CREATE TABLE public.idempotency_keys (
    principal    UUID NOT NULL,
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    key          TEXT NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    body_hash    BYTEA NOT NULL,
    event_id     UUID NOT NULL,
    status_code  SMALLINT,
    headers      TEXT,
    response     BYTEA,
    locked_until TIMESTAMPTZ NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (principal, method, path, key)
);
CREATE INDEX idempotency_keys_created_at ON public.idempotency_keys (created_at);

-- Ranges of the log that an operator declared lost or unreadable; projector, rebuild and verify pass exactly these.
CREATE TABLE public.accepted_gaps (
    stream      TEXT NOT NULL,
    seq_from    BIGINT NOT NULL CHECK (seq_from > 0),
    seq_to      BIGINT NOT NULL CHECK (seq_to >= seq_from),
    kind        TEXT NOT NULL CHECK (kind IN ('missing', 'damaged', 'truncated')),
    reason      TEXT NOT NULL,
    accepted_at TIMESTAMPTZ NOT NULL,
    event_id    UUID NOT NULL,
    -- The checkpoint that an accepted truncation takes back, once: what is lost later, even in the same range, is
    -- another loss.
    lost_seq      BIGINT,
    lost_frame_id TEXT,
    is_spent      BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (stream, seq_from, seq_to, kind),
    CONSTRAINT accepted_gaps_lost CHECK (
        (kind = 'truncated') = (lost_seq IS NOT NULL) AND (kind = 'truncated') = (lost_frame_id IS NOT NULL))
);

-- What each worker says of itself, so that readyz can name the reason why nothing is projected. Written on every change
-- and every few seconds by the database's clock: an old heartbeat is a worker that is gone.
CREATE TABLE public.projector_status (
    partition    SMALLINT NOT NULL,
    instance     UUID NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('standby', 'running', 'retrying', 'stopped')),
    reason       TEXT,
    seq          BIGINT NOT NULL,
    heartbeat_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (partition, instance)
);
