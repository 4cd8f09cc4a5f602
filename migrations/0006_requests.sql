-- Requests that a proxy may ask about several times.
SET search_path = ledger, public;

-- The last call of each request, by the hash that its event carries: a further one within a minute is the same call.
-- Rows are forgotten an hour later, when they decide nothing any more: a cache of the log's end, which a rebuild fills
-- and nobody compares.
CREATE TABLE request_claims (
    request    UUID PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL,
    call_id    UUID NOT NULL,
    log_seq    BIGINT NOT NULL
);
CREATE INDEX request_claims_created_at ON request_claims (created_at);
