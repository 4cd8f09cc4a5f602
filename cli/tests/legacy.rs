//! `usage-ledger keys import-legacy`, with rows that openssl and Node made.

#[expect(dead_code, reason = "shared with the tests of dev, which need more of it")]
mod program;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use data_keys::Keys;
use events::{Actor, ActorKind, Body, Event, TokenDeleted};
use ledger::{Clock, IdSource, UserId};
use nats::{Connection, EncodedEvent, Log, Publisher, PublisherConfig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use program::{DataDir, Output, Program, output};
use sqlx::PgPool;
use store::identity::users::NewUser;
use testkit::{Database, PrivateServers, wait_until};
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;
use vault::Sealed;

const BOUND: Duration = Duration::from_mins(1);
const IV: &str = "000102030405060708090a0b0c0d0e0f";
const GITHUB: &str = "ghp_legacy0123456789abcdefghijklmnopqr";
const OPENAI: &str = "sk-proj-legacy0123456789abcdefghijklmn";
const GEMINI: &str = "AIzaLegacy0123456789abcdefghijklmnopqr";
const OTHER: &str = "ghp_another0123456789abcdefghijklmnopq";
const NOT_OPENED: &str = "it does not open under ENCRYPTION_KEY: another key, changed bytes, or no token";

/// The program's ciphertext of a plaintext, in hexadecimal digits; `None`, said aloud, where there is no such program.
fn encrypted(program: &str, arguments: &[&str], token: &str) -> Result<Option<String>> {
    let started = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: {program} does not run here: {error}");
            return Ok(None);
        }
    };
    child.stdin.take().context("no pipe")?.write_all(token.as_bytes())?;
    let ended = child.wait_with_output()?;
    anyhow::ensure!(ended.status.success(), "{program} failed");
    Ok(Some(hex::encode(ended.stdout)))
}

fn by_openssl(key: &str, token: &str) -> Result<Option<String>> {
    encrypted("openssl", &["enc", "-aes-256-cbc", "-K", key, "-iv", IV], token)
}

fn by_node(key: &str, token: &str) -> Result<Option<String>> {
    let script = format!(
        "const [key, iv] = [Buffer.from('{key}', 'hex'), Buffer.from('{IV}', 'hex')];
         const c = require('crypto').createCipheriv('aes-256-cbc', key, iv);
         process.stdin.pipe(c).pipe(process.stdout)"
    );
    encrypted("node", &["-e", &script], token)
}

