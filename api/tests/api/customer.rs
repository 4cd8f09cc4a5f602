//! A customer: a user on the free plan in a world of 2026-11-24, and what is asked about it.

use api::limits::{Ask, Verdict};
use axum::http::{HeaderMap, Method};
use chrono::{DateTime, Utc};
use events::{ApiCalled, Event, SOURCE_WORKER};
use ledger::{Category, Month, Units, UserId};
use nats::EncodedEvent;
use serde_json::Value;
use sqlx::PgPool;
use testkit::{Answer, Client, Env, Role, World};

/// What a role user may do is off, unless a test says otherwise.
const SETTINGS: [(&str, &str); 2] = [("SELF_UPGRADE", "false"), ("SELF_RESET", "false")];

/// An RFC 3339 time.
pub(crate) fn at(text: &str) -> DateTime<Utc> {
    ledger::time::parse(text).unwrap()
}

pub(crate) struct Customer {
    pub(crate) world: World,
    pub(crate) user: UserId,
    /// Requests come from as many principals as it takes, so that none is asked to slow down.
    throttled: bool,
}

impl Customer {
    /// On 2026-11-24 at 03:00. Nothing is projected until a worker is started.
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
        let user = UserId::new(env.ids.random_id());
        sqlx::query("INSERT INTO public.users (user_id, created_at, updated_at) VALUES ($1, $2, $2)")
            .bind(user.get())
            .bind(env.clock.now())
            .execute(env.pool())
            .await
            .unwrap();
        let world = World::in_env(env, &[settings, &SETTINGS].concat()).await.unwrap();
        Self { world, user, throttled }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.world.env.pool()
    }

    pub(crate) fn set_now(&self, now: &str) {
        self.world.env.clock.set(at(now));
    }

    /// The user's answer of this path, which must be 200.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(crate) async fn try_get(&self, path: &str) -> (u16, Value) {
        let answer = self.ask(path, &[]).await;
        (answer.status.as_u16(), parse(&answer))
    }

    /// The answer of this path to somebody else.
    pub(crate) async fn get_as(&self, who: &str, role: Role, path: &str) -> (u16, Value) {
        self.get_by(&self.world.client(who, role).unwrap(), path).await
    }

    /// The answer of this path to nobody.
    pub(crate) async fn anonymous(&self, path: &str) -> (u16, Value) {
        self.get_by(&self.world.anonymous().unwrap(), path).await
    }

    async fn get_by(&self, client: &Client, path: &str) -> (u16, Value) {
        let answer = client.get(path).send().await.unwrap();
        (answer.status.as_u16(), parse(&answer))
    }

    /// Puts a counted call of the user into the log.
    pub(crate) async fn record_call(&self, endpoint: &str) {
        let call = ApiCalled::new(endpoint, Category::Analyze);
        self.publish(Some(self.user), events::Body::ApiCalled(call)).await;
    }

    /// Puts an event into the log.
    pub(crate) async fn publish(&self, subject: Option<UserId>, body: events::Body<'_>) {
        let (id, now) = (self.world.env.ids.event_id(), self.world.env.clock.now());
        let event = Event::own(SOURCE_WORKER, id, subject, now, body);
        self.world.api.handle.publisher.publish(EncodedEvent::of(&event)).await.unwrap();
    }

    /// Whether the limits let the user's next analyze call pass.
    pub(crate) async fn admits_analyze(&self) -> bool {
        let at = self.world.env.clock.now();
        let ask = Ask { at, month: Month::of(at), category: Category::Analyze, units: Units::ONE, key: None };
        let verdict = self.world.api.handle.limits.admit(self.user, ask).await.unwrap();
        matches!(verdict, Verdict::Admitted(_))
    }

    /// Headers and text of the user's answer of this path, which must be 200.
    pub(crate) async fn raw(&self, path: &str, headers: &[(&str, &str)]) -> (HeaderMap, String) {
        let answer = self.ask(path, headers).await.expect(200).unwrap();
        let text = answer.text();
        (answer.headers, text)
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
        let client = self.world.client(who, role).unwrap();
        let request = client.request(Method::from_bytes(method.as_bytes()).unwrap(), path).json(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = request.send().await.unwrap();
        let body = parse(&answer);
        (answer.status.as_u16(), answer.headers, body)
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let user = self.user.to_string();
        let (client, path) = if self.throttled {
            (self.world.user(&user), path.to_owned())
        } else {
            // An operator that nobody has seen yet, who looks at the user's figures.
            let operator = format!("operator-{}", self.world.env.ids.random_id());
            let separator = if path.contains('?') { '&' } else { '?' };
            let named =
                if path.contains("user_id=") { String::new() } else { format!("{separator}user_id={user}") };
            (self.world.client(&operator, Role::Service), format!("{path}{named}"))
        };
        let request = client.unwrap().get(&path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.send().await.unwrap()
    }
}

fn parse(answer: &Answer) -> Value {
    answer.json().unwrap_or_else(|_| Value::from(answer.text()))
}
