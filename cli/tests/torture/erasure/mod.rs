//! Users are erased while api or worker die between the steps of it; it is finished all the same, and stays so.

mod person;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use data_keys::Keys;
use events::{Body, UserErased};
use ledger::{Clock, ExternalId, IdSource, UserId};
use nats::{Publisher, PublisherConfig};
use serde_json::{Value, json};
use sqlx::{PgPool, Postgres, Transaction};
use store::identity::users::{Change, UserChange};
use testkit::{Answer, Client, Request, Role, wait_until};
use tokio::task::JoinHandle;
use uuid::Uuid;
use vault::DataKey;

use crate::cluster::{BOUND, Cluster, Victim};
use crate::traces::tables_with;
use person::{Person, actor};

const LATE_ADDRESS: &str = "203.0.113.7";
const LATE_AGENT: &str = "a late agent";
const EVENTS: &str = "/api/usage/events";

/// Point at which an erasure is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The event is on disk and projected; the api dies before the account is a tombstone, the worker right after it.
    BeforeTombstone,
    /// The account is a tombstone and nothing is projected; the api dies before it answers.
    BeforeProjection,
    /// The worker dies while it applies the event.
    WhileApplying,
    /// The worker dies while it blanks the user's calls.
    WhileBlanking,
    /// Nobody dies; the host gives the account another id while api and worker are about to make it a tombstone.
    Renamed,
    /// The event is in the log, and no api knows of it; in its frame is what comes late.
    BeforeAnything,
    /// Nobody dies.
    Nowhere,
}

impl Cut {
    const ALL: [Self; 7] = [
        Self::BeforeTombstone,
        Self::BeforeProjection,
        Self::WhileApplying,
        Self::WhileBlanking,
        Self::Renamed,
        Self::BeforeAnything,
        Self::Nowhere,
    ];
}

/// Everything that runs, and who asks.
struct World {
    cluster: Cluster,
    pool: PgPool,
    ids: IdSource,
    clock: Clock,
    service: Client,
    admin: Client,
    publisher: Publisher,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_that_is_cut_anywhere_is_finished_and_stays_so() -> Result<()> {
    let mut world = World::start().await?;
    let mut erased = Vec::new();
    for cut in Cut::ALL {
        let outcome = world.erase(cut, erased.len()).await;
        match outcome {
            Ok(person) => erased.push(person),
            Err(error) => return Err(error.context(format!("{cut:?}")).context(world.cluster.state().await)),
        }
    }
    for victim in [Victim::Worker, Victim::Api] {
        world.cluster.kill(victim).await?;
        world.cluster.revive(victim).await?;
    }
    world.cluster.until_ready().await;
    for person in &erased {
        world.is_nobody(person).await.with_context(|| format!("{} after a restart", person.name))?;
    }
    Ok(())
}

impl World {
    async fn start() -> Result<Self> {
        let (cluster, clock) = (Cluster::start().await?, Clock::system());
        let ids = IdSource::new(clock.clone());
        let made = ids.clone();
        let publisher =
            Publisher::start(&cluster.log().await?, PublisherConfig::default(), move || made.random_id())
                .await?;
        Ok(Self {
            pool: cluster.pool().await?,
            service: cluster.settings.client("backend", Role::Service)?,
            admin: cluster.settings.client("root", Role::Admin)?,
            cluster,
            ids,
            clock,
            publisher,
        })
    }

    /// Makes a user, erases it with this cut, and looks whether it is gone.
    async fn erase(&mut self, cut: Cut, number: usize) -> Result<Person> {
        let mut person = self.person(number).await.context("before")?;
        let stats = self.stats(&person).await?;
        let proof = self.cluster.command(&["verify", "--user", &person.name]).await?.expect_success()?;
        anyhow::ensure!(proof.contains("1 data keys; 1 stored tokens, 1 open"), "{proof}");
        for text in &person.personal {
            anyhow::ensure!(!tables_with(&self.pool, text).await?.is_empty(), "{text} was never there");
        }
        self.cut(cut, &mut person).await?;
        self.receipt(&person).await.context("its receipt")?;
        self.is_nobody(&person).await?;
        anyhow::ensure!(self.stats(&person).await? == stats, "the counts have changed");

        self.arrives_late(&person).await.context("late events")?;
        self.is_nobody(&person).await.context("after late events")?;
        if cut == Cut::BeforeAnything {
            self.comes_back(&person).await.context("a data key that came back")?;
            self.is_nobody(&person).await.context("after a data key came back")?;
        }
        let late = self.stats(&person).await?;
        anyhow::ensure!(
            late["total"]["used"].as_u64() == stats["total"]["used"].as_u64().map(|used| used + 1)
        );
        let rebuilt = self.cluster.command(&["rebuild"]).await?;
        anyhow::ensure!(rebuilt.errors.contains("no differences"), "{rebuilt:?}");
        rebuilt.expect_success()?;
        self.is_nobody(&person).await.context("after a rebuild")?;
        anyhow::ensure!(without_position(self.stats(&person).await?) == without_position(late));
        let proof = self.cluster.command(&["verify", "--user", &person.name]).await?.expect_success()?;
        let nothing_opens = ", 0 open, 0 data keys, 0 rows with personal fields";
        anyhow::ensure!(proof.contains("erased ") && proof.contains(nothing_opens), "{proof}");
        for arguments in [&["verify"][..], &["verify", "--user", &person.id.to_string()]] {
            self.cluster
                .command(arguments)
                .await?
                .expect_success()
                .with_context(|| format!("{arguments:?}"))?;
        }
        Ok(person)
    }