fn row(user: &str, kind: &str, encrypted: &str) -> String {
    format!(r#"{{"user":"{user}","token_type":"{kind}","encrypted":"{encrypted}","iv":"{IV}"}}"#)
}

struct Ledger {
    servers: PrivateServers,
    dir: DataDir,
    database: Database,
    pool: PgPool,
    log: Log,
    keys: Keys,
    ids: IdSource,
    clock: Clock,
}

impl Ledger {
    async fn start() -> Result<Self> {
        let (servers, clock) = (PrivateServers::start().await?, Clock::system());
        let ids = IdSource::new(clock.clone());
        let database = Database::create(&servers.postgres.url("postgres"), &ids).await?;
        let log = nats::connect(&Connection::new(servers.nats.url(), "LEDGER".parse()?)).await?;
        log.ensure_stream(1).await?;
        let pool = database.pool().await?;
        let keys = Keys::start(database.url(), &testkit::keys(), &clock).await?;
        Ok(Self { servers, dir: DataDir::new()?, database, pool, log, keys, ids, clock })
    }

    async fn mark_erased(&self, user: UserId) -> Result<()> {
        sqlx::query(
            "UPDATE public.users SET status = 'erased', erased_at = now(), external_id = NULL WHERE user_id = $1",
        )
        .bind(user.get())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.run_with(arguments, testkit::ENCRYPTION_KEY).await
    }

    async fn run_with(&self, arguments: &[&str], key: &str) -> Result<Output> {
        let (nats_url, monitor_url) = (self.servers.nats.url(), self.servers.nats.monitor_url());
        output(&self.dir, arguments, &self.variables(&nats_url, &monitor_url, key)).await
    }

    fn variables<'a>(
        &'a self,
        nats_url: &'a str,
        monitor_url: &'a str,
        key: &'a str,
    ) -> [(&'a str, &'a str); 4] {
        [
            ("DATABASE_URL", self.database.url()),
            ("NATS_URL", nats_url),
            ("NATS_MONITOR_URL", monitor_url),
            ("ENCRYPTION_KEY", key),
        ]
    }

    fn worker(&self) -> Result<Program> {
        let (nats_url, monitor_url) = (self.servers.nats.url(), self.servers.nats.monitor_url());
        Program::start(
            &self.dir,
            &["worker"],
            &self.variables(&nats_url, &monitor_url, testkit::ENCRYPTION_KEY),
        )
    }

    fn file(&self, name: &str, lines: &[String]) -> Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, lines.join("\n"))?;
        Ok(path.to_str().context("not UTF-8")?.to_owned())
    }

    async fn user(&self, name: &str) -> Result<UserId> {
        let user = UserId::new(self.ids.random_id());
        let mut conn = self.pool.acquire().await?;
        let external = self.keys.hash_external_id(name.parse()?).await?;
        store::identity::users::provision(
            &mut conn,
            vec![NewUser::named(user.get(), external)],
            self.clock.now(),
        )
        .await?;
        Ok(user)
    }

    async fn text(&self, query: &'static str) -> Result<String> {
        Ok(sqlx::query_scalar::<_, Option<String>>(query).fetch_one(&self.pool).await?.unwrap_or_default())
    }

    async fn projected(&self) -> Result<()> {
        let last = i64::try_from(self.log.state().await?.last_seq)?;
        let reached = async || {
            let seq = sqlx::query_scalar::<_, i64>("SELECT seq FROM ledger.projection_checkpoint");
            seq.fetch_one(&self.pool).await.is_ok_and(|seq| seq >= last)
        };
        wait_until(BOUND, reached).await;
        Ok(())
    }

    /// The user's stored tokens, opened.
    async fn tokens(&self, user: UserId) -> Result<Vec<(String, Uuid, String)>> {
        let mut conn = store::connect(self.database.url(), store::Schema::Live).await?;
        self.keys.forget_all();
        let key = self.keys.find(&mut conn, user).await?.context("no data key")?;
        let mut opened = Vec::new();
        for token in store::projection::token_rows::sealed_of(&mut conn, user).await? {
            let sealed = Sealed::from_json(&token.sealed)?;
            let text = key.open_token(token.token_type.parse()?, token.id, &sealed)?;
            opened.push((token.token_type, token.id, text.expose().to_owned()));
        }
        Ok(opened)
    }

    /// A user deletes a token over the api.
    async fn delete(&self, user: UserId, token_id: Uuid) -> Result<()> {
        let ids = self.ids.clone();
        let publisher =
            Publisher::start(&self.log, PublisherConfig::default(), move || ids.random_id()).await?;
        let actor = Actor::new(ActorKind::User, user.to_string());
        let token_type = "github".into();
        let body = Body::TokenDeleted(TokenDeleted { token_id, token_type, actor, personal: None });
        let event = Event::by_api(self.ids.event_id(), user, self.clock.now(), body);
        publisher.publish_all(vec![EncodedEvent::of(&event)]).await?;
        publisher.close().await;
        self.projected().await
    }
}

/// The counts of stdout: stored, stored before, skipped, refused.
fn counts(said: &Output) -> Vec<u64> {
    said.text.lines().filter_map(|line| line.split_whitespace().last()?.parse().ok()).collect()
}

fn reported(said: &Output) -> Vec<&str> {
    said.errors.lines().filter(|line| line.starts_with("line ")).collect()
}

/// Fails when one of the secrets is in a file under `dir`.
fn search(dir: &Path, secrets: &[Vec<u8>]) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            search(&entry.path(), secrets)?;
        } else if let Ok(content) = std::fs::read(entry.path()) {
            for secret in secrets {
                let found = content.windows(secret.len()).any(|window| window == secret.as_slice());
                anyhow::ensure!(!found, "{} holds one of them", entry.path().display());
            }
        }
    }
    Ok(())
}

/// Words on the lines that are not taken.
fn told() -> [String; 8] {
    [
        format!("line 4: {NOT_OPENED}"),
        format!("line 5: {NOT_OPENED}"),
        "line 6: the token looks like one of gemini".to_owned(),
        "line 7: there is no such user (--provision makes one)".to_owned(),
        "line 8: the user was erased".to_owned(),
        "line 9: not JSON (column 1)".to_owned(),
        "line 10: longer than 16384 bytes".to_owned(),
        "line 11: the user has another token of this type, which stays".to_owned(),
    ]
}

