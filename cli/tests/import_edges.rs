//! `usage-ledger import` of files that are not what they should be: refused before anything is written, or read so that
//! whoever made a call is charged for it.

#[expect(dead_code, reason = "shared with the tests of dev, which need more of it")]
mod program;

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::pty::openpty;
use program::{DataDir, Output, Program, command, output};
use testkit::{Env, wait_until};

const BOUND: Duration = Duration::from_mins(1);

/// A database, a stream, and the program that is told of them.
struct Ledger {
    env: Env,
    dir: DataDir,
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

    fn file(&self, name: &str, content: &[u8]) -> Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content)?;
        Ok(text(&path).to_owned())
    }

    async fn import(&self, arguments: &[&str]) -> Result<Output> {
        output(&self.dir, &[&["import"], arguments].concat(), &self.env.variables()).await
    }

    async fn frames(&self) -> Result<u64> {
        Ok(self.env.log().await?.state().await?.last_seq)
    }

    /// Users' names and their calls, in order.
    async fn calls(&self) -> Result<Vec<(String, i64)>> {
        let calls = "SELECT u.external_id, count(*) FROM api_usage JOIN public.users u USING (user_id)
                     GROUP BY u.external_id ORDER BY u.external_id";
        Ok(sqlx::query_as(calls).fetch_all(self.env.pool()).await?)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn line(prefix: &str, second: u8) -> String {
    format!(
        "{prefix} [02/Feb/2024:06:00:{second:02} +0000] \"GET /api/analyze HTTP/1.1\" 200 8 \"-\" \"node\"\n"
    )
}

/// Counts behind these names.
fn counts(said: &Output, names: &[&str]) -> Vec<u64> {
    let count = |name: &&str| {
        let line = said.text.lines().find(|line| line.starts_with(*name))?;
        line.split_whitespace().last()?.parse().ok()
    };
    names.iter().map(|name| count(name).unwrap_or(u64::MAX)).collect()
}

fn mixed(good: usize, bad: usize) -> Vec<u8> {
    let good: String = (0..good).map(|_| line("192.0.2.10 - -", 1)).collect();
    let bad: String = (0..bad).map(|_| line("api.example.test:443 192.0.2.11 - -", 2)).collect();
    (good + &bad).into_bytes()
}

#[tokio::test]
async fn too_many_lines_that_give_no_call_are_refused_before_anything_is_written() -> Result<()> {
    let ledger = Ledger::start().await?;
    let file = ledger.file("mixed.log", &mixed(90, 10))?;
    let arguments = [&*file, "--format", "combined"];
    let refused = ledger.import(&arguments).await?;
    assert_eq!((refused.code, ledger.frames().await?), (Some(1), 0), "{}", refused.errors);
    for expected in [
        "10 of 100 lines (10 %) give no call",
        "--format vhost_combined",
        "first line 91",
        "nothing was written",
        "--yes",
    ] {
        assert!(refused.errors.contains(expected), "{expected}: {}", refused.errors);
    }
    let dry = ledger.import(&[&arguments[..], &["--dry-run"]].concat()).await?;
    assert_eq!(dry.code, Some(1), "{}", dry.errors);
    assert_eq!(counts(&dry, &["accepted", "skipped", "new  ", "new users"]), [90, 10, 90, 1], "{}", dry.text);
    assert_eq!(ledger.frames().await?, 0);

    let taken = ledger.import(&[&arguments[..], &["--yes"]].concat()).await?;
    assert_eq!(taken.code, Some(0), "{}", taken.errors);
    assert_eq!(counts(&taken, &["accepted", "skipped"]), [90, 10], "{}", taken.text);
    assert_eq!(taken.errors.lines().filter(|line| line.starts_with("line ")).count(), 10);

    // A pipe is not read twice, and yet nothing of it is written.
    let frames = ledger.frames().await?;
    let piped = piped(&ledger, &["-", "--format", "combined"], &mixed(18, 1)).await?;
    assert_eq!((piped.code, ledger.frames().await?), (Some(1), frames), "{}", piped.errors);
    let few = ledger.file("few.log", &mixed(19, 1))?;
    let few = ledger.import(&[&few, "--format", "combined"]).await?;
    assert_eq!(few.code, Some(0), "5 % are not more than 5 %: {}", few.errors);

    let wrong = ledger.file("wrong.log", &mixed(0, 115))?;
    let wrong = ledger.import(&[&wrong, "--format", "combined"]).await?;
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.errors.lines().count() < 8, "one kind of fault is one line: {}", wrong.errors);
    Ok(())
}

