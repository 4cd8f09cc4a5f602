//! `usage-ledger keys`, and what the processes say to root keys, as their users meet them.

#[expect(dead_code, reason = "shared with the tests of dev, which need more of it")]
mod program;

use std::time::Duration;

use anyhow::{Context as _, Result};
use data_keys::{KeyConfig, Keys};
use ledger::UserId;
use nix::sys::signal::Signal;
use program::{DataDir, Output, Program, output};
use serde_json::json;
use sqlx::Connection as _;
use store::identity::users::NewUser;
use testkit::{Answer, Client, Env, JWT_SECRET, Role, wait_until};

const BOUND: Duration = Duration::from_mins(1);
const K1: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const K2: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const K1_PREVIOUS: &str = "k1:1111111111111111111111111111111111111111111111111111111111111111";

/// `ENCRYPTION_KEY` and its companions.
type RootKeys<'a> = &'a [(&'a str, &'a str)];

const FIRST: RootKeys<'_> = &[("ENCRYPTION_KEY", K1)];
const BOTH: RootKeys<'_> =
    &[("ENCRYPTION_KEY", K2), ("ENCRYPTION_KEY_ID", "k2"), ("ENCRYPTION_KEY_PREVIOUS", K1_PREVIOUS)];
const SECOND: RootKeys<'_> = &[("ENCRYPTION_KEY", K2), ("ENCRYPTION_KEY_ID", "k2")];

/// A database and a log, and the program that is told of them.
struct Ledger {
    env: Env,
    dir: DataDir,
    address: String,
}

/// An api and a worker.
struct Running {
    programs: [Program; 2],
    service: Client,
}

impl Ledger {
    async fn start() -> Result<Self> {
        let (env, dir) = (Env::start().await?, DataDir::new()?);
        env.log().await?;
        let address = format!("127.0.0.1:{}", infra::free_port()?);
        Ok(Self { env, dir, address })
    }

    fn variables<'a>(&'a self, keys: RootKeys<'a>) -> Vec<(&'a str, &'a str)> {
        let others = [
            ("DATABASE_URL", self.env.database_url()),
            ("NATS_URL", self.env.nats_url()),
            ("NATS_MONITOR_URL", self.env.monitor_url()),
            ("NATS_STREAM", self.env.stream_name()),
            ("JWT_SECRET", JWT_SECRET),
            ("LISTEN_ADDR", &self.address),
            ("AUTO_PROVISION", "true"),
            // Nobody there.
            ("GITHUB_API_URL", "http://127.0.0.1:1"),
        ];
        [&others, keys].concat()
    }

    async fn run(&self, arguments: &[&str], keys: RootKeys<'_>) -> Result<Output> {
        output(&self.dir, arguments, &self.variables(keys)).await
    }

    async fn says(&self, arguments: &[&str], keys: RootKeys<'_>) -> Result<String> {
        self.run(arguments, keys).await?.expect_success()
    }

    async fn processes(&self, keys: RootKeys<'_>) -> Result<Running> {
        let start = |name| Program::start(&self.dir, &[name], &self.variables(keys));
        let programs = [start("worker")?, start("api")?];
        let service = Client::new(format!("http://{}", self.address))?;
        let ready =
            async || service.get("/readyz").send().await.is_ok_and(|answer| answer.expect(200).is_ok());
        wait_until(BOUND, ready).await;
        // Signed under the current root key, as the operator does it.
        let token = self.says(&["token", "--user", "backend", "--role", "service"], keys).await?;
        let service = service.with_token(token.trim());
        Ok(Running { programs, service })
    }

    /// So many users with data keys under the first root key.
    async fn users_with_keys(&self, count: usize) -> Result<Vec<UserId>> {
        let mut conn = store::connect(self.env.database_url(), store::Schema::Live).await?;
        let users: Vec<UserId> = (0..count).map(|_| UserId::new(self.env.ids.random_id())).collect();
        let accounts = users.iter().map(|user| NewUser::unnamed(user.get())).collect();
        store::identity::users::provision(&mut conn, accounts, self.env.clock.now()).await?;
        let config = KeyConfig { key: K1.to_owned().into(), kid: "k1".to_owned(), ..KeyConfig::default() };
        let keys = Keys::start(self.env.database_url(), &config, &self.env.clock).await?;
        let made = keys.get_or_make_many(&mut conn, &users).await?;
        anyhow::ensure!(made.len() == count && made.values().all(Result::is_ok));
        Ok(users)
    }

    async fn data_keys_under(&self, kid: &str) -> Result<i64> {
        let count = sqlx::query_scalar("SELECT count(*) FROM public.user_data_keys WHERE kid = $1");
        Ok(count.bind(kid).fetch_one(self.env.pool()).await?)
    }

    /// The addresses of the user's calls, in the order of the log.
    async fn addresses(&self, user: &str) -> Result<String> {
        let addresses = sqlx::query_scalar(
            "SELECT COALESCE(string_agg(COALESCE(ip_address, '-'), ' ' ORDER BY log_seq, log_idx), '') FROM api_usage
             WHERE user_id = (SELECT user_id FROM public.users WHERE external_id = $1)",
        );
        Ok(addresses.bind(user).fetch_one(self.env.pool()).await?)
    }
}

