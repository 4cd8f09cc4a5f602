-- Who holds a session lock. PostgreSQL knows the session alone, and a session whose process is frozen, or whose network is
-- silent, holds its locks for as long as nobody ends it. Whoever waits for the lock reads here which session that is and
-- how old its holder's last word is, by the database's clock.
CREATE TABLE public.lock_holders (
    -- The second key of the advisory lock.
    lock          INTEGER PRIMARY KEY,
    -- The process, new at each start.
    holder        UUID NOT NULL,
    -- The session that holds the lock: an id alone may be another session's by now.
    backend_pid   INTEGER NOT NULL,
    backend_start TIMESTAMPTZ NOT NULL,
    heartbeat_at  TIMESTAMPTZ NOT NULL,
    -- Handed back: nothing of the holder is under way.
    is_released   BOOLEAN NOT NULL DEFAULT false
);
