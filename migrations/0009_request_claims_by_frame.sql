-- A request is forgotten by the time at which the log has stored its last call's frame: one clock, whatever the processes
-- that record calls take the time to be.
SET search_path = ledger, public;

ALTER TABLE request_claims ADD COLUMN stored_at TIMESTAMPTZ;
UPDATE request_claims SET stored_at = created_at;
ALTER TABLE request_claims ALTER COLUMN stored_at SET NOT NULL;
DROP INDEX request_claims_created_at;
CREATE INDEX request_claims_stored_at ON request_claims (stored_at);