impl Running {
    /// Reports a call of this user from this address.
    async fn report(&self, user: &str, address: &str) -> Result<Answer> {
        let data = json!({"endpoint": "/api/analyze", "ip_address": address});
        let event = json!({"id": format!("{user} {address}"), "subject": user, "data": data});
        self.service.post("/api/usage/events").json(&event).send().await
    }

    async fn stop(self) -> Result<()> {
        for mut program in self.programs.into_iter().rev() {
            program.signal(Signal::SIGTERM)?;
            anyhow::ensure!(program.wait().await?.code() == Some(0));
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_new_key_is_64_digits_and_never_the_same() -> Result<()> {
    let dir = DataDir::new()?;
    let mut made = Vec::new();
    for _ in 0..2 {
        let new = output(&dir, &["keys", "new"], &[]).await?;
        assert_eq!(new.errors, "");
        let text = new.expect_success()?;
        let key = text.strip_suffix('\n').context("no line")?;
        assert!(key.len() == 64 && key.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        made.push(key.to_owned());
    }
    assert_ne!(made[0], made[1]);
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_not_the_databases_is_refused_and_the_right_one_is_named() -> Result<()> {
    let ledger = Ledger::start().await?;
    ledger.users_with_keys(3).await?;
    let status = ledger.says(&["keys", "status"], FIRST).await?;
    let line = status.lines().find(|line| line.starts_with("k1 ")).context("k1 is not listed")?;
    let columns: Vec<&str> = line.split_whitespace().collect();
    let &["k1", check, "3", "current"] = columns.as_slice() else { panic!("{line}") };
    assert!(check.len() == 16 && check.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");

    let expects = format!("this database expects the key k1, check value {check}");
    for (what, keys) in [
        ("missing", &[][..]),
        ("empty", &[("ENCRYPTION_KEY", "")]),
        ("short", &[("ENCRYPTION_KEY", &K1[1..])]),
        ("wrong", &[("ENCRYPTION_KEY", K2)]),
        ("renamed", &[("ENCRYPTION_KEY", K1), ("ENCRYPTION_KEY_ID", "k7")]),
        ("new", SECOND),
    ] {
        for process in ["api", "worker"] {
            let refused = ledger.run(&[process], keys).await?;
            let said = refused.text + &refused.errors;
            assert_eq!(refused.code, Some(1), "{process} with a {what} key: {said}");
            assert_eq!(said.lines().count(), 1, "{process} with a {what} key: {said}");
            assert!(said.contains(&expects), "{process} with a {what} key: {said}");
            assert!(!said.contains("11111111") && !said.contains("22222222"), "{said}");
        }
        let rotation = ledger.run(&["keys", "rotate"], keys).await?;
        assert!(rotation.code == Some(1) && rotation.errors.contains(&expects), "{what}: {rotation:?}");
    }
    // Nothing of all that left a trace.
    assert_eq!(ledger.says(&["keys", "status"], FIRST).await?, status);
    let both = ledger.says(&["keys", "status"], BOTH).await?;
    assert!(both.contains("k1 ") && both.contains("previous") && both.contains("k2 "), "{both}");
    let wrong = ledger.run(&["keys", "status"], &[("ENCRYPTION_KEY", K2)]).await?;
    assert!(wrong.text.contains("another key of this name"), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn a_rotation_loses_no_address_and_what_is_left_under_the_old_key_is_named() -> Result<()> {
    let ledger = Ledger::start().await?;
    let running = ledger.processes(FIRST).await?;
    running.report("alice", "192.0.2.1").await?.expect(202)?;
    running.report("bob", "192.0.2.101").await?.expect(202)?;
    running.stop().await?;

    let running = ledger.processes(BOTH).await?;
    running.report("alice", "192.0.2.2").await?.expect(202)?;
    let said = ledger.says(&["keys", "rotate"], BOTH).await?;
    // Theirs, and the one of the ledger itself for external ids.
    assert!(said.contains("3 data keys are wrapped under k2 now"), "{said}");
    running.report("alice", "192.0.2.3").await?.expect(202)?;
    let said = ledger.says(&["keys", "rotate"], BOTH).await?;
    assert!(said.contains("0 data keys are wrapped under k2 now"), "{said}");
    assert_eq!((ledger.data_keys_under("k1").await?, ledger.data_keys_under("k2").await?), (0, 2));
    running.stop().await?;

    // The old key is dropped. One row comes back under it, as from a backup.
    let running = ledger.processes(SECOND).await?;
    running.report("alice", "192.0.2.4").await?.expect(202)?;
    let all = "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4";
    wait_until(BOUND, async || ledger.addresses("alice").await.is_ok_and(|addresses| addresses == all)).await;
    running.stop().await?;
    let back = "UPDATE public.user_data_keys SET kid = 'k1', sealed = jsonb_set(sealed::jsonb, '{kid}', '\"k1\"')::json
                WHERE user_id = (SELECT user_id FROM public.users WHERE external_id = 'bob')";
    assert_eq!(sqlx::query(back).execute(ledger.env.pool()).await?.rows_affected(), 1);
    let running = ledger.processes(SECOND).await?;
    let refused = running.report("bob", "192.0.2.102").await?.expect(503)?.json()?;
    assert_eq!(refused["code"], "encryption_key_missing");
    assert_eq!(refused["detail"], "The encryption key k1 is not configured.");
    running.report("alice", "192.0.2.5").await?.expect(202)?;
    wait_until(BOUND, async || ledger.addresses("alice").await.is_ok_and(|now| now.ends_with("192.0.2.5")))
        .await;
    let status = ledger.says(&["keys", "status"], SECOND).await?;
    let line = status.lines().find(|line| line.starts_with("k1 ")).context("k1 is not listed")?;
    assert!(line.trim_end().ends_with("1  no"), "{status}");
    running.stop().await
}

#[tokio::test]
async fn tokens_are_stored_and_opened_all_the_while_a_rotation_runs() -> Result<()> {
    let ledger = Ledger::start().await?;
    let mut users = ledger.users_with_keys(1_200).await?;
    users.sort_unstable();
    let running = ledger.processes(FIRST).await?;
    // At either end of the rotation.
    let early = [users[0], users[1_199]];
    let before = store_and_open(&ledger, &running, &early).await?;
    running.stop().await?;

    let running = ledger.processes(BOTH).await?;
    // The rotation comes as far as the page of this row.
    let mut conn = store::connect(ledger.env.database_url(), store::Schema::Live).await?;
    let mut lock = conn.begin().await?;
    let row = sqlx::query("SELECT 1 FROM public.user_data_keys WHERE user_id = $1 FOR UPDATE");
    row.bind(users[800].get()).execute(&mut *lock).await?;
    let mut rotation = Program::start(&ledger.dir, &["keys", "rotate"], &ledger.variables(BOTH))?;
    wait_until(BOUND, async || ledger.data_keys_under("k2").await.is_ok_and(|moved| moved > 0)).await;
    let every_tenth = |first: usize| users.iter().skip(first).step_by(10).copied().collect::<Vec<UserId>>();
    store_and_open(&ledger, &running, &every_tenth(2)).await?;
    assert!(ledger.data_keys_under("k1").await? > 0 && ledger.data_keys_under("k2").await? > 0);
    lock.rollback().await?;
    let others = every_tenth(5);
    let (ended, stored) = tokio::join!(rotation.wait(), store_and_open(&ledger, &running, &others));
    assert_eq!((ended?.code(), stored?.len()), (Some(0), others.len()));
    assert_eq!((ledger.data_keys_under("k1").await?, ledger.data_keys_under("k2").await?), (0, 1_200));
    running.stop().await?;

    // The old key is dropped; a row comes back under it, as from a backup.
    let back = "UPDATE public.user_data_keys SET kid = 'k1', sealed = jsonb_set(sealed::jsonb, '{kid}', '\"k1\"')::json
                WHERE user_id = $1";
    assert_eq!(sqlx::query(back).bind(early[1].get()).execute(ledger.env.pool()).await?.rows_affected(), 1);
    let running = ledger.processes(SECOND).await?;
    open(&ledger, &running, early[0], &before[0]).await?.expect(200)?;
    let stored = stored_token(&ledger, &running, early[1]).await?;
    let opened = open(&ledger, &running, early[1], &before[1]).await?;
    for refused in [stored, opened] {
        let refused = refused.expect(503)?.json()?;
        assert_eq!(refused["code"], "encryption_key_missing");
        assert_eq!(refused["detail"], "The encryption key k1 is not configured.");
    }
    let audited =
        sqlx::query_scalar("SELECT count(*) FROM token_audit WHERE user_id = $1 AND action = 'used'");
    let used: i64 = audited.bind(early[1].get()).fetch_one(ledger.env.pool()).await?;
    assert_eq!(used, 1, "a use that could not be");
    running.stop().await
}

/// Each of the users stores a token and has it tested, some at a time; answers the tokens' ids.
async fn store_and_open(ledger: &Ledger, running: &Running, users: &[UserId]) -> Result<Vec<String>> {
    let one = async |user: UserId| {
        let stored = stored_token(ledger, running, user).await?.expect(201)?.json()?;
        let id = stored["id"].as_str().context("no id")?.to_owned();
        // The provider is away, which is found out with the opened token alone.
        let tested = open(ledger, running, user, &id).await?.expect(200)?.json()?;
        anyhow::ensure!(tested["reason"] == "unreachable", "{tested}");
        anyhow::Ok(id)
    };
    let mut ids = Vec::with_capacity(users.len());
    for users in users.chunks(2) {
        match *users {
            [first, second] => {
                let (first, second) = tokio::try_join!(one(first), one(second))?;
                ids.extend([first, second]);
            }
            _ => ids.push(one(users[0]).await?),
        }
    }
    Ok(ids)
}

async fn stored_token(ledger: &Ledger, running: &Running, user: UserId) -> Result<Answer> {
    let client = running.service.with_token(ledger.env.token(&user.to_string(), Role::User));
    let token = json!({"token_type": "github", "token": "ghp_0123456789abcdefghijklmnopqrstuvwxyz"});
    client.post("/api/tokens").json(&token).send().await
}

async fn open(ledger: &Ledger, running: &Running, user: UserId, id: &str) -> Result<Answer> {
    let client = running.service.with_token(ledger.env.token(&user.to_string(), Role::User));
    client.post(&format!("/api/tokens/{id}/test")).send().await
}

/// Killed like that it can say nothing; the table says what is left.
#[tokio::test]
async fn a_rotation_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let ledger = Ledger::start().await?;
    let count = 1_200;
    let mut users = ledger.users_with_keys(count).await?;
    users.sort_unstable();
    // It comes as far as the page of this row.
    let mut conn = store::connect(ledger.env.database_url(), store::Schema::Live).await?;
    let mut lock = conn.begin().await?;
    let row = sqlx::query("SELECT 1 FROM public.user_data_keys WHERE user_id = $1 FOR UPDATE");
    row.bind(users[800].get()).execute(&mut *lock).await?;
    let mut rotation = Program::start(&ledger.dir, &["keys", "rotate"], &ledger.variables(BOTH))?;
    wait_until(BOUND, async || ledger.data_keys_under("k2").await.is_ok_and(|moved| moved > 0)).await;
    rotation.signal(Signal::SIGKILL)?;
    assert_eq!(rotation.wait().await?.code(), None, "it ended before it was killed");
    let moved = ledger.data_keys_under("k2").await?;
    assert!(0 < moved && moved < 800, "{moved}");

    // Its statement may still wait at the server, and go on now beside the second run.
    lock.rollback().await?;
    ledger.says(&["keys", "rotate"], BOTH).await?;
    assert_eq!((ledger.data_keys_under("k1").await?, ledger.data_keys_under("k2").await?), (0, 1_200));
    let config = KeyConfig { key: K2.to_owned().into(), kid: "k2".to_owned(), ..KeyConfig::default() };
    let keys = Keys::start(ledger.env.database_url(), &config, &ledger.env.clock).await?;
    let found = keys.find_many(&mut conn, &users).await?;
    assert!(found.len() == count && found.values().all(Result::is_ok));
    Ok(())
}
