//! `usage-ledger import` against real servers and a real worker.

#[expect(dead_code, reason = "shared with the tests of dev, which need more of it")]
mod program;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ledger::{Clock, IdSource};
use nats::{Log, StreamName};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use program::{DataDir, Output, Program, output};
use testkit::{Database, Env, PrivateServers, wait_until};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

const BOUND: Duration = Duration::from_mins(1);
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/access.log");

/// A database, a stream, and the program that is told of them.
struct Ledger {
    env: Env,
    dir: DataDir,
}

/// Figures of the projections.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    /// Month, users and calls of the summaries.
    summaries: Vec<(String, i64, i64)>,
    /// Rows by status.
    rows: BTreeMap<i32, i64>,
}

impl Ledger {
    async fn start() -> Result<Self> {
        let env = Env::start().await?;
        env.log().await?;
        Ok(Self { env, dir: DataDir::new()? })
    }

    /// A worker that has said that it runs; it ends with the value.
    async fn worker(&self) -> Result<Program> {
        let worker = Program::start(&self.dir, &["worker"], &self.env.variables())?;
        wait_until(BOUND, || async {
            let running = "SELECT EXISTS (SELECT FROM public.projector_status WHERE state = 'running')";
            sqlx::query_scalar(running).fetch_one(self.env.pool()).await.is_ok_and(|running: bool| running)
        })
        .await;
        Ok(worker)
    }

    async fn import(&self, arguments: &[&str]) -> Result<Output> {
        output(&self.dir, &[&["import"], arguments].concat(), &self.env.variables()).await
    }

    /// An import that was given half of a file, took some of it in, and waits for the rest.
    async fn import_half(&self, log: &str) -> Result<(Child, ChildStdin)> {
        let mut half = start_reading_stdin(&self.dir, &self.env.variables())?;
        let mut input = half.stdin.take().context("it has no stdin")?;
        input.write_all(&log.as_bytes()[..log.len() / 2]).await?;
        input.flush().await?;
        wait_until(BOUND, || async { self.frames().await >= 2 }).await;
        Ok((half, input))
    }

    async fn figures(&self) -> Result<Figures> {
        let summaries = sqlx::query_as(
            "SELECT month_year::text, count(*), sum(total_calls)::bigint FROM monthly_usage_summary
             GROUP BY month_year ORDER BY month_year",
        );
        let rows: Vec<(i32, i64)> =
            sqlx::query_as("SELECT status_code::int, count(*) FROM api_usage GROUP BY status_code")
                .fetch_all(self.env.pool())
                .await?;
        Ok(Figures {
            summaries: summaries.fetch_all(self.env.pool()).await?,
            rows: rows.into_iter().collect(),
        })
    }

    async fn frames(&self) -> u64 {
        let state = async { anyhow::Ok(self.env.log().await?.state().await?) };
        state.await.map_or(0, |state| state.last_seq)
    }

    async fn events(&self) -> Result<usize> {
        events(&self.env.log().await?).await
    }
}

/// Number of events in the log. A batch of a thousand is more than one frame takes.
async fn events(log: &Log) -> Result<usize> {
    let mut events = 0;
    for seq in 1..=log.state().await?.last_seq {
        events += log.frame_at(seq).await?.context("a frame is missing")?.count();
    }
    Ok(events)
}

/// The program, importing what it is given on stdin, as it comes.
fn start_reading_stdin(dir: &DataDir, variables: &[(&str, &str)]) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usage-ledger"));
    command.args(["import", "-", "--format", "combined", "--yes"]).current_dir(dir.path());
    command.env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// The real log, if it is on this machine.
fn real_log() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let dir = std::env::var_os("LEDGER_DATA_DIR").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let path = dir.join("access.log");
    if path.exists() {
        return Some(path);
    }
    let message = format!("{} is missing: set LEDGER_DATA_DIR to the folder that holds it", path.display());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
    eprintln!("skipped: {message}");
    None
}