async fn piped(ledger: &Ledger, arguments: &[&str], content: &[u8]) -> Result<Output> {
    use tokio::io::AsyncWriteExt as _;
    let mut child = command(&ledger.dir, &[&["import"], arguments].concat(), &ledger.env.variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no pipe")?;
    input.write_all(content).await?;
    drop(input);
    let ended = tokio::time::timeout(BOUND, child.wait_with_output()).await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Output { code: ended.status.code(), text: text(ended.stdout), errors: text(ended.stderr) })
}

#[tokio::test]
async fn on_a_terminal_it_asks() -> Result<()> {
    let ledger = Ledger::start().await?;
    let file = ledger.file("mixed.log", &mixed(90, 10))?;
    for (answer, code, is_written) in [("n\n", 1, false), ("\n", 1, false), ("yes\n", 0, true)] {
        let pty = openpty(None, None)?;
        let terminal = |fd: &OwnedFd| -> Result<Stdio> { Ok(Stdio::from(fd.try_clone()?)) };
        let mut child =
            command(&ledger.dir, &["import", &file, "--format", "combined"], &ledger.env.variables())
                .stdin(terminal(&pty.slave)?)
                .stdout(Stdio::null())
                .stderr(terminal(&pty.slave)?)
                .spawn()?;
        let asked = read_until(std::fs::File::from(pty.master.try_clone()?), "[y/N] ");
        let asked = tokio::time::timeout(BOUND, asked).await??;
        assert!(asked.contains("10 of 100 lines"), "{asked}");
        assert!(asked.contains("import the other 90?"), "{asked}");
        assert_eq!(ledger.frames().await?, 0, "nothing is written before the answer");
        let mut keyboard = std::fs::File::from(pty.master.try_clone()?);
        keyboard.write_all(answer.as_bytes())?;
        // Somebody must read what the terminal shows, or the program waits for it.
        let reader = std::thread::spawn(move || drain(std::fs::File::from(pty.master)));
        drop(pty.slave);
        let status = tokio::time::timeout(BOUND, child.wait()).await??;
        drop(keyboard);
        assert_eq!(status.code(), Some(code), "{answer:?}");
        assert_eq!(ledger.frames().await? > 0, is_written, "{answer:?}");
        reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    }
    Ok(())
}