/// No token is in what the program said, or in the log's files.
fn nowhere(ledger: &Ledger, said: &[&Output]) -> Result<()> {
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    for token in [GITHUB, OPENAI, GEMINI, OTHER] {
        secrets.push(token.as_bytes()[8..].to_vec());
        secrets.push(hex::encode(&token[8..]).into_bytes());
    }
    for said in said {
        let said = format!("{}{}", said.text, said.errors);
        for secret in &secrets {
            assert!(!said.contains(std::str::from_utf8(secret)?), "{said}");
        }
    }
    let store = ledger.servers.nats.store();
    search(store, &secrets)?;
    assert!(search(store, &[b"token_stored".to_vec()]).is_err(), "the log is not in these files");
    Ok(())
}

#[tokio::test]
async fn rows_are_sealed_anew_once_and_the_rest_is_told_by_number() -> Result<()> {
    let key = testkit::ENCRYPTION_KEY;
    let (Some(github), Some(openai)) = (by_openssl(key, GITHUB)?, by_node(key, OPENAI)?) else {
        return Ok(());
    };
    let wrong_key = by_openssl(&"5".repeat(64), GITHUB)?.context("it ran")?;
    let gemini = by_openssl(key, GEMINI)?.context("it ran")?;
    let other = by_node(key, OTHER)?.context("it ran")?;
    let flipped = format!("{:02x}{}", u8::from_str_radix(&gemini[..2], 16)? ^ 1, &gemini[2..]);

    let ledger = Ledger::start().await?;
    let _worker = ledger.worker()?;
    let (alice, bob, gone) =
        (ledger.user("alice").await?, ledger.user("bob").await?, ledger.user("gone").await?);
    ledger.mark_erased(gone).await?;
    let lines = [
        row("alice", "github", &github).replace("\"iv\"", "\"token_name\":\"laptop\",\"iv\""),
        format!(
            r#"{{"user":"{bob}","token_type":"openai","encrypted_token":{{"encrypted":"{openai}","iv":"{IV}"}}}}"#
        ),
        String::new(),
        row("alice", "gemini", &wrong_key),
        row("alice", "gemini", &flipped),
        row("bob", "github", &gemini),
        row("nobody", "gemini", &gemini),
        row("gone", "gemini", &gemini),
        GITHUB.to_owned(),
        format!("{{\"user\":\"{}\"}}", "a".repeat(17 * 1024)),
        row("alice", "github", &other),
    ];
    let file = ledger.file("rows.json", &lines)?;

    let first = ledger.run(&["keys", "import-legacy", &file]).await?;
    assert_eq!((first.code, counts(&first)), (Some(1), vec![2, 0, 1, 7]), "{}", first.errors);
    let told = told();
    assert_eq!(reported(&first), told);
    assert!(first.errors.contains("the tokens can be used"), "{}", first.errors);
    let (alices, bobs) = (ledger.tokens(alice).await?, ledger.tokens(bob).await?);
    assert!(matches!(&alices[..], [(kind, _, token)] if kind == "github" && token == GITHUB), "{alices:?}");
    assert!(matches!(&bobs[..], [(kind, _, token)] if kind == "openai" && token == OPENAI), "{bobs:?}");
    let rows = "SELECT string_agg(concat_ws(' ', token_type, token_name, masked), ', ' ORDER BY token_type)
                FROM ledger.user_tokens";
    let masked = "github laptop ghp_…opqr, openai sk-proj-…klmn";
    assert_eq!(ledger.text(rows).await?, masked);
    let actors = "SELECT string_agg(concat_ws(' ', action, actor_kind), ', ') FROM ledger.token_audit";
    assert_eq!(ledger.text(actors).await?, "stored operator, stored operator");

    // Once more: nothing is written.
    let frames = ledger.log.state().await?.last_seq;
    let second = ledger.run(&["keys", "import-legacy", &file]).await?;
    assert_eq!((second.code, counts(&second)), (Some(1), vec![0, 2, 1, 7]), "{}", second.errors);
    assert_eq!(reported(&second), told);
    assert_eq!(ledger.log.state().await?.last_seq, frames);
    assert_eq!((ledger.tokens(alice).await?, ledger.tokens(bob).await?), (alices.clone(), bobs));

    // A token that its user deleted stays deleted.
    ledger.delete(alice, alices[0].1).await?;
    let third = ledger.run(&["keys", "import-legacy", &file]).await?;
    assert_eq!(counts(&third)[..2], [1, 2], "the other one finds its place free: {}", third.errors);
    assert_eq!(ledger.tokens(alice).await?[0].2, OTHER);
    let verified = ledger.run(&["verify", "--user", &alice.to_string()]).await?;
    assert_eq!(verified.code, Some(0), "{}", verified.errors);

    nowhere(&ledger, &[&first, &second, &third])
}