    /// Asks for the erasure and brings about the cut. What died is started again.
    async fn cut(&mut self, cut: Cut, person: &mut Person) -> Result<()> {
        match cut {
            Cut::BeforeTombstone => {
                let account = "SELECT FROM public.users WHERE user_id = $1 FOR UPDATE";
                let lock = self.lock(account, person).await?;
                let asked = ask(person);
                // Both are about to: the api, and the worker once the event is projected.
                self.waiting("INSERT INTO public.users AS u%", 2).await;
                self.cluster.kill(Victim::Api).await?;
                anyhow::ensure!(asked.await?.is_err(), "it was answered");
                self.cluster.kill(Victim::Worker).await?;
                lock.rollback().await?;
                self.both_live().await?;
            }
            Cut::BeforeProjection => {
                self.cluster.kill(Victim::Worker).await?;
                let asked = ask(person);
                wait_until(BOUND, || async {
                    let status = sqlx::query_scalar("SELECT status FROM public.users WHERE user_id = $1");
                    let status = status.bind(person.id.get()).fetch_one(&self.pool).await;
                    status.is_ok_and(|status: String| status == "erased")
                })
                .await;
                self.cluster.kill(Victim::Api).await?;
                anyhow::ensure!(asked.await?.is_err(), "it was answered");
                self.both_live().await?;
            }
            Cut::WhileApplying => {
                let mut lock = self.pool.begin().await?;
                sqlx::query("LOCK TABLE ledger.erased_users IN SHARE MODE").execute(&mut *lock).await?;
                self.worker_dies_at("INSERT INTO erased_users%", lock, person).await?;
            }
            Cut::WhileBlanking => {
                let calls =
                    "SELECT FROM ledger.api_usage WHERE user_id = $1 AND ip_address IS NOT NULL FOR UPDATE";
                let lock = self.lock(calls, person).await?;
                self.worker_dies_at("WITH step AS%UPDATE ledger.api_usage%", lock, person).await?;
            }
            Cut::Renamed => {
                let account = "SELECT FROM public.users WHERE user_id = $1 FOR UPDATE";
                let lock = self.lock(account, person).await?;
                let asked = ask(person);
                self.waiting("INSERT INTO public.users AS u%", 2).await;
                self.rename(lock, person).await?;
                let status = asked.await??.status;
                anyhow::ensure!([200, 202].contains(&status.as_u16()), "{status}");
            }
            Cut::BeforeAnything => {
                let end = Body::UserErased(UserErased { actor: actor(person) });
                let mut frame = vec![self.event(self.ids.event_id(), person, end)];
                frame.extend(self.late(person, false)?.events);
                self.publisher.publish_all(frame).await?;
            }
            Cut::Nowhere => {
                let receipt = ask(person).await??.expect(200)?.json()?;
                anyhow::ensure!(receipt["finished"] == true, "{receipt}");
            }
        }
        self.cluster.until_ready().await;
        Ok(())
    }

    /// Gives the account another external id, as `PUT /api/users/{user}` does, and ends the transaction.
    async fn rename(&self, mut tx: Transaction<'static, Postgres>, person: &mut Person) -> Result<()> {
        let name = format!("{}-renamed", person.name);
        let keys = Keys::start(self.cluster.database_url(), &testkit::keys(), &self.clock).await?;
        let hashed = keys.hash_external_id(ExternalId::new(name.clone())?).await?;
        let change = UserChange { external_id: Change::Set(hashed), ..UserChange::default() };
        store::identity::users::update(&mut tx, person.id, &change, self.clock.now())
            .await?
            .context("no account")?;
        tx.commit().await?;
        person.user = self.cluster.settings.client(&name, Role::User)?;
        person.personal.push(name.clone());
        person.name = name;
        Ok(())
    }

