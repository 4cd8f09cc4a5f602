-- Statements are derived, and what is to be done about users is noted as it is projected: nothing in a batch, at a
-- start or in a look around grows with the number of users or months.
SET search_path = ledger, public;
-- Who reads meanwhile is not kept waiting behind somebody who reads for long; `migrate` tries again.
SET LOCAL lock_timeout = '300ms';

-- Months in the order in which the log closed them.
ALTER TABLE closed_periods ADD COLUMN number INTEGER;
UPDATE closed_periods c SET number = n.number
FROM (SELECT month_year, row_number() OVER (ORDER BY log_seq, log_idx) AS number FROM closed_periods) n
WHERE n.month_year = c.month_year;
ALTER TABLE closed_periods
    ALTER COLUMN number SET NOT NULL,
    ADD CONSTRAINT closed_periods_number_key UNIQUE (number);

-- Units that were added to the summary of a month which was closed already. They are no part of its statement; the
-- first later closing of a later month lists them.
CREATE TABLE late_units (
    user_id         UUID NOT NULL,
    of_month        TEXT NOT NULL,
    -- Number of the last closing before them.
    closings        INTEGER NOT NULL,
    analyze_units   BIGINT NOT NULL DEFAULT 0,
    auth_units      BIGINT NOT NULL DEFAULT 0,
    other_units     BIGINT NOT NULL DEFAULT 0,
    -- The part of them that is here because a dead letter was applied later than its place in the log. It does not
    -- follow from the log: a rebuild takes it over.
    retried_analyze BIGINT NOT NULL DEFAULT 0,
    retried_auth    BIGINT NOT NULL DEFAULT 0,
    retried_other   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, of_month, closings)
);
-- Tells whether there are any that no closing lists yet.
CREATE INDEX late_units_closings ON late_units (closings, of_month);

INSERT INTO late_units (user_id, of_month, closings, analyze_units, auth_units, other_units)
SELECT a.user_id, a.of_month, c.number - 1, a.analyze_units, a.auth_units, a.other_units
FROM statement_adjustments a JOIN closed_periods c ON c.month_year = a.listed_in;

INSERT INTO late_units (user_id, of_month, closings, analyze_units, auth_units, other_units)
SELECT s.user_id, s.month_year, (SELECT max(number) FROM closed_periods), s.analyze_calls - s.billed_analyze,
       s.auth_calls - s.billed_auth, s.other_calls - s.billed_other
FROM monthly_usage_summary s JOIN closed_periods c USING (month_year)
WHERE (s.analyze_calls, s.auth_calls, s.other_calls) <> (s.billed_analyze, s.billed_auth, s.billed_other);

DROP TABLE statements, statement_adjustments;
ALTER TABLE monthly_usage_summary
    DROP COLUMN billed_analyze, DROP COLUMN billed_auth, DROP COLUMN billed_other;

-- Of a change that was a dead letter and was applied later than its place in the log: the number of the last closing
-- before that. A rebuild takes it over.
ALTER TABLE subscriptions ADD COLUMN retried_closings INTEGER;
CREATE INDEX subscriptions_retried ON subscriptions (user_id) WHERE retried_closings IS NOT NULL;

-- The plan of `owner` at an instant, by what had been applied before a closing: the latest in the log whose
-- effective_at is not after the instant, else the free plan.
CREATE FUNCTION public.plan_agreed(owner UUID, at TIMESTAMPTZ, before_seq BIGINT, before_idx INTEGER, closing INTEGER)
RETURNS TABLE (plan_name TEXT, monthly_api_limit BIGINT, analyze_limit BIGINT, price_monthly NUMERIC, currency TEXT)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
AS $$
    SELECT p.plan_name, p.monthly_api_limit, p.analyze_limit, p.price_monthly, p.currency
    FROM ((SELECT s.plan_name, s.monthly_api_limit, s.analyze_limit, s.price_monthly, s.currency, 1 AS choice
           FROM subscriptions s
           WHERE s.user_id = owner AND s.effective_at <= at AND (s.log_seq, s.log_idx) < (before_seq, before_idx)
             AND COALESCE(s.retried_closings, 0) < closing
           ORDER BY s.log_seq DESC, s.log_idx DESC
           LIMIT 1)
          UNION ALL
          SELECT f.plan_name, f.monthly_api_limit, f.analyze_limit, f.price_monthly, f.currency, 2
          FROM subscription_limits f
          WHERE f.plan_name = 'free') p
    ORDER BY p.choice
    LIMIT 1
