-- Keys that seal users' secrets. Data keys lie here wrapped, never open; the root keys are in no database at all.
SET search_path = ledger, public;

-- What tells a changed root key from the right one, written when a key is first used.
CREATE TABLE public.encryption_keys (
    kid         TEXT PRIMARY KEY CHECK (octet_length(kid) BETWEEN 1 AND 32),
    check_value TEXT NOT NULL CHECK (check_value ~ '^[0-9a-f]{16}$'),
    created_at  TIMESTAMPTZ NOT NULL
);

-- A user's data keys. `sealed` has the shape of a sealed token: {"v","kid","dek","encrypted","iv","tag"}.
CREATE TABLE public.user_data_keys (
    user_id    UUID NOT NULL REFERENCES public.users,
    dek_id     TEXT NOT NULL CHECK (octet_length(dek_id) BETWEEN 1 AND 32),
    kid        TEXT NOT NULL,
    sealed     JSON NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, dek_id),
    CONSTRAINT user_data_keys_names CHECK (kid = sealed ->> 'kid' AND dek_id = sealed ->> 'dek')
);
-- `keys status` and `keys rotate` ask by the root key that wraps them.
CREATE INDEX user_data_keys_kid ON public.user_data_keys (kid, user_id, dek_id);