/// Packed as an import's file may be; what is neither is told in one line.
#[tokio::test]
async fn a_packed_file_is_read_like_a_plain_one() -> Result<()> {
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker()?;
    let Some(encrypted) = by_openssl(testkit::ENCRYPTION_KEY, GITHUB)? else { return Ok(()) };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(row("packed-1", "github", &encrypted).as_bytes())?;
    let zstd = zstd::encode_all(row("packed-2", "github", &encrypted).as_bytes(), 1)?;
    let path = |name: &str| ledger.dir.path().join(name).to_str().map(str::to_owned).context("not UTF-8");
    for (name, content) in [("rows.gz", gzip.finish()?), ("rows.zst", zstd)] {
        std::fs::write(path(name)?, content)?;
        let said = ledger.run(&["keys", "import-legacy", &path(name)?, "--provision"]).await?;
        assert_eq!(said.code, Some(0), "{name}: {}", said.errors);
        assert!(said.text.starts_with("stored                     1\n"), "{name}: {}", said.text);
    }
    std::fs::write(path("rows.zip")?, b"PK\x03\x04 and more of it\n")?;
    let said = ledger.run(&["keys", "import-legacy", &path("rows.zip")?]).await?;
    assert_eq!((said.code, said.errors.lines().count()), (Some(1), 1), "{}", said.errors);
    assert!(said.errors.contains("a zip archive"), "{}", said.errors);
    Ok(())
}

#[tokio::test]
async fn a_users_own_token_stays_and_users_are_made_when_asked_for() -> Result<()> {
    let key = testkit::ENCRYPTION_KEY;
    let (Some(github), Some(other)) = (by_openssl(key, GITHUB)?, by_openssl(key, OTHER)?) else {
        return Ok(());
    };
    let ledger = Ledger::start().await?;
    let one = ledger.file("one.json", &[row("carol", "github", &github)])?;
    let two = ledger.file("two.json", &[row("carol", "github", &other)])?;

    // The database must be able to say which tokens there are; of an empty log it can.
    let made = ledger.run(&["keys", "import-legacy", &one, "--provision"]).await?;
    assert_eq!((made.code, counts(&made)), (Some(0), vec![1, 0, 0, 0]), "{}", made.errors);
    assert!(made.errors.contains("no worker runs"), "{}", made.errors);
    let blind = ledger.run(&["keys", "import-legacy", &two]).await?;
    assert_eq!(blind.code, Some(1));
    assert!(
        blind.errors.contains("no worker runs, so it is not known which tokens users have"),
        "{}",
        blind.errors
    );

    let _worker = ledger.worker()?;
    ledger.projected().await?;
    let said = ledger.run(&["keys", "import-legacy", &two]).await?;
    assert_eq!((said.code, counts(&said)), (Some(0), vec![0, 0, 1, 0]), "{}", said.errors);
    let mut conn = ledger.pool.acquire().await?;
    let carol = store::identity::users::named(&mut conn, &"carol".parse()?).await?.context("she was made")?;
    assert_eq!(ledger.tokens(carol).await?[0].2, GITHUB);

    for (key, expected) in
        [("", "the key is missing"), ("12", "2 characters long"), (&*"1".repeat(64), "check value")]
    {
        let refused = ledger.run_with(&["keys", "import-legacy", &one], key).await?;
        assert_eq!(refused.code, Some(1), "{expected}");
        assert!(
            refused.errors.contains("ENCRYPTION_KEY") && refused.errors.contains(expected),
            "{expected}: {}",
            refused.errors
        );
    }
    let missing = ledger.run(&["keys", "import-legacy", "no-such-file"]).await?;
    assert!(missing.code == Some(1) && missing.errors.contains("cannot open"), "{}", missing.errors);
    Ok(())
}

