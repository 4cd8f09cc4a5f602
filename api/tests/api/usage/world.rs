//! An api with a user of its own, over projections that a test fills.

use api::limits::{Ask, Verdict};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use chrono::{DateTime, Utc};
use events::{ApiCalled, Event, SOURCE_WORKER};
use http_body_util::BodyExt;
use ledger::{Category, Month, Rules, Units, UserId};
use serde_json::Value;
use sqlx::PgPool;
use testkit::Env;
use tower::ServiceExt;

pub(crate) use testkit::Role;

/// An RFC 3339 time.
pub(crate) fn at(text: &str) -> DateTime<Utc> {
    ledger::time::parse(text).unwrap()
}

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) user: UserId,
    app: Router,
    handle: api::AppHandle,
    /// Requests come from as many principals as it takes, so that none is asked to slow down.
    throttled: bool,
}

impl World {
    /// On 2026-11-24 at 03:00, with one user on the free plan.
    pub(crate) async fn start() -> Self {
        Self::with(&[], false).await
    }

    /// All requests come from the user itself.
    pub(crate) async fn start_throttled() -> Self {
        Self::with(&[], true).await
    }

    /// With other settings than the usual ones.
    pub(crate) async fn with(settings: &[(&str, &str)], throttled: bool) -> Self {
        let env = Env::start().await.unwrap();
        env.clock.set(at("2026-11-24T03:00:00Z"));
        let config = config(&env, settings);
        let (app, handle) = api::build(config).await.unwrap();
        let user = UserId::new(env.ids.random_id());
        sqlx::query("INSERT INTO public.users (user_id, created_at, updated_at) VALUES ($1, $2, $2)")
            .bind(user.get())
            .bind(env.clock.now())
            .execute(env.pool())
            .await
            .unwrap();
        Self { env, user, app, handle, throttled }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.env.pool()
    }

    pub(crate) fn set_now(&self, now: &str) {
        self.env.clock.set(at(now));
    }

    /// Projects what is recorded, until the guard is dropped.
    pub(crate) fn start_worker(&self) -> tokio_util::sync::DropGuard {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let mut log = nats::Connection::new(self.env.nats_url(), self.env.stream_name().parse().unwrap());
        log.monitor_url = Some(self.env.monitor_url().to_owned());
        let config = ledger_worker::WorkerConfig::new(
            self.env.database_url(),
            log,
            testkit::keys(),
            self.env.clock.clone(),
        );
        let running = Box::pin(ledger_worker::run(config, shutdown.clone()));
        tokio::spawn(async move { running.await.unwrap() });
        shutdown.drop_guard()
    }