$$;

-- Units of an already closed month (of_month), with the statement that lists them (listed_in).
CREATE VIEW statement_adjustments AS
SELECT l.user_id, c.month_year AS listed_in, l.of_month, sum(l.analyze_units)::bigint AS analyze_units,
       sum(l.auth_units)::bigint AS auth_units, sum(l.other_units)::bigint AS other_units
FROM late_units l
CROSS JOIN LATERAL (SELECT p.month_year FROM closed_periods p
                    WHERE p.number > l.closings AND p.month_year > l.of_month
                    ORDER BY p.number LIMIT 1) c
GROUP BY l.user_id, c.month_year, l.of_month
HAVING (sum(l.analyze_units), sum(l.auth_units), sum(l.other_units)) <> (0, 0, 0);

-- Closed months as they were at their closing: the summary less what came later, under the plan that had been agreed on
-- by then. A user without units and adjustments has none.
CREATE VIEW statements AS
SELECT u.user_id, u.month_year, t.plan_name, t.monthly_api_limit, t.analyze_limit, t.price_monthly, t.currency,
       u.analyze_units + u.auth_units + u.other_units AS total_calls, u.analyze_units AS analyze_calls,
       u.auth_units AS auth_calls, u.other_units AS other_calls, c.closed_at AS issued_at, c.log_seq, c.log_idx
FROM closed_periods c
JOIN (SELECT parts.user_id, parts.month_year, sum(parts.analyze_units)::bigint AS analyze_units,
             sum(parts.auth_units)::bigint AS auth_units, sum(parts.other_units)::bigint AS other_units
      FROM (SELECT s.user_id, s.month_year, s.analyze_calls AS analyze_units, s.auth_calls AS auth_units,
                   s.other_calls AS other_units, false AS is_list
            FROM monthly_usage_summary s
            UNION ALL
            SELECT l.user_id, l.of_month, -l.analyze_units, -l.auth_units, -l.other_units, false FROM late_units l
            UNION ALL
            SELECT a.user_id, a.listed_in, 0, 0, 0, true FROM statement_adjustments a) parts
      GROUP BY parts.user_id, parts.month_year
      HAVING bool_or(parts.is_list)
          OR (sum(parts.analyze_units), sum(parts.auth_units), sum(parts.other_units)) <> (0, 0, 0)) u
    ON u.month_year = c.month_year
CROSS JOIN LATERAL public.plan_agreed(u.user_id, public.month_end(u.month_year) - interval '1 microsecond', c.log_seq,
                                      c.log_idx, c.number) t;

-- Months of users that reached 80 or 100 % of a limit, until an event tells of it.
CREATE TABLE pending_thresholds (
    user_id    UUID NOT NULL,
    month_year TEXT NOT NULL,
    -- Rises whenever the month reaches one: what was seen before tells nothing then.
    log_seq    BIGINT NOT NULL,
    PRIMARY KEY (user_id, month_year)
);
INSERT INTO pending_thresholds (user_id, month_year, log_seq)
SELECT s.user_id, s.month_year, 0
FROM monthly_usage_summary s
WHERE NOT EXISTS (SELECT FROM closed_periods p WHERE p.month_year = s.month_year)
  AND EXISTS (SELECT FROM (VALUES ('total', s.total_calls, s.monthly_api_limit),
                                  ('analyze', s.analyze_calls, s.analyze_limit)) AS m (meter, used, max_units)
              CROSS JOIN (VALUES (80), (100)) AS t (threshold_percent)
              WHERE m.used > 0 AND 100 * m.used::numeric >= t.threshold_percent * m.max_units::numeric
                AND NOT EXISTS (SELECT FROM limit_thresholds r
                                WHERE r.user_id = s.user_id AND r.month_year = s.month_year AND r.meter = m.meter
                                  AND r.threshold_percent = t.threshold_percent));

-- Erased users with whom something may be left to do, or whose data key some process may still remember: an hour after
-- they were finished they leave. The one table of this schema with a time of the database's clock; no rebuild compares
-- it.
CREATE TABLE open_erasures (
    user_id     UUID PRIMARY KEY,
    finished_at TIMESTAMPTZ
);
INSERT INTO open_erasures (user_id) SELECT user_id FROM erased_users;
