-- API keys: what they may do, what they use, and what became of them.
SET search_path = ledger, public;
-- Behind this everybody waits who asks for calls, so it does not wait long itself for one who is at it: it fails, changes
-- nothing, and can be run again.
SET LOCAL lock_timeout = '10s';

-- Mutable, and erased with the user. What happened to a key is in the log, without its name.
CREATE TABLE public.api_keys (
    key_id        UUID PRIMARY KEY,
    user_id       UUID NOT NULL REFERENCES public.users,
    name          TEXT NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 255),
    role          TEXT NOT NULL CHECK (role IN ('user', 'service')),
    scopes        TEXT[] NOT NULL,
    -- Where it may be used from; empty is anywhere.
    networks      TEXT[] NOT NULL,
    -- Units a month, below the plan's limit; null is as many as that.
    budget        BIGINT CHECK (budget >= 0),
    created_at    TIMESTAMPTZ NOT NULL,
    -- A user's UUID, or the operator's name.
    created_by    TEXT NOT NULL,
    expires_at    TIMESTAMPTZ,
    revoked_at    TIMESTAMPTZ,
    -- Of a revocation that may not be in the log yet: its event, and who acted in which role.
    unlogged_id   UUID,
    unlogged_kind TEXT,
    unlogged_by   TEXT,
    -- Give or take a minute.
    last_used_at  TIMESTAMPTZ,
    CONSTRAINT api_keys_unlogged CHECK (
        (unlogged_id IS NULL) = (unlogged_kind IS NULL) AND (unlogged_id IS NULL) = (unlogged_by IS NULL)
        AND (unlogged_id IS NULL OR revoked_at IS NOT NULL))
);
CREATE INDEX api_keys_user_id ON public.api_keys (user_id, key_id);
CREATE INDEX api_keys_unlogged_id ON public.api_keys (unlogged_id) WHERE unlogged_id IS NOT NULL;

-- A key has several while its secret is being exchanged; what it is, and what it uses, stays with the key.
CREATE TABLE public.api_key_secrets (
    -- SHA-256 of the whole key: of 178 random bits, so that no salt is needed.
    hash       BYTEA PRIMARY KEY CHECK (octet_length(hash) = 32),
    key_id     UUID NOT NULL REFERENCES public.api_keys ON DELETE CASCADE,
    prefix     TEXT NOT NULL,
    last_four  TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    ends_at    TIMESTAMPTZ
);
CREATE INDEX api_key_secrets_key_id ON public.api_key_secrets (key_id, created_at);

-- Number of changes to all of that, last_used_at apart: whoever remembers keys looks at it every second. Its row is
-- locked by each change until that commits, so no number is seen before what it counts.
CREATE TABLE public.api_key_changes (
    only_row BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    number   BIGINT NOT NULL
);
INSERT INTO public.api_key_changes (number) VALUES (0);

-- Of a refusal by the budget of a key.
ALTER TABLE limit_rejections ADD COLUMN key_id UUID;

-- Looked at first of all, while nobody waits for calls: its rows are read once.
-- Keys are links of their user's chain: token_id is the key's id then, and token_type `api_key`.
ALTER TABLE token_audit DROP CONSTRAINT token_audit_action_check;
ALTER TABLE token_audit ADD CONSTRAINT token_audit_action_check CHECK (
    action IN ('stored', 'deleted', 'used', 'erased', 'key_created', 'key_changed', 'key_rotated', 'key_revoked')
);

-- The key that a call came with, if it did. A column that is null in every row is no work.
ALTER TABLE api_usage ADD COLUMN key_id UUID;
-- Months that were detached have the same, so that they can be attached again.
DO $$
DECLARE
    detached RECORD;
BEGIN
    FOR detached IN
        SELECT c.oid::regclass::text AS name FROM pg_class c
        WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
          AND c.relname ~ '^api_usage_\d{4}_\d{2}$'
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS key_id UUID', detached.name);
    END LOOP;
END
$$;

-- Counted units of a key's calls since its user's last reset of the month. No row is none.
CREATE TABLE monthly_key_usage (
    user_id    UUID NOT NULL,
    month_year TEXT NOT NULL CHECK (month_year ~ '^\d{4}-\d{2}$'),
    key_id     UUID NOT NULL,
    units      BIGINT NOT NULL CHECK (units >= 0),
    PRIMARY KEY (user_id, month_year, key_id)
) WITH (fillfactor = 70);