    /// The worker dies where this statement waits for the lock; the api is not disturbed.
    async fn worker_dies_at(
        &mut self,
        statement: &str,
        lock: Transaction<'static, Postgres>,
        person: &Person,
    ) -> Result<()> {
        let asked = ask(person);
        self.waiting(statement, 1).await;
        self.cluster.kill(Victim::Worker).await?;
        lock.rollback().await?;
        self.cluster.revive(Victim::Worker).await?;
        let status = asked.await??.status;
        anyhow::ensure!([200, 202].contains(&status.as_u16()), "{status}");
        Ok(())
    }

    async fn both_live(&mut self) -> Result<()> {
        self.cluster.revive(Victim::Worker).await?;
        self.cluster.revive(Victim::Api).await
    }

    /// Takes a lock that ends with the transaction.
    async fn lock(&self, statement: &'static str, person: &Person) -> Result<Transaction<'static, Postgres>> {
        let mut lock = self.pool.begin().await?;
        sqlx::query(statement).bind(person.id.get()).execute(&mut *lock).await?;
        Ok(lock)
    }

    /// Waits until so many statements of this form wait for a lock.
    async fn waiting(&self, statement: &str, count: i64) {
        let waiting = async || {
            let found = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1",
            );
            found.bind(statement).fetch_one(&self.pool).await.is_ok_and(|found: i64| found >= count)
        };
        wait_until(BOUND, waiting).await;
    }

    /// The erasure is finished without anybody asking; whoever asks then gets one receipt.
    async fn receipt(&self, person: &Person) -> Result<()> {
        let done = "SELECT event_id FROM ledger.erased_users JOIN public.users USING (user_id)
                    WHERE user_id = $1 AND status = 'erased' AND blanked_at IS NOT NULL";
        let event = async || {
            sqlx::query_scalar::<_, Uuid>(done).bind(person.id.get()).fetch_optional(&self.pool).await
        };
        wait_until(BOUND, async || event().await.is_ok_and(|event| event.is_some())).await;
        let event = event().await?.context("it is not erased")?;
        for named in [person.name.clone(), person.id.to_string()] {
            let receipt =
                self.admin.post(&format!("/api/users/{named}/erase")).send().await?.expect(200)?.json()?;
            anyhow::ensure!(
                receipt["receipt_id"] == event.to_string() && receipt["finished"] == true,
                "{receipt}"
            );
        }
        Ok(())
    }

    /// Whether the user is erased in every respect.
    async fn is_nobody(&self, person: &Person) -> Result<()> {
        for client in [&person.user, &person.by_id] {
            // Failed credentials are limited by address.
            let from = |request: Request| request.header("X-Forwarded-For", &person.proxied);
            from(client.get("/api/tokens")).send().await?.expect(401)?;
            from(client.get("/api/forward-auth").header("X-Forwarded-Uri", "/x"))
                .send()
                .await?
                .expect(401)?;
            from(client.post("/api/users/me/erase")).send().await?.expect(401)?;
        }
        let users = "SELECT count(*) FROM public.users";
        let before: i64 = sqlx::query_scalar(users).fetch_one(&self.pool).await?;
        for named in [person.name.clone(), person.id.to_string()] {
            let data = json!({"endpoint": "/x", "ip_address": "203.0.113.9"});
            let event = json!({"id": "after the end", "subject": named, "data": data});
            let said = self.service.post(EVENTS).json(&event).send().await?.expect(422)?.json()?;
            anyhow::ensure!(said["items"][0]["error"]["code"] == "subject_erased", "{said}");
            let put = self.service.put(&format!("/api/users/{named}")).json(&json!({"email": "new@x"}));
            anyhow::ensure!(put.send().await?.expect(409)?.code() == "subject_erased");
            let minted = self.cluster.command(&["token", "--user", &named]).await?;
            anyhow::ensure!(minted.code == Some(1) && minted.text.is_empty(), "{minted:?}");
            let export = self.admin.get(&format!("/api/users/{named}/export")).send().await?.expect(200)?;
            holds_nothing(&export)?;
        }
        anyhow::ensure!(sqlx::query_scalar::<_, i64>(users).fetch_one(&self.pool).await? == before);
        let personal: Vec<&str> = person.personal.iter().map(String::as_str).collect();
        self.holds_nothing_of(person, &personal).await?;
        self.holds_nothing_of(person, &[LATE_ADDRESS, LATE_AGENT]).await?;
        anyhow::ensure!(self.key(person.id).await?.is_none(), "there is a data key");
        Ok(())
    }