/// The count that the program printed behind this name.
fn count(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().last()?.parse().ok()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

#[tokio::test]
async fn a_real_log_gives_its_known_figures_once_and_for_ever() -> Result<()> {
    let Some(log) = real_log() else { return Ok(()) };
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker().await?;
    let arguments = [text(&log), "--format", "combined", "--user-from", "ip"];

    let first = ledger.import(&arguments).await?;
    assert_eq!(first.code, Some(0), "{}", first.errors);
    let reported: Vec<&str> = first.errors.lines().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(reported, ["line 8899: the user agent has no closing quote"]);
    assert!(first.errors.contains("all figures hold these calls"), "{}", first.errors);
    let counts = ["accepted", "duplicates", "skipped", "users"].map(|name| count(&first.text, name));
    assert_eq!(counts, [Some(9_999), Some(0), Some(1), Some(1_753)], "{}", first.text);

    let figures = ledger.figures().await?;
    let statuses =
        [(200, 9_125), (206, 45), (301, 164), (304, 445), (403, 2), (404, 213), (416, 2), (500, 3)];
    // The three calls that were answered 500 are rows, and do not count.
    let expected =
        Figures { summaries: vec![("2015-05".to_owned(), 1_753, 9_996)], rows: BTreeMap::from(statuses) };
    assert_eq!(figures, expected);
    for (status, calls) in statuses {
        let line = first.text.lines().find(|line| {
            line.split_whitespace().collect::<Vec<_>>()[..].starts_with(&["2015-05", &status.to_string()])
        });
        let said = line.and_then(|line| line.split_whitespace().last()?.parse().ok());
        assert_eq!(said, Some(calls), "{}", first.text);
    }

    let second = ledger.import(&arguments).await?;
    assert_eq!(second.code, Some(0), "{}", second.errors);
    let counts = ["accepted", "duplicates", "skipped", "users"].map(|name| count(&second.text, name));
    assert_eq!(counts, [Some(0), Some(9_999), Some(1), Some(1_753)], "{}", second.text);
    assert_eq!(ledger.figures().await?, expected);
    Ok(())
}

/// Lines of a server that answers identical requests within one second, so that many lines are equal.
fn busy_log(lines: usize) -> String {
    let line = |number: usize| {
        let (minute, second) = (number / 200 / 60, number / 200 % 60);
        let status = if number.is_multiple_of(50) { 502 } else { 200 };
        let (client, query) = (number % 7, number % 3);
        format!(
            "10.0.0.{client} - - [01/Feb/2024:10:{minute:02}:{second:02} +0000] \
             \"GET /api/analyze?q={query} HTTP/1.1\" {status} 12 \"-\" \"curl/8\"\n"
        )
    };
    (0..lines).map(line).collect()
}

#[tokio::test]
async fn killed_half_way_and_run_again_it_counts_every_line_once() -> Result<()> {
    const LINES: usize = 6_000;
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker().await?;
    let log = busy_log(LINES);
    let file = ledger.dir.path().join("busy.log");
    std::fs::write(&file, &log)?;

    let (mut half, _input) = ledger.import_half(&log).await?;
    half.start_kill()?;
    half.wait().await?;
    let before = ledger.events().await?;
    assert!(before <= LINES / 2, "{before} events are more than half of the file");

    let again = ledger.import(&[text(&file), "--format", "combined"]).await?;
    assert_eq!(again.code, Some(0), "{}", again.errors);
    let counts = ["accepted", "duplicates", "skipped"].map(|name| count(&again.text, name).unwrap_or(0));
    assert_eq!(counts.iter().sum::<u64>(), LINES as u64, "{}", again.text);
    assert!(counts[1] >= 1_000 && counts[2] == 0, "{}", again.text);
    let failed = LINES.div_ceil(50);
    let expected = Figures {
        summaries: vec![("2024-02".to_owned(), 7, i64::try_from(LINES - failed)?)],
        rows: BTreeMap::from([(200, i64::try_from(LINES - failed)?), (502, i64::try_from(failed)?)]),
    };
    assert_eq!(ledger.figures().await?, expected);
    Ok(())
}

#[tokio::test]
async fn interrupted_it_says_how_far_it_is_and_how_to_go_on() -> Result<()> {
    let ledger = Ledger::start().await?;
    let (half, _input) = ledger.import_half(&busy_log(6_000)).await?;
    let id = half.id().context("it has ended")?;
    kill(Pid::from_raw(id.cast_signed()), Signal::SIGINT)?;
    let said = tokio::time::timeout(BOUND, half.wait_with_output()).await.context("it does not end")??;
    let (text, errors) = (String::from_utf8(said.stdout)?, String::from_utf8(said.stderr)?);
    assert_eq!(said.status.code(), Some(1), "{errors}");
    assert!(errors.contains("run it again to go on"), "{errors}");
    let accepted = count(&text, "accepted").unwrap_or(0);
    assert_eq!(accepted, ledger.events().await? as u64, "{text}");
    Ok(())
}

#[tokio::test]
async fn a_database_that_goes_away_and_returns_only_delays_it() -> Result<()> {
    const LINES: usize = 6_000;
    let servers = PrivateServers::start().await?;
    let ids = IdSource::new(Clock::system());
    let database = Database::create(&servers.postgres.url("postgres"), &ids).await?;
    let log = nats::connect(&nats::Connection::new(servers.nats.url(), StreamName::default())).await?;
    log.ensure_stream(1).await?;
    let dir = DataDir::new()?;
    let (nats_url, monitor_url) = (servers.nats.url(), servers.nats.monitor_url());
    let variables = [
        ("DATABASE_URL", database.url()),
        ("NATS_URL", &nats_url),
        ("NATS_MONITOR_URL", &monitor_url),
        ("ENCRYPTION_KEY", testkit::ENCRYPTION_KEY),
    ];
    let mut import = start_reading_stdin(&dir, &variables)?;
    let mut input = import.stdin.take().context("it has no stdin")?;
    let mut errors = BufReader::new(import.stderr.take().context("it has no stderr")?).lines();

    let text = busy_log(LINES);
    let (half, rest) = text.as_bytes().split_at(text.len() / 2);
    input.write_all(half).await?;
    wait_until(BOUND, || async { log.state().await.is_ok_and(|state| state.last_seq >= 2) }).await;
    servers.postgres.kill().await;
    input.write_all(rest).await?;
    drop(input);
    let tries_again = async {
        while let Some(line) = errors.next_line().await? {
            if line.contains("trying again") {
                return anyhow::Ok(true);
            }
        }
        Ok(false)
    };
    assert!(tokio::time::timeout(BOUND, tries_again).await??, "it gave up");
    servers.postgres.resume().await?;

    let said = tokio::time::timeout(BOUND, import.wait_with_output()).await??;
    assert_eq!(said.status.code(), Some(0));
    let said = String::from_utf8(said.stdout)?;
    assert_eq!(count(&said, "accepted"), Some(LINES as u64), "{said}");
    assert_eq!(events(&log).await?, LINES);
    Ok(())
}

#[tokio::test]
async fn the_example_of_the_readme_is_imported_and_waits_for_a_worker() -> Result<()> {
    let ledger = Ledger::start().await?;
    let first = ledger.import(&[EXAMPLE, "--format", "combined", "--user-from", "ip"]).await?;
    assert_eq!(first.code, Some(0), "{}", first.errors);
    assert!(first.errors.contains("no worker runs"), "{}", first.errors);
    assert!(first.errors.contains("line 115: the request"), "{}", first.errors);
    assert_eq!(ledger.figures().await?, Figures { summaries: Vec::new(), rows: BTreeMap::new() });

    let _worker = ledger.worker().await?;
    let second = ledger.import(&[EXAMPLE, "--format", "combined", "--user-from", "ip"]).await?;
    assert_eq!(second.code, Some(0), "{}", second.errors);
    let figures = ledger.figures().await?;
    assert_eq!(figures.summaries, [("2026-11".to_owned(), 6, 111)]);
    assert_eq!(figures.rows.values().sum::<i64>(), 115);
    Ok(())
}

#[tokio::test]
async fn a_dry_run_needs_no_server_and_says_what_is_in_the_file() -> Result<()> {
    let dir = DataDir::new()?;
    let said = output(&dir, &["import", EXAMPLE, "--format", "combined", "--dry-run"], &[]).await?;
    assert_eq!(said.code, Some(0), "{}", said.errors);
    assert!(said.errors.contains("dry run: nothing was written"), "{}", said.errors);
    let counts = ["accepted", "skipped", "users"].map(|name| count(&said.text, name));
    assert_eq!(counts, [Some(115), Some(1), Some(6)], "{}", said.text);

    let log = dir.path().join("odd.log");
    let line = |time: &str, request: &str| format!("10.0.0.1 - - [{time}] \"{request}\" 200 1 \"-\" \"-\"\n");
    let now = "01/Feb/2024:10:00:00 +0000";
    let lines = [
        line(now, "GET /a%2fb HTTP/1.1"),
        "\n".to_owned(),
        line("01/Feb/1999:10:00:00 +0000", "GET / HTTP/1.1"),
        line("01/Feb/2999:10:00:00 +0000", "GET / HTTP/1.1"),
        line(now, "GE(T / HTTP/1.1"),
        line(now, "GET /\\x1b[31m HTTP/1.1"),
        "\u{1b}[31m\n".to_owned(),
    ];
    std::fs::write(&log, lines.concat())?;
    let said = output(&dir, &["import", text(&log), "--format", "combined", "--dry-run"], &[]).await?;
    assert_eq!(said.code, Some(1), "an import would be refused: {}", said.text);
    let all = format!("{}{}", said.text, said.errors);
    assert!(!all.contains('\u{1b}'), "a terminal would obey: {all:?}");
    let first: Vec<&str> =
        said.text.lines().filter_map(|line| line.split("; first line ").nth(1)?.split(':').next()).collect();
    // By kind: the first two times are out of range both.
    assert_eq!(first.len(), 4, "{}", said.text);
    assert_eq!(count(&said.text, "skipped"), Some(5), "{}", said.text);
    assert!(said.text.contains("1  method: left out, for it is not an HTTP method's name"), "{}", said.text);
    assert!(said.text.contains("new               not known: DATABASE_URL is not set"), "{}", said.text);
    Ok(())
}

#[tokio::test]
async fn json_lines_are_read_through_a_mapping() -> Result<()> {
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker().await?;
    let file = ledger.dir.path().join("calls.json");
    let lines = [
        r#"{"path":"/api/analyze","ts":1700000000,"account":"alice","status":"200","request_time":"0.050","cost":3}"#,
        r#"{"path":"/api/repos","ts":1700000000123,"account":"alice","status":404}"#,
        r#"{"path":"/api/repos","ts":"2023-11-14T22:00:00Z","account":17,"status":503}"#,
        r#"{"path":"/api/repos","ts":"soon","account":"alice"}"#,
        r#"{"path":"/api/a\\b","ts":1700000000,"account":"alice","status":"200"}"#,
    ];
    std::fs::write(&file, lines.join("\n") + "\n")?;
    let map = "endpoint=path,time=ts,user=account,status_code=status,response_time_s=request_time,units=cost";
    let said = ledger
        .import(&[text(&file), "--format", "json", "--user-from", "field", "--map", map, "--yes"])
        .await?;
    assert_eq!(said.code, Some(0), "{}", said.errors);
    assert!(said.errors.contains("line 4: \"ts\" (time) is not"), "{}", said.errors);
    assert!(said.errors.contains("line 5: endpoint: "), "{}", said.errors);
    let figures = ledger.figures().await?;
    assert_eq!(figures.summaries, [("2023-11".to_owned(), 1, 4)], "the call answered 503 does not count");
    assert_eq!(count(&said.text, "users"), Some(2));
    assert_eq!(figures.rows, BTreeMap::from([(200, 1), (404, 1), (503, 1)]));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_imported_is_refused() -> Result<()> {
    let dir = DataDir::new()?;
    let said = async |arguments: &[&str]| output(&dir, &[&["import"], arguments].concat(), &[]).await;
    for wrong in [
        &[EXAMPLE][..],
        &[EXAMPLE, "--format", "xml"],
        &[EXAMPLE, "--format", "combined", "--map", "time=ts"],
        &[EXAMPLE, "--format", "combined", "--user-from", "field"],
        &[EXAMPLE, "--format", "json", "--map", "nothing=x"],
        &[EXAMPLE, "--format", "combined", "--source", ""],
        &[EXAMPLE, "--format", "combined", "--source", "a b"],
        &[EXAMPLE, "--format", "combined", "--skip-prefix", "("],
    ] {
        assert_eq!(said(wrong).await?.code, Some(2), "{wrong:?}");
    }
    let missing = said(&["no-such-file", "--format", "combined", "--dry-run"]).await?;
    assert_eq!(missing.code, Some(1));
    assert!(missing.errors.contains("cannot open \"no-such-file\""), "{}", missing.errors);
    let unset = said(&[EXAMPLE, "--format", "combined"]).await?;
    assert_eq!(unset.code, Some(1));
    assert!(unset.errors.contains("DATABASE_URL is not set"), "{}", unset.errors);
    Ok(())
}

#[tokio::test]
async fn an_import_waits_for_a_projection_that_is_behind_and_goes_on() -> Result<()> {
    const CALLS: usize = 60_000;
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker().await?;
    let lines = (0..CALLS).map(|n| {
        format!("- - ada [17/May/2015:10:05:03 +0000] \"GET /x/{n} HTTP/1.1\" 200 10 \"-\" \"-\"\n")
    });
    let file = ledger.dir.path().join("long.log");
    std::fs::write(&file, lines.collect::<String>())?;
    // The worker runs, and its batches wait for us.
    let mut busy = ledger.env.pool().begin().await?;
    sqlx::query("LOCK TABLE projection_checkpoint IN EXCLUSIVE MODE").execute(&mut *busy).await?;

    let arguments = ["import", text(&file), "--format", "combined", "--user-from", "user", "--yes"];
    let variables = [&ledger.env.variables()[..], &[("MAX_LAG", "1s")]].concat();
    let import = output(&ledger.dir, &arguments, &variables);
    let paused = async {
        let last = Cell::new((0, Instant::now()));
        wait_until(BOUND, || async {
            let (frames, (before, since)) = (ledger.frames().await, last.get());
            if frames != before {
                last.set((frames, Instant::now()));
            }
            frames > 0 && frames == before && since.elapsed() > Duration::from_secs(2)
        })
        .await;
        let events = ledger.events().await?;
        busy.rollback().await?;
        anyhow::Ok(events)
    };
    let (imported, written) = tokio::join!(import, paused);
    let (imported, written) = (imported?, written?);
    assert!((1..CALLS).contains(&written), "it wrote {written} calls that nobody projected");
    assert_eq!(imported.code, Some(0), "{}", imported.errors);
    assert!(imported.errors.contains("all figures hold these calls"), "{}", imported.errors);
    assert_eq!(count(&imported.text, "accepted"), Some(60_000), "{}", imported.text);
    Ok(())
}
