-- Who may change whom, root keys that sign, and calls of our own endpoints.
SET search_path = ledger, public;

ALTER TABLE public.users
    -- An admin uses the account, or may: only an admin changes its status then.
    ADD COLUMN used_by_admin BOOLEAN NOT NULL DEFAULT false;

-- When a root key was first the current one: a day later its predecessor's tokens of roles have ended. It may be known
-- before, so that no process lacks it.
ALTER TABLE public.encryption_keys ADD COLUMN current_since TIMESTAMPTZ;

-- Calls of our own endpoints, which no plan limits: one row for a user's calls of ten seconds, as their event has them.
CREATE TABLE own_calls (
    user_id      UUID NOT NULL,
    log_seq      BIGINT NOT NULL,
    log_idx      INTEGER NOT NULL,
    window_start TIMESTAMPTZ NOT NULL,
    -- [{"route": "GET /api/tokens/{id}", "status": "4xx", "calls": 3}, …]: 32 routes and classes, then `other`.
    counts       JSON NOT NULL,
    PRIMARY KEY (user_id, log_seq, log_idx)
);
