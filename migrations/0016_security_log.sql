-- What happened to accounts and who did it, for their users and for admins to read.
SET search_path = ledger, public;
-- Behind this everybody waits who asks for calls, so it does not wait long itself for one who is at it: it fails, changes
-- nothing, and can be run again.
SET LOCAL lock_timeout = '10s';

-- One row for each event of an audit chain but the uses of tokens, and for each change of a plan and each reset. What was
-- in the log before this table was here gets its rows from a rebuild. Rows are added and never changed, but for address
-- and user agent, which an erasure blanks.
CREATE TABLE security_log (
    user_id    UUID NOT NULL,
    log_seq    BIGINT NOT NULL,
    log_idx    INTEGER NOT NULL,
    -- Time of the act.
    at         TIMESTAMPTZ NOT NULL,
    -- The event's type without its prefix and version, such as signed_in.
    action     TEXT NOT NULL,
    -- By what means, or to what: password, github, suspended, a plan's name, a month, a token's type.
    method     TEXT,
    -- The session, factor, token or API key.
    object_id  UUID,
    actor_kind TEXT NOT NULL,
    -- A user's UUID, or the name of a part of the system.
    actor_id   TEXT NOT NULL,
    ip_address TEXT,
    user_agent TEXT,
    PRIMARY KEY (user_id, log_seq, log_idx)
);
-- The acts of an admin, on whomever.
CREATE INDEX security_log_admin ON security_log (actor_id, log_seq, log_idx) WHERE actor_kind = 'admin';

-- Credentials that were refused within a minute, as one api tells of them.
CREATE TABLE auth_failures (
    window_start TIMESTAMPTZ NOT NULL,
    log_seq      BIGINT NOT NULL,
    log_idx      INTEGER NOT NULL,
    -- [{"reason", "network", "failures"}]
    counts       JSON NOT NULL,
    -- Beyond those.
    other        BIGINT NOT NULL CHECK (other >= 0),
    PRIMARY KEY (window_start, log_seq, log_idx)
);

-- What happens to accounts is in the chains too. Of its names the code has the list, and the projector alone writes.
ALTER TABLE token_audit DROP CONSTRAINT token_audit_action_check;
