-- What people read with psql. The functions have string bodies, so their names are resolved when they run: a rebuild may
-- exchange the schema `ledger` beneath them. The view is bound to its tables and is made anew by a rebuild.
SET search_path = ledger, public;

-- The first instant after the month.
CREATE FUNCTION public.month_end(month_year TEXT) RETURNS TIMESTAMPTZ
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT make_timestamptz(
        left(month_year, 4)::int + right(month_year, 2)::int / 12, right(month_year, 2)::int % 12 + 1, 1, 0, 0, 0, 'UTC')
$$;

-- The plan of `owner` at an instant: the latest of the log whose effective_at is not after it, else the free plan.
CREATE FUNCTION public.plan_at(owner UUID, at TIMESTAMPTZ)
RETURNS TABLE (plan_name TEXT, monthly_api_limit BIGINT, analyze_limit BIGINT, price_monthly NUMERIC, currency TEXT)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
AS $$
    SELECT p.plan_name, p.monthly_api_limit, p.analyze_limit, p.price_monthly, p.currency
    FROM ((SELECT s.plan_name, s.monthly_api_limit, s.analyze_limit, s.price_monthly, s.currency, 1 AS choice
           FROM subscriptions s
           WHERE s.user_id = owner AND s.effective_at <= at
           ORDER BY s.log_seq DESC, s.log_idx DESC
           LIMIT 1)
          UNION ALL
          SELECT f.plan_name, f.monthly_api_limit, f.analyze_limit, f.price_monthly, f.currency, 2
          FROM subscription_limits f
          WHERE f.plan_name = 'free') p
    ORDER BY p.choice
    LIMIT 1
$$;

CREATE VIEW user_usage_overview AS
SELECT u.user_id,
       u.email,
       p.plan_name,
       m.month_year,
       COALESCE(s.total_calls, 0)   AS total_calls,
       COALESCE(s.analyze_calls, 0) AS analyze_calls,
       COALESCE(s.auth_calls, 0)    AS auth_calls,
       COALESCE(s.other_calls, 0)   AS other_calls,
       p.monthly_api_limit,
       p.analyze_limit,
       CASE WHEN p.monthly_api_limit IS NOT NULL
            THEN GREATEST(0, p.monthly_api_limit - COALESCE(s.total_calls, 0)) END AS remaining_calls,
       CASE WHEN p.analyze_limit IS NOT NULL
            THEN GREATEST(0, p.analyze_limit - COALESCE(s.analyze_calls, 0)) END AS remaining_analyze,
       CASE WHEN p.monthly_api_limit > 0
            THEN trunc(100.0 * COALESCE(s.total_calls, 0) / p.monthly_api_limit, 1) END AS usage_percentage,
       s.avg_response_time_ms
FROM public.users u
CROSS JOIN LATERAL (SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM') AS month_year) m
CROSS JOIN LATERAL public.plan_at(u.user_id, now()) p
LEFT JOIN monthly_usage_summary s ON s.user_id = u.user_id AND s.month_year = m.month_year;

CREATE FUNCTION public.get_user_usage_stats(owner UUID)
RETURNS TABLE (user_id UUID, plan_name TEXT, month_year TEXT, total_calls BIGINT, analyze_calls BIGINT,
               auth_calls BIGINT, other_calls BIGINT, monthly_api_limit BIGINT, analyze_limit BIGINT,
               remaining_calls BIGINT, remaining_analyze BIGINT, usage_percentage NUMERIC,
               avg_response_time_ms BIGINT)
LANGUAGE sql STABLE ROWS 1
SET search_path = ledger, public
AS $$
    SELECT o.user_id, o.plan_name, o.month_year, o.total_calls, o.analyze_calls, o.auth_calls, o.other_calls,
           o.monthly_api_limit, o.analyze_limit, o.remaining_calls, o.remaining_analyze, o.usage_percentage,
           o.avg_response_time_ms
    FROM user_usage_overview o
    WHERE o.user_id = owner
$$;