    /// The user's answer of this path, which must be 200.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(crate) async fn try_get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.send(self.request("GET", path, &[]), Body::empty()).await;
        (status, parse(&body))
    }

    /// The answer of this path to somebody else.
    pub(crate) async fn get_as(&self, who: &str, role: Role, path: &str) -> (u16, Value) {
        let token = self.env.token(who, role);
        let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let (status, _, body) = self.send(request, Body::empty()).await;
        (status, parse(&body))
    }

    /// The answer of this path to nobody.
    pub(crate) async fn anonymous(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.send(Request::get(path), Body::empty()).await;
        (status, parse(&body))
    }

    /// Puts a counted call of the user into the log.
    pub(crate) async fn record_call(&self, endpoint: &str) {
        let call = ApiCalled::new(endpoint, Category::Analyze);
        self.publish(Some(self.user), events::Body::ApiCalled(call)).await;
    }

    /// Puts an event into the log.
    pub(crate) async fn publish(&self, subject: Option<UserId>, body: events::Body<'_>) {
        let (id, now) = (self.env.ids.event_id(), self.env.clock.now());
        let mut json = Vec::new();
        events::encode(&Event::own(SOURCE_WORKER, id, subject, now, body), &mut json);
        self.handle.publisher.publish(json.into()).await.unwrap();
    }

    /// Whether the limits let the user's next analyze call pass.
    pub(crate) async fn admits_analyze(&self) -> bool {
        let at = self.env.clock.now();
        let ask = Ask { at, month: Month::of(at), category: Category::Analyze, units: Units::ONE };
        let verdict = self.handle.limits.admit(self.user, ask).await.unwrap();
        matches!(verdict, Verdict::Admitted(_))
    }

    /// Headers and text of the user's answer of this path, which must be 200.
    pub(crate) async fn raw(&self, path: &str, headers: &[(&str, &str)]) -> (HeaderMap, String) {
        let (status, headers, body) = self.send(self.request("GET", path, headers), Body::empty()).await;
        assert_eq!(status, 200, "{path}: {body}");
        (headers, body)
    }

    /// A JSON body sent by somebody, and the whole answer.
    pub(crate) async fn send_json(
        &self,
        (who, role): (&str, Role),
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, HeaderMap, Value) {
        let token = self.env.token(who, role);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, headers, text) = self.send(request, Body::from(body.to_string())).await;
        (status, headers, parse(&text))
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> axum::http::request::Builder {
        let user = self.user.to_string();
        let (token, path) = if self.throttled {
            (self.env.token(&user, Role::User), path.to_owned())
        } else {
            // An operator that nobody has seen yet, who looks at the user's figures.
            let operator = format!("operator-{}", self.env.ids.random_id());
            let separator = if path.contains('?') { '&' } else { '?' };
            let named =
                if path.contains("user_id=") { String::new() } else { format!("{separator}user_id={user}") };
            (self.env.token(&operator, Role::Service), format!("{path}{named}"))
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    }

    async fn send(&self, request: axum::http::request::Builder, body: Body) -> (u16, HeaderMap, String) {
        let response = self.app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The user's meter passed a threshold this month.
    pub(crate) async fn crossed(&self, meter: &str, percent: i16, when: &str) {
        sqlx::query("INSERT INTO limit_thresholds VALUES ($1, '2026-11', $2, $3, $4, 1, 0)")
            .bind(self.user.get())
            .bind(meter)
            .bind(percent)
            .bind(at(when))
            .execute(self.pool())
            .await
            .unwrap();
    }

    /// The user's plan changed.
    pub(crate) async fn subscribed(&self, seq: i64, plan: &str, limit: Option<i64>, effective_at: &str) {
        sqlx::query(
            "INSERT INTO subscriptions (user_id, log_seq, log_idx, plan_name, monthly_api_limit, analyze_limit,
                 price_monthly, currency, effective_at, changed_at)
             VALUES ($1, $2, 0, $3, $4, $4, 9.99, 'USD', $5, $5)",
        )
        .bind(self.user.get())
        .bind(seq)
        .bind(plan)
        .bind(limit)
        .bind(at(effective_at))
        .execute(self.pool())
        .await
        .unwrap();
    }

    /// A month was closed with so many analyze units.
    pub(crate) async fn issued(&self, month: &str, plan: &str, analyze: i64) {
        sqlx::query(
            "INSERT INTO statements VALUES ($1, $2, $3, 500, 100, 9.99, 'USD', $4, $4, 0, 0,
                 '2026-11-01T01:00:00Z', 1, 0)",
        )
        .bind(self.user.get())
        .bind(month)
        .bind(plan)
        .bind(analyze)
        .execute(self.pool())
        .await
        .unwrap();
    }

    /// A statement lists units of an earlier month.
    pub(crate) async fn adjusted(&self, listed_in: &str, of_month: &str, analyze: i64) {
        sqlx::query("INSERT INTO statement_adjustments VALUES ($1, $2, $3, $4, 0, 0)")
            .bind(self.user.get())
            .bind(listed_in)
            .bind(of_month)
            .bind(analyze)
            .execute(self.pool())
            .await
            .unwrap();
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn config(env: &Env, settings: &[(&str, &str)]) -> api::ApiConfig {
    let get = |name: &str| {
        let given = settings.iter().find(|(setting, _)| *setting == name);
        let value = match name {
            "DATABASE_URL" => env.database_url(),
            "NATS_URL" => env.nats_url(),
            "NATS_MONITOR_URL" => env.monitor_url(),
            "NATS_STREAM" => env.stream_name(),
            "JWT_SECRET" => testkit::JWT_SECRET,
            "ENCRYPTION_KEY" => testkit::ENCRYPTION_KEY,
            "AUTO_PROVISION" => "true",
            _ => return given.map(|(_, value)| (*value).to_owned()),
        };
        Some(value.to_owned())
    };
    api::ApiConfig::read(&get, Rules::default(), env.clock.clone()).unwrap()
}
