-- Users' tokens, what was done with them, and users who were erased.
SET search_path = ledger, public;

-- An erased user leaves a tombstone: our id, and a keyed hash by which the host's id is recognised when it comes again.
-- Every external id is stored with its hash, so that a tombstone and a newcomer meet in the unique index whatever the
-- order in which they come.
ALTER TABLE public.users DROP CONSTRAINT users_status_check;
ALTER TABLE public.users
    ADD COLUMN external_id_hash BYTEA UNIQUE CHECK (octet_length(external_id_hash) = 32),
    ADD COLUMN erased_at        TIMESTAMPTZ,
    -- When the addresses and user agents of all the erased user's calls were gone from the tables.
    ADD COLUMN blanked_at       TIMESTAMPTZ,
    ADD CONSTRAINT users_status_check CHECK (status IN ('active', 'suspended', 'erased')),
    ADD CONSTRAINT users_erased CHECK ((status = 'erased') = (erased_at IS NOT NULL) AND
        (status <> 'erased' OR (external_id IS NULL AND email IS NULL AND name IS NULL)));

-- Data keys of the ledger itself: they hash what outlives a user's own key. Rotated like those of users.
CREATE TABLE public.ledger_data_keys (
    dek_id     TEXT PRIMARY KEY CHECK (octet_length(dek_id) BETWEEN 1 AND 32),
    kid        TEXT NOT NULL,
    sealed     JSON NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT ledger_data_keys_names CHECK (kid = sealed ->> 'kid' AND dek_id = sealed ->> 'dek')
);

-- The token that a user has stored of each type, sealed: {"v","kid","dek","encrypted","iv","tag"}.
CREATE TABLE user_tokens (
    id              UUID PRIMARY KEY,
    user_id         UUID NOT NULL,
    token_type      TEXT NOT NULL,
    encrypted_token JSON NOT NULL,
    token_name      TEXT,
    masked          TEXT NOT NULL,
    fingerprint     TEXT NOT NULL,
    last_used       TIMESTAMPTZ,
    created_at      TIMESTAMPTZ NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL,
    log_seq         BIGINT NOT NULL,
    log_idx         INTEGER NOT NULL,
    CONSTRAINT user_tokens_one_of_a_type UNIQUE (user_id, token_type)
);

-- What was done with tokens, and the end of a user: one chain per user. Rows are added and never changed, but for the
-- name, address and user agent, which an erasure blanks; no hash covers these as they stand here.
CREATE TABLE token_audit (
    user_id     UUID NOT NULL,
    log_seq     BIGINT NOT NULL,
    log_idx     INTEGER NOT NULL,
    event_id    UUID NOT NULL,
    action      TEXT NOT NULL CHECK (action IN ('stored', 'deleted', 'used', 'erased')),
    token_id    UUID,
    token_type  TEXT,
    -- Of a store: the token that it took the place of.
    replaced_id UUID,
    purpose     TEXT,
    fingerprint TEXT,
    actor_kind  TEXT NOT NULL,
    actor_id    TEXT NOT NULL,
    token_name  TEXT,
    ip_address  TEXT,
    user_agent  TEXT,
    created_at  TIMESTAMPTZ NOT NULL,
    -- SHA-256 of the event's bytes as they stand in its frame.
    event_hash  BYTEA NOT NULL CHECK (octet_length(event_hash) = 32),
    -- SHA-256(the hash of the user's row before, or 32 zero bytes ‖ event_hash).
    hash        BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (user_id, log_seq, log_idx)
);

CREATE TABLE erased_users (
    user_id   UUID PRIMARY KEY,
    event_id  UUID NOT NULL,
    erased_at TIMESTAMPTZ NOT NULL,
    log_seq   BIGINT NOT NULL,
    log_idx   INTEGER NOT NULL
);