    /// Whether none of the texts is in any table, and no row of the user has any personal field.
    async fn holds_nothing_of(&self, person: &Person, texts: &[&str]) -> Result<()> {
        for text in texts {
            let tables = tables_with(&self.pool, text).await?;
            anyhow::ensure!(tables.is_empty(), "{text} is in {tables:?}");
        }
        let left: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM ledger.api_usage
                     WHERE user_id = $1 AND (ip_address IS NOT NULL OR user_agent IS NOT NULL))
                  + (SELECT count(*) FROM ledger.token_audit WHERE user_id = $1
                     AND (ip_address IS NOT NULL OR user_agent IS NOT NULL OR token_name IS NOT NULL))
                  + (SELECT count(*) FROM ledger.security_log WHERE user_id = $1
                     AND (ip_address IS NOT NULL OR user_agent IS NOT NULL))
                  + (SELECT count(*) FROM ledger.user_tokens WHERE user_id = $1)",
        )
        .bind(person.id.get())
        .fetch_one(&self.pool)
        .await?;
        anyhow::ensure!(left == 0, "{left} rows hold something of the user");
        Ok(())
    }

    /// Publishes after the end what was sealed while there was a data key.
    async fn arrives_late(&self, person: &Person) -> Result<()> {
        let late = self.late(person, true)?;
        self.publisher.publish_all(late.events).await?;
        self.cluster.projected().await?;
        let rows = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM ledger.api_usage WHERE id = $1");
        anyhow::ensure!(
            rows.bind(late.call).fetch_one(&self.pool).await? == 1,
            "the late call is not counted"
        );
        let links =
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM ledger.token_audit WHERE event_id = $1");
        anyhow::ensure!(
            links.bind(late.token).fetch_one(&self.pool).await? == 1,
            "the late token is no link"
        );
        Ok(())
    }

    /// The data key is there again, as with a backup that was restored: it is destroyed again, and until then opens
    /// nothing for a row.
    async fn comes_back(&mut self, person: &Person) -> Result<()> {
        self.cluster.kill(Victim::Worker).await?;
        let insert = "INSERT INTO public.user_data_keys (user_id, dek_id, kid, sealed, created_at)
                      SELECT $1, sealed ->> 'dek', sealed ->> 'kid', sealed, now()
                      FROM (SELECT $2::json) AS given (sealed)";
        sqlx::query(insert).bind(person.id.get()).bind(&person.wrapped).execute(&self.pool).await?;
        // Whoever destroys it waits for this.
        let account = "SELECT FROM public.users WHERE user_id = $1 FOR UPDATE";
        let lock = self.lock(account, person).await?;
        self.publisher.publish_all(self.late(person, false)?.events).await?;
        self.cluster.revive(Victim::Worker).await?;
        self.cluster.projected().await?;
        anyhow::ensure!(self.key(person.id).await?.is_some(), "the data key was not there");
        self.holds_nothing_of(person, &[LATE_ADDRESS, LATE_AGENT]).await?;
        self.cluster
            .command(&["rebuild", "--dry-run"])
            .await?
            .expect_success()
            .context("rebuild --dry-run")?;
        lock.rollback().await?;
        wait_until(BOUND, async || self.key(person.id).await.is_ok_and(|key| key.is_none())).await;
        Ok(())
    }

    async fn key(&self, user: UserId) -> Result<Option<Arc<DataKey>>> {
        let keys = Keys::start(self.cluster.database_url(), &testkit::keys(), &self.clock).await?;
        Ok(keys.find(&mut *self.pool.acquire().await?, user).await?)
    }

    /// An admin's view of the user's month, but for when it was asked.
    async fn stats(&self, person: &Person) -> Result<Value> {
        let path = format!("/api/usage/stats?user_id={}", person.id);
        Ok(without_position(self.admin.get(&path).send().await?.expect(200)?.json()?))
    }
}

fn without_position(mut stats: Value) -> Value {
    stats["as_of"] = Value::Null;
    stats
}

/// The user asks for it.
fn ask(person: &Person) -> JoinHandle<Result<Answer>> {
    let request = person.user.post("/api/users/me/erase");
    tokio::spawn(async move { request.send().await })
}

/// Checks that an export is that of a tombstone.
fn holds_nothing(export: &Answer) -> Result<()> {
    let export = export.json()?;
    let sections = export.as_object().context("no object")?;
    for (section, held) in sections.iter().filter(|(section, _)| *section != "as_of") {
        let nothing = match held {
            Value::Array(held) => held.is_empty(),
            Value::Object(user) => {
                let known = ["user_id", "status", "created_at", "updated_at", "erased_at", "used_by_admin"];
                user["status"] == "erased"
                    && user.iter().all(|(name, value)| value.is_null() || known.contains(&name.as_str()))
            }
            _ => false,
        };
        anyhow::ensure!(nothing, "{section}: {held}");
    }
    Ok(())
}