#[tokio::test]
async fn interrupted_it_says_so_and_run_again_it_stores_the_rest() -> Result<()> {
    let Some(github) = by_openssl(testkit::ENCRYPTION_KEY, GITHUB)? else { return Ok(()) };
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker()?;
    let lines: Vec<String> = (0..150).map(|n| row(&format!("user-{n}"), "github", &github)).collect();
    let (nats_url, monitor_url) = (ledger.servers.nats.url(), ledger.servers.nats.monitor_url());
    let mut half = tokio::process::Command::new(env!("CARGO_BIN_EXE_usage-ledger"))
        .args(["keys", "import-legacy", "-", "--provision"])
        .current_dir(ledger.dir.path())
        .env_clear()
        .envs(ledger.variables(&nats_url, &monitor_url, testkit::ENCRYPTION_KEY))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // A hundred rows are taken in together; the end of the file never comes.
    let mut input = half.stdin.take().context("no pipe")?;
    input.write_all(lines.join("\n").as_bytes()).await?;
    input.flush().await?;
    wait_until(BOUND, || async { ledger.log.state().await.is_ok_and(|state| state.last_seq > 0) }).await;
    kill(Pid::from_raw(half.id().context("it has ended")?.cast_signed()), Signal::SIGINT)?;
    let ended = tokio::time::timeout(BOUND, half.wait_with_output()).await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let said = Output { code: ended.status.code(), text: text(ended.stdout), errors: text(ended.stderr) };
    assert_eq!((said.code, counts(&said)), (Some(1), vec![100, 0, 0, 0]), "{}", said.errors);
    assert!(said.errors.contains("interrupted; run it again"), "{}", said.errors);
    drop(input);

    let file = ledger.file("all.json", &lines)?;
    let again = ledger.run(&["keys", "import-legacy", &file, "--provision"]).await?;
    assert_eq!((again.code, counts(&again)), (Some(0), vec![50, 100, 0, 0]), "{}", again.errors);
    assert_eq!(ledger.text("SELECT count(*)::text FROM ledger.user_tokens").await?, "150");
    Ok(())
}

#[tokio::test]
async fn what_opens_to_no_known_form_is_taken_only_when_it_is_asked_for() -> Result<()> {
    let unknown = [
        ("github", "0123456789abcdef0123456789abcdef01234567"),
        ("github", "ghp_short"),
        ("github", "ghp_0123456789\u{e4}0123456789\u{e4}01234567"),
        ("github", "ghs_0123456789abcdef0123456789abcdef"),
        ("openai", "key-0123456789abcdef0123456789abcdef"),
        ("anthropic", "sk-0123456789abcdef0123456789abcdef"),
        ("gemini", "ya29.0123456789abcdef0123456789abcdef"),
    ];
    let known = [
        ("github", format!("ghs_12345_{}", "eyJ".repeat(170))),
        ("gemini", format!("AQ.{}", "Ab8".repeat(17))),
    ];
    let mut lines = Vec::new();
    for (number, (kind, token)) in unknown.iter().enumerate() {
        let Some(sealed) = by_openssl(testkit::ENCRYPTION_KEY, token)? else { return Ok(()) };
        lines.push(row(&format!("unknown-{number}"), kind, &sealed));
    }
    for (kind, token) in &known {
        lines.push(row("known", kind, &by_openssl(testkit::ENCRYPTION_KEY, token)?.context("it ran")?));
    }
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker()?;
    let file = ledger.file("rows.json", &lines)?;
    let arguments = ["keys", "import-legacy", &file, "--provision"];

    let refused = ledger.run(&arguments).await?;
    assert_eq!((refused.code, counts(&refused)), (Some(1), vec![2, 0, 0, 7]), "{}", refused.errors);
    for (line, (kind, token)) in reported(&refused).iter().zip(unknown) {
        assert!(line.contains(&format!("no known form of a {kind} token (--accept-unknown")), "{line}");
        assert!(!refused.errors.contains(token), "{line}");
    }
    let taken = ledger.run(&[&arguments[..], &["--accept-unknown"]].concat()).await?;
    assert_eq!((taken.code, counts(&taken)), (Some(0), vec![7, 2, 0, 0]), "{}", taken.errors);
    Ok(())
}
