-- Who may change whom, calls of our own endpoints, and the nil UUID, which is no user.
SET search_path = ledger, public;

ALTER TABLE public.users
    -- An admin uses the account, or may: only an admin changes its status then.
    ADD COLUMN used_by_admin BOOLEAN NOT NULL DEFAULT false,
    -- An earlier build kept the ledger's own data key under that name. Rows that are there stay.
    ADD CONSTRAINT users_not_nil CHECK (user_id <> '00000000-0000-0000-0000-000000000000') NOT VALID;

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
