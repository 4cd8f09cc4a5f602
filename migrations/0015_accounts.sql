-- People: who they are, how they sign in, and what they are signed in with. All of it is mutable, and erased with the
-- user; what happened to it is in the log.
SET search_path = ledger, public;
SET LOCAL lock_timeout = '10s';

-- Sessions of the account are of role admin.
ALTER TABLE public.users ADD COLUMN is_admin BOOLEAN NOT NULL DEFAULT false;
CREATE INDEX users_is_admin ON public.users (created_at) WHERE is_admin;

-- Names by which people sign in. A user's contact address (users.email) is none of them: whoever writes that proves
-- nothing.
CREATE TABLE public.identities (
    kind        TEXT NOT NULL CHECK (kind IN ('email', 'github')),
    -- An address in its canonical form; the number that GitHub gives a user for ever.
    subject     TEXT NOT NULL CHECK (octet_length(subject) BETWEEN 1 AND 320),
    user_id     UUID NOT NULL REFERENCES public.users,
    -- As people write it: the address, the login.
    label       TEXT NOT NULL CHECK (octet_length(label) BETWEEN 1 AND 320),
    -- When it was shown to be the user's; null is an address that somebody typed.
    verified_at TIMESTAMPTZ,
    created_at  TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (kind, subject),
    UNIQUE (user_id, kind)
);

CREATE TABLE public.passwords (
    user_id    UUID PRIMARY KEY REFERENCES public.users,
    -- In the PHC format, which names the parameters.
    hash       TEXT NOT NULL,
    changed_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE public.sessions (
    session_id   UUID PRIMARY KEY,
    -- SHA-256 of the cookie's 256 random bits.
    hash         BYTEA NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    user_id      UUID NOT NULL REFERENCES public.users,
    -- How its user signed in.
    method       TEXT NOT NULL CHECK (method IN ('password', 'github', 'link')),
    -- The second factor is still to be shown: until then it may do nothing else.
    is_pending   BOOLEAN NOT NULL,
    -- When the second factor was shown, or was made.
    factor_at    TIMESTAMPTZ,
    created_at   TIMESTAMPTZ NOT NULL,
    -- Give or take a minute.
    last_used_at TIMESTAMPTZ NOT NULL,
    ends_at      TIMESTAMPTZ NOT NULL,
    -- Where it was made, for its user to recognise.
    address      TEXT NOT NULL,
    user_agent   TEXT
);
CREATE INDEX sessions_user_id ON public.sessions (user_id, created_at);
CREATE INDEX sessions_ends_at ON public.sessions (ends_at);

-- Links that are used once: to sign in, to take an invitation, to set a password. One that was used is deleted.
CREATE TABLE public.one_time_links (
    -- SHA-256 of its 256 random bits.
    hash       BYTEA PRIMARY KEY CHECK (octet_length(hash) = 32),
    kind       TEXT NOT NULL CHECK (kind IN ('sign_in', 'invitation', 'password_reset')),
    -- Null for an invitation.
    user_id    UUID REFERENCES public.users,
    -- Canonical and written form of the invited address.
    email      TEXT,
    label      TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    ends_at    TIMESTAMPTZ NOT NULL,
    CONSTRAINT one_time_links_whom CHECK (
        (kind = 'invitation') = (user_id IS NULL) AND (kind = 'invitation') = (email IS NOT NULL)
        AND (email IS NULL) = (label IS NULL))
);
CREATE INDEX one_time_links_user_id ON public.one_time_links (user_id);
CREATE INDEX one_time_links_ends_at ON public.one_time_links (ends_at);

-- Ways to show that it is the person, beside the first one.
CREATE TABLE public.second_factors (
    factor_id    UUID PRIMARY KEY,
    user_id      UUID NOT NULL REFERENCES public.users,
    kind         TEXT NOT NULL CHECK (kind IN ('totp')),
    name         TEXT NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 255),
    -- Sealed with the user's data key.
    secret       BYTEA NOT NULL,
    -- The last step of time whose code was taken: none is taken twice, nor an earlier one.
    last_step    BIGINT NOT NULL DEFAULT 0,
    created_at   TIMESTAMPTZ NOT NULL,
    -- Null while it is being set up.
    confirmed_at TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ
);
CREATE INDEX second_factors_user_id ON public.second_factors (user_id);

-- One that was used is deleted.
CREATE TABLE public.recovery_codes (
    user_id UUID NOT NULL REFERENCES public.users,
    -- SHA-256 of its 80 random bits and the user's id.
    hash    BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (user_id, hash)
);

-- Sign-ins that are under way elsewhere. The verifier of PKCE is made of the browser's secret and is not here.
CREATE TABLE public.oauth_attempts (
    -- SHA-256 of the state.
    hash         BYTEA PRIMARY KEY CHECK (octet_length(hash) = 32),
    -- SHA-256 of the secret in the cookie of the browser that began it.
    browser_hash BYTEA NOT NULL CHECK (octet_length(browser_hash) = 32),
    -- The user who adds this way to sign in; null is a sign-in.
    user_id      UUID REFERENCES public.users,
    -- The session that began it, of that user.
    session_id   UUID,
    -- Path on this site to go on at.
    next         TEXT NOT NULL,
    ends_at      TIMESTAMPTZ NOT NULL
);
CREATE INDEX oauth_attempts_user_id ON public.oauth_attempts (user_id);
CREATE INDEX oauth_attempts_ends_at ON public.oauth_attempts (ends_at);

-- Sessions and the standing of accounts are counted with the keys: whoever remembers them looks at one number.
ALTER TABLE public.api_key_changes RENAME TO credential_changes;

-- Addresses from which a user has signed in: whoever guesses its password elsewhere does not keep it out. An address of
-- IPv6 stands for its /64.
CREATE TABLE public.known_addresses (
    user_id UUID NOT NULL REFERENCES public.users,
    address TEXT NOT NULL,
    used_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, address)
);