async fn read_until(mut terminal: std::fs::File, end: &'static str) -> Result<String> {
    tokio::task::spawn_blocking(move || {
        let (mut text, mut part) = (String::new(), [0; 256]);
        while !text.ends_with(end) {
            let read = terminal.read(&mut part)?;
            anyhow::ensure!(read > 0, "it ended: {text}");
            text.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        Ok(text)
    })
    .await?
}

/// Reads to the end, which a terminal that nobody holds any more says by an error.
fn drain(mut terminal: std::fs::File) {
    let mut part = [0; 256];
    while terminal.read(&mut part).is_ok_and(|read| read > 0) {}
}

#[tokio::test]
async fn equal_lines_of_two_servers_are_two_calls_and_a_dry_run_knows_what_is_new() -> Result<()> {
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker().await?;
    let lines: Vec<String> = (1..=3).map(|second| line("192.0.2.60 - -", second)).collect();
    let a = ledger.file("a.log", lines[..2].concat().as_bytes())?;
    let b = ledger.file("b.log", lines[1..].concat().as_bytes())?;
    let run = async |file: &str, source: &str, further: &[&str]| {
        ledger.import(&[&[file, "--format", "combined", "--source", source], further].concat()).await
    };
    let new = ["new  ", "in the ledger", "new users"];
    assert_eq!(counts(&run(&a, "web-a", &["--dry-run"]).await?, &new), [2, 0, 1]);
    for (file, source, expected) in [(&a, "web-a", [2, 0]), (&b, "web-b", [2, 0]), (&a, "web-a", [0, 2])] {
        let said = run(file, source, &[]).await?;
        assert_eq!(said.code, Some(0), "{}", said.errors);
        assert_eq!(counts(&said, &["accepted", "duplicates"]), expected, "{source}: {}", said.text);
    }
    assert_eq!(ledger.calls().await?, [("192.0.2.60".to_owned(), 4)]);
    assert_eq!(counts(&run(&a, "web-a", &["--dry-run"]).await?, &new), [0, 2, 0]);
    assert_eq!(
        counts(&run(&b, "web-a", &["--dry-run"]).await?, &new),
        [1, 1, 0],
        "one line is web-a's already"
    );
    // Without a name the file itself is all that tells lines apart, as it was before there were names.
    let plain = async |file: &str| ledger.import(&[file, "--format", "combined"]).await;
    assert_eq!(counts(&plain(&a).await?, &["accepted", "duplicates"]), [2, 0]);
    assert_eq!(counts(&plain(&b).await?, &["accepted", "duplicates"]), [1, 1]);
    let sources = "SELECT count(DISTINCT external_id) FROM public.users";
    assert_eq!(sqlx::query_scalar::<_, i64>(sources).fetch_one(ledger.env.pool()).await?, 1);
    Ok(())
}

#[tokio::test]
async fn an_erased_user_s_lines_are_skipped_before_anything_is_written() -> Result<()> {
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker().await?;
    let first = ledger.file("first.log", line("192.0.2.62 - -", 1).as_bytes())?;
    assert_eq!(ledger.import(&[&first, "--format", "combined"]).await?.code, Some(0));
    let erased = "UPDATE public.users SET status = 'erased', erased_at = now(), external_id = NULL
                  WHERE external_id = '192.0.2.62' AND external_id_hash IS NOT NULL";
    assert_eq!(sqlx::query(erased).execute(ledger.env.pool()).await?.rows_affected(), 1);

    let lines = [line("192.0.2.62 - -", 2), line("::ffff:192.0.2.62 - -", 3), line("192.0.2.63 - -", 4)];
    let file = ledger.file("erased.log", lines.concat().as_bytes())?;
    let (arguments, frames) = ([&*file, "--format", "combined"], ledger.frames().await?);
    let dry = ledger.import(&[&arguments[..], &["--dry-run"]].concat()).await?;
    assert_eq!(dry.code, Some(1), "an import would be refused: {}", dry.text);
    let names = ["accepted", "skipped", "new  ", "new users"];
    assert_eq!(counts(&dry, &names), [1, 2, 1, 1], "{}", dry.text);
    assert!(dry.text.contains("the user was erased"), "{}", dry.text);
    let refused = ledger.import(&arguments).await?;
    assert_eq!((refused.code, ledger.frames().await?), (Some(1), frames), "{}", refused.errors);
    assert!(refused.errors.contains("2 of 3 lines (66 %) give no call"), "{}", refused.errors);

    // Without the root keys nobody can say who was erased.
    let variables: Vec<_> =
        ledger.env.variables().into_iter().filter(|(name, _)| *name != "ENCRYPTION_KEY").collect();
    let blind =
        output(&ledger.dir, &[&["import"], &arguments[..], &["--dry-run"]].concat(), &variables).await?;
    let told = "not known: users are not looked up, for ENCRYPTION_KEY is not set";
    assert!(blind.code == Some(0) && blind.text.contains(told), "{}{}", blind.text, blind.errors);
    Ok(())
}

#[tokio::test]
async fn a_live_file_is_taken_up_to_its_last_whole_line_and_the_rest_later() -> Result<()> {
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker().await?;
    let full = [line("192.0.2.61 - -", 1), line("192.0.2.61 - -", 2)].concat();
    let file = ledger.file("live.log", &full.as_bytes()[..full.len() - 4])?;
    let arguments = [&*file, "--format", "combined"];
    let first = ledger.import(&arguments).await?;
    assert_eq!(
        (first.code, counts(&first, &["accepted", "skipped"])),
        (Some(0), vec![1, 0]),
        "{}",
        first.errors
    );
    assert!(first.errors.contains("line 2 has no line end yet"), "{}", first.errors);
    std::fs::write(&file, &full)?;
    let second = ledger.import(&arguments).await?;
    assert_eq!(counts(&second, &["accepted", "duplicates"]), [1, 1], "{}", second.text);
    assert_eq!(ledger.calls().await?, [("192.0.2.61".to_owned(), 2)]);
    let whole = ledger.file("whole.log", full.trim_end().as_bytes())?;
    let taken = ledger.import(&[&whole, "--format", "combined", "--take-last-line"]).await?;
    assert_eq!(counts(&taken, &["accepted", "duplicates"]), [0, 2], "{}", taken.text);
    Ok(())
}

#[tokio::test]
async fn forms_that_are_common_are_read_and_charge_the_client() -> Result<()> {
    let ledger = Ledger::start().await?;
    let _worker = ledger.worker().await?;
    let syslog =
        [line("<133>Nov 30 06:00:01 web5 mds-acc 192.0.2.1 - -", 1), line("192.0.2.1 - -", 2)].concat();
    let common = "192.0.2.2:4711 - - [02/Feb/2024:06:00:01 +0000] \"GET / HTTP/1.1\" 200 8\n";
    let vhost = line("api.example.test:443 ::ffff:192.0.2.3 - ada", 1);
    let json = b"{\"t\":1700000000.289,\"uri\":\"/api/analyze\",\"ua\":\"agent/\xff1\",\"key\":[\"cust-9\"],\"d\":1500000}\n";
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(line("[2001:db8::7]:61272 - -", 1).as_bytes())?;
    let skip = r"^(<\d+>)?\w+ +\d+ [\d:]+ \S+ \S+ ";
    let map = "time=t,endpoint=uri,user_agent=ua,user=key,response_time_ms=d:ns";
    for (name, content, arguments, said) in [
        ("syslog.log", syslog.as_bytes(), &["--format", "combined", "--skip-prefix", skip][..], ""),
        (
            "common.log",
            common.as_bytes(),
            &["--format", "common"],
            "ip_address: the port was cut; first in line 1",
        ),
        ("vhost.log", vhost.as_bytes(), &["--format", "vhost_combined", "--user-from", "user"], ""),
        (
            "json.log",
            json,
            &["--format", "json", "--map", map],
            "user_agent: bytes that are not UTF-8 were replaced",
        ),
        ("packed", &packed.finish()?, &["--format", "combined"], "1  ip_address: the port was cut"),
        (
            "packed.zst",
            &zstd::encode_all(line("192.0.2.1 - -", 3).as_bytes(), 3)?,
            &["--format", "combined"],
            "",
        ),
    ] {
        let file = ledger.file(name, content)?;
        let taken = ledger.import(&[&[&*file], arguments].concat()).await?;
        assert_eq!(
            (taken.code, counts(&taken, &["skipped"])),
            (Some(0), vec![0]),
            "{name}: {}",
            taken.errors
        );
        assert!(taken.text.contains(said), "{name}: {}", taken.text);
    }
    let expected = [("192.0.2.1", 3), ("192.0.2.2", 1), ("2001:db8::7", 1), ("ada", 1), ("cust-9", 1)];
    assert_eq!(ledger.calls().await?, expected.map(|(user, calls)| (user.to_owned(), calls)));
    let row = "SELECT concat_ws(' ', user_agent, response_time_ms) FROM api_usage WHERE response_time_ms IS NOT NULL";
    let row: String = sqlx::query_scalar(row).fetch_one(ledger.env.pool()).await?;
    assert_eq!(row, "agent/\u{fffd}1 2");
    let address =
        "SELECT ip_address FROM api_usage JOIN public.users USING (user_id) WHERE external_id = 'ada'";
    let address: String = sqlx::query_scalar(address).fetch_one(ledger.env.pool()).await?;
    assert_eq!(address, "192.0.2.3");
    Ok(())
}

#[tokio::test]
async fn a_file_of_another_kind_is_told_in_one_line() -> Result<()> {
    let dir = DataDir::new()?;
    let lines = line("192.0.2.1 - -", 1).repeat(115);
    let utf16: Vec<u8> = lines.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, expected) in [
        (utf16, "text in UTF-16"),
        ([b"PK\x03\x04", lines.as_bytes()].concat(), "a zip archive"),
        ([b"\0\0\0\0", lines.as_bytes()].concat(), "begins with zeros"),
    ] {
        let path = dir.path().join("odd.log");
        std::fs::write(&path, content)?;
        for further in [&["--dry-run"][..], &["--dry-run", "--yes"]] {
            let arguments = [&["import", text(&path), "--format", "combined"], further].concat();
            let said = output(&dir, &arguments, &[]).await?;
            assert_eq!((said.code, said.errors.lines().count()), (Some(1), 1), "{}", said.errors);
            assert!(said.errors.contains(expected), "{}", said.errors);
        }
    }
    Ok(())
}
