-- Claims of ids live in generations, and are forgotten with the one that they are in.
SET search_path = ledger, public;
-- Behind this everybody waits who asks for claims, so it does not wait long itself for one who is at it: it fails, changes
-- nothing, and can be run again.
SET LOCAL lock_timeout = '10s';

-- Three tables take turns: one takes the claims of today, one has those of the generation before, and the third is empty
-- or being emptied. So a turn moves no row and waits for no reader: it is a change of the row that says which is which.
ALTER TABLE event_claims RENAME TO event_claims_0;
ALTER TABLE event_claims_0 RENAME CONSTRAINT event_claims_pkey TO event_claims_0_pkey;
CREATE TABLE event_claims_1 (
    id      UUID PRIMARY KEY,
    log_seq BIGINT NOT NULL
);
CREATE TABLE event_claims_2 (
    id      UUID PRIMARY KEY,
    log_seq BIGINT NOT NULL
);

-- The generation that takes claims: its number, its table, the time at which the log stored the frame of its first claim
-- (null: it has none yet, or they are older than this migration), and the frames of the turns that began it and the
-- generation before it (0: none did).
ALTER TABLE projection_checkpoint
    ADD COLUMN claims_generation BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN claims_table SMALLINT NOT NULL DEFAULT 0 CHECK (claims_table BETWEEN 0 AND 2),
    ADD COLUMN claims_since TIMESTAMPTZ,
    ADD COLUMN claims_turned_seq BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN claims_turned_before_seq BIGINT NOT NULL DEFAULT 0;

-- The claims that hold, for those who read them. The table that is next is left out, whatever is still in it.
CREATE VIEW event_claims AS
    SELECT id, log_seq, (SELECT claims_table FROM projection_checkpoint WHERE partition = 0) = 0 AS is_current
    FROM event_claims_0 WHERE (SELECT claims_table FROM projection_checkpoint WHERE partition = 0) <> 2
    UNION ALL
    SELECT id, log_seq, (SELECT claims_table FROM projection_checkpoint WHERE partition = 0) = 1
    FROM event_claims_1 WHERE (SELECT claims_table FROM projection_checkpoint WHERE partition = 0) <> 0
    UNION ALL
    SELECT id, log_seq, (SELECT claims_table FROM projection_checkpoint WHERE partition = 0) = 2
    FROM event_claims_2 WHERE (SELECT claims_table FROM projection_checkpoint WHERE partition = 0) <> 1;
