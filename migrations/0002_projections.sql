-- Projections: a pure function of the log. Every time is an event's, every id is derived, nothing here is now().
SET search_path = ledger, public;

-- Plans as sold today. A subscription carries the terms that it was sold with.
CREATE TABLE subscription_limits (
    plan_name         TEXT PRIMARY KEY,
    monthly_api_limit BIGINT CHECK (monthly_api_limit >= 0),
    analyze_limit     BIGINT CHECK (analyze_limit >= 0),
    price_monthly     NUMERIC(12, 2) NOT NULL CHECK (price_monthly >= 0),
    currency          TEXT NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    features          TEXT[] NOT NULL,
    rank              INTEGER NOT NULL UNIQUE
);
INSERT INTO subscription_limits (plan_name, monthly_api_limit, analyze_limit, price_monthly, features, rank) VALUES
    ('free', 50, 10, 0, ARRAY['Basic PR analysis', 'Community support'], 1),
    ('pro', 500, 100, 9.99, ARRAY['Advanced analysis', 'Priority support', 'Custom templates'], 2),
    ('enterprise', 5000, 1000, 49.99, ARRAY['Enterprise features', 'Dedicated support', 'SSO'], 3);

-- Every plan change, as decided. The plan at t is the latest in the log with effective_at <= t; the latest of all is
-- pending while its effective_at lies ahead. No row ever changes, so the order of application does not matter.
CREATE TABLE subscriptions (
    user_id           UUID NOT NULL,
    log_seq           BIGINT NOT NULL,
    log_idx           INTEGER NOT NULL,
    plan_name         TEXT NOT NULL,
    monthly_api_limit BIGINT,
    analyze_limit     BIGINT,
    price_monthly     NUMERIC(12, 2) NOT NULL,
    currency          TEXT NOT NULL,
    effective_at      TIMESTAMPTZ NOT NULL,
    changed_at        TIMESTAMPTZ NOT NULL,
    reason            TEXT,
    source_event_id   TEXT,
    PRIMARY KEY (user_id, log_seq, log_idx)
);
CREATE INDEX subscriptions_source_event_id ON subscriptions (user_id, source_event_id)
    WHERE source_event_id IS NOT NULL;

-- Raw calls, partitioned by the month of created_at so that retention is a detach. Two indexes only: each one costs
-- a fifth of the projector's rate.
CREATE TABLE api_usage (
    id               UUID NOT NULL,
    user_id          UUID NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL,
    log_seq          BIGINT NOT NULL,
    log_idx          INTEGER NOT NULL,
    units            INTEGER NOT NULL,
    response_time_ms INTEGER,
    request_size     BIGINT,
    response_size    BIGINT,
    completed_seq    BIGINT,
    status_code      SMALLINT,
    counted          BOOLEAN NOT NULL,
    category         TEXT NOT NULL,
    month_year       TEXT NOT NULL,
    method           TEXT,
    endpoint         TEXT NOT NULL,
    ip_address       TEXT,
    user_agent       TEXT,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX api_usage_user_id_created_at ON api_usage (user_id, created_at);

-- Units per user and month since the month's last reset. The limits are those of the month's last plan.
CREATE TABLE monthly_usage_summary (
    user_id                UUID NOT NULL,
    month_year             TEXT NOT NULL CHECK (month_year ~ '^\d{4}-\d{2}$'),
    total_calls            BIGINT NOT NULL DEFAULT 0,
    analyze_calls          BIGINT NOT NULL DEFAULT 0,
    auth_calls             BIGINT NOT NULL DEFAULT 0,
    other_calls            BIGINT NOT NULL DEFAULT 0,
    total_response_time_ms BIGINT NOT NULL DEFAULT 0,
    timed_calls            BIGINT NOT NULL DEFAULT 0,
    avg_response_time_ms   BIGINT GENERATED ALWAYS AS
        (CASE WHEN timed_calls > 0 THEN total_response_time_ms / timed_calls END) STORED,
    monthly_api_limit      BIGINT,
    analyze_limit          BIGINT,
    usage_percentage       NUMERIC(20, 1) GENERATED ALWAYS AS
        (CASE WHEN monthly_api_limit > 0 THEN trunc(100.0 * total_calls / monthly_api_limit, 1) END) STORED,
    last_updated           TIMESTAMPTZ NOT NULL,
    reset_seq              BIGINT NOT NULL DEFAULT 0,
    reset_idx              INTEGER NOT NULL DEFAULT 0,
    -- What statements have listed so far; the next statement lists the difference as an adjustment.
    billed_analyze         BIGINT NOT NULL DEFAULT 0,
    billed_auth            BIGINT NOT NULL DEFAULT 0,
    billed_other           BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, month_year),
    CONSTRAINT monthly_usage_summary_total CHECK (total_calls = analyze_calls + auth_calls + other_calls)
) WITH (fillfactor = 70);

