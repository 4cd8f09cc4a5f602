-- Requests that a proxy may ask about several times.
SET search_path = ledger, public;

-- The last call of each request, by the hash that its event carries: a further one within a minute is the same call.
-- A request is forgotten by the time at which the log has stored its last call's frame, one clock, whatever the processes
-- that record calls take the time to be: minutes later, when it decides nothing any more. A cache of the log's end, which
-- a rebuild fills and nobody compares.
CREATE TABLE request_claims (
    request    UUID PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL,
    call_id    UUID NOT NULL,
    log_seq    BIGINT NOT NULL,
    stored_at  TIMESTAMPTZ NOT NULL
);
CREATE INDEX request_claims_stored_at ON request_claims (stored_at);