CREATE TABLE usage_hourly (
    user_id                UUID NOT NULL,
    bucket                 TIMESTAMPTZ NOT NULL,
    category               TEXT NOT NULL,
    counted                BOOLEAN NOT NULL,
    units                  BIGINT NOT NULL,
    calls                  BIGINT NOT NULL,
    total_response_time_ms BIGINT NOT NULL,
    timed_calls            BIGINT NOT NULL,
    PRIMARY KEY (user_id, bucket, category, counted)
) WITH (fillfactor = 70);
CREATE TABLE usage_daily (LIKE usage_hourly INCLUDING ALL) WITH (fillfactor = 70);

-- Ids that clients chose, as UUIDv8 of SHA-256(lp(user, source, id)): an event counts once, whatever its month. Resets
-- and plan changes claim their own id too, since a retried request publishes the same event again.
CREATE TABLE event_claims (
    id      UUID PRIMARY KEY,
    log_seq BIGINT NOT NULL
);

-- The last frame seen of every producer: proves that no frame is missing.
CREATE TABLE producers (
    producer UUID PRIMARY KEY,
    last_n   BIGINT NOT NULL,
    last_crc BIGINT NOT NULL,
    last_seq BIGINT NOT NULL
);

CREATE TABLE limit_rejections (
    user_id      UUID NOT NULL,
    log_seq      BIGINT NOT NULL,
    log_idx      INTEGER NOT NULL,
    meter        TEXT NOT NULL,
    month_year   TEXT NOT NULL,
    window_start TIMESTAMPTZ NOT NULL,
    count        BIGINT NOT NULL,
    shadow       BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, log_seq, log_idx)
);

-- Once per user, month, meter and threshold; a reset of the month starts them anew.
CREATE TABLE limit_thresholds (
    user_id           UUID NOT NULL,
    month_year        TEXT NOT NULL,
    meter             TEXT NOT NULL,
    threshold_percent SMALLINT NOT NULL,
    crossed_at        TIMESTAMPTZ NOT NULL,
    log_seq           BIGINT NOT NULL,
    log_idx           INTEGER NOT NULL,
    PRIMARY KEY (user_id, month_year, meter, threshold_percent)
);

CREATE TABLE closed_periods (
    month_year TEXT PRIMARY KEY,
    closed_at  TIMESTAMPTZ NOT NULL,
    log_seq    BIGINT NOT NULL,
    log_idx    INTEGER NOT NULL
);

-- As issued, never changed.
CREATE TABLE statements (
    user_id           UUID NOT NULL,
    month_year        TEXT NOT NULL,
    plan_name         TEXT NOT NULL,
    monthly_api_limit BIGINT,
    analyze_limit     BIGINT,
    price_monthly     NUMERIC(12, 2) NOT NULL,
    currency          TEXT NOT NULL,
    total_calls       BIGINT NOT NULL,
    analyze_calls     BIGINT NOT NULL,
    auth_calls        BIGINT NOT NULL,
    other_calls       BIGINT NOT NULL,
    issued_at         TIMESTAMPTZ NOT NULL,
    log_seq           BIGINT NOT NULL,
    log_idx           INTEGER NOT NULL,
    PRIMARY KEY (user_id, month_year)
);

-- Units of an already closed month (of_month) that a later statement (listed_in) lists.
CREATE TABLE statement_adjustments (
    user_id       UUID NOT NULL,
    listed_in     TEXT NOT NULL,
    of_month      TEXT NOT NULL,
    analyze_units BIGINT NOT NULL,
    auth_units    BIGINT NOT NULL,
    other_units   BIGINT NOT NULL,
    PRIMARY KEY (user_id, listed_in, of_month)
);

CREATE TABLE dead_letters (
    log_seq     BIGINT NOT NULL,
    log_idx     INTEGER NOT NULL,
    event_type  TEXT NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (log_seq, log_idx)
);

-- How far the projections are. One row per partition of the log; there is one partition for now.
CREATE TABLE projection_checkpoint (
    partition      SMALLINT PRIMARY KEY,
    seq            BIGINT NOT NULL,
    frame_id       TEXT NOT NULL,
    frame_time     TIMESTAMPTZ,
    stream_created TIMESTAMPTZ,
    events         BIGINT NOT NULL
);
INSERT INTO projection_checkpoint (partition, seq, frame_id, events) VALUES (0, 0, '', 0);
