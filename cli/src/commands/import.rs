//! `usage-ledger import`: calls from a file.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use events::SOURCE_IMPORT;
use regex::bytes::Regex;
use secrecy::ExposeSecret as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::import::{
    self, Checks, Format, Imported, Input, Known, Layout, Manner, Mapping, Projected, Sink, SinkConfig,
    Surveyed, Tally, UserFrom,
};
use crate::output::chain;
use crate::shutdown;

/// Exit code of arguments that cannot be, as clap has it.
const WRONG_USAGE: u8 = 2;

/// The file may be packed (gzip, zstd). It is read to its end before anything is written: when more than 5 % of its
/// lines give no call, you are asked on a terminal, and elsewhere the import is refused without --yes. A pipe is kept
/// in a temporary file for that, unless --yes is given. Lines that give no call are told on stderr with their numbers,
/// and passed over. A last line without a line end is left to the next run: its server may still be writing it. A file
/// can be imported again, whole or after an interruption: nothing counts twice. Users are made where there are none.
///
/// Exit code 0 when the file's calls are in the ledger (or the file is empty), 1 when no line of it gave a call, too
/// many gave none, or something failed.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The file, or - for stdin
    file: PathBuf,
    /// How its lines are to be read
    #[arg(long, value_enum)]
    format: FormatName,
    /// Where a line names its user [default: ip for access logs, field for json]
    #[arg(long, value_enum)]
    user_from: Option<UserFrom>,
    /// Which JSON field holds which field of a call, such as endpoint=path,time=ts; dots lead into nested objects and
    /// lists (`headers.X-User.0`). `response_time_ms=duration:ns` (us, ms, s) tells the unit of a duration
    #[arg(long, value_name = "FIELD=NAME,…")]
    map: Option<Mapping>,
    /// The server that wrote the file: equal lines of two servers are two calls when each has a name of its own. Give
    /// the same name for the same server in every run
    #[arg(long, value_name = "NAME", value_parser = source_name)]
    source: Option<String>,
    /// Passes over what it matches at the beginning of a line, such as '^\S+ '
    #[arg(long, value_name = "REGEX", value_parser = skip_prefix)]
    skip_prefix: Option<Regex>,
    /// Takes a last line without a line end too: for a file to which nothing will be added
    #[arg(long)]
    take_last_line: bool,
    /// Write nothing; tell what is in the file, and what of it is new if `DATABASE_URL` is set
    #[arg(long)]
    dry_run: bool,
    /// Import also when more than 5 % of the lines give no call
    #[arg(long, short)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum FormatName {
    /// Access logs of Apache and nginx, with referer and user agent
    Combined,
    /// The same without the two
    Common,
    /// Combined, with the virtual host at the beginning
    VhostCombined,
    /// One JSON object a line
    Json,
}

fn source_name(text: &str) -> Result<String, String> {
    const MAX_BYTES: usize = 200;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@/+".contains(&byte);
    if text.is_empty() || text.len() > MAX_BYTES || !text.bytes().all(is_good) {
        return Err(format!("a name has 1 to {MAX_BYTES} letters, digits and -._~:@/+, such as web-1"));
    }
    Ok(text.to_owned())
}

fn skip_prefix(text: &str) -> Result<Regex, String> {
    Regex::new(&format!(r"\A(?:{text})")).map_err(|error| error.to_string())
}

impl Arguments {
    /// Contradiction in the arguments.
    fn contradiction(&self) -> Option<&'static str> {
        match self.format {
            FormatName::Json => None,
            _ if self.map.is_some() => Some("--map is for --format json"),
            _ if self.user_from == Some(UserFrom::Field) => {
                Some("--user-from field is for --format json; an access log has ip and user")
            }
            _ => None,
        }
    }

    fn manner(&self) -> Manner {
        let (format, user_from) = match self.format {
            FormatName::Combined => (Format::AccessLog(Layout::Combined), UserFrom::Ip),
            FormatName::Common => (Format::AccessLog(Layout::Common), UserFrom::Ip),
            FormatName::VhostCombined => (Format::AccessLog(Layout::VhostCombined), UserFrom::Ip),
            FormatName::Json => (Format::Json(self.map.clone().unwrap_or_default()), UserFrom::Field),
        };
        Manner {
            format,
            user_from: self.user_from.unwrap_or(user_from),
            skip_prefix: self.skip_prefix.clone(),
            take_last_line: self.take_last_line,
        }
    }

    /// The source of the file's calls.
    fn source(&self) -> String {
        match &self.source {
            Some(name) => format!("{SOURCE_IMPORT}:{name}"),
            None => SOURCE_IMPORT.to_owned(),
        }
    }
}

pub(crate) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<ExitCode> {
    if let Some(contradiction) = arguments.contradiction() {
        eprintln!("usage-ledger: {contradiction}");
        return Ok(ExitCode::from(WRONG_USAGE));
    }
    let stop = shutdown::on_signals().context("cannot listen for signals")?;
    let mut input = Input::open(&arguments.file)?;
    if arguments.dry_run {
        return dry_run(input, &arguments, &settings, &stop).await;
    }
    let config = SinkConfig::of(&settings, settings.clock()?)?;
    let manner = arguments.manner();
    if !arguments.yes {
        let Some(kept) = input.kept(&stop).await? else { return Ok(nothing_written()) };
        input = kept;
        let checks = Checks { clock: &config.clock, rules: &config.rules };
        // What fails here fails the import itself, which says it.
        let url = config.database_url.expose_secret();
        let mut known = Known::open(url, &config.keys, arguments.source()).await.ok();
        let surveyed = import::survey(input.pass(), &manner, checks, &mut known, &stop).await?;
        if let Some(refusal) = refusal(&surveyed, &stop).await? {
            return Ok(refusal);
        }
    }
    let sink = Sink::open(config, arguments.source()).await?;
    let imported = import::run(input.pass(), &manner, &sink, &stop).await?;
    if let Some(seq) = imported.seq {
        tokio::select! {
            projected = sink.wait_projected(seq) => tell(&projected?),
            () = stop.cancelled() => {}
        }
    }
    sink.close().await;
    finish(&imported)
}

/// Reads the file and tells what is in it; the exit code is what that of an import would be.
async fn dry_run(
    mut input: Input,
    arguments: &Arguments,
    settings: &Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let (mut known, unknown) = match (settings.get("DATABASE_URL"), settings.get("ENCRYPTION_KEY")) {
        (None, _) => (None, "DATABASE_URL is not set".to_owned()),
        (_, None) => (None, "users are not looked up, for ENCRYPTION_KEY is not set".to_owned()),
        (Some(url), Some(_)) => match Known::open(url, &settings.keys(), arguments.source()).await {
            Ok(known) => (Some(known), "the database did not answer".to_owned()),
            Err(error) => (None, chain(&error.into())),
        },
    };
    let (clock, rules) = (settings.clock()?, settings.rules()?);
    let checks = Checks { clock: &clock, rules: &rules };
    let surveyed = import::survey(input.pass(), &arguments.manner(), checks, &mut known, stop).await?;
    let tally = &surveyed.tally;
    eprintln!("dry run: nothing was written");
    let mut out = io::stdout().lock();
    tally.write_reading(&mut out)?;
    tally.write(&mut out)?;
    writeln!(out)?;
    match &known {
        Some(known) => known.write(&mut out)?,
        None => writeln!(out, "{:<18}not known: {unknown}", "new")?,
    }
    out.flush()?;
    tell_unended(tally);
    if surveyed.is_interrupted {
        eprintln!("interrupted: this is what was read until then");
        return Ok(ExitCode::FAILURE);
    }
    if tally.is_failure() {
        eprintln!("{NO_CALL}");
        return Ok(ExitCode::FAILURE);
    }
    if tally.has_too_many_skipped() && !arguments.yes {
        eprintln!("{}: an import asks, or is refused without --yes", share(tally));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

const NO_CALL: &str = "no line gave a call: is it the right file, and the right --format?";

/// The exit code with which an import ends before it has written anything; none when it may go on.
async fn refusal(surveyed: &Surveyed, stop: &CancellationToken) -> anyhow::Result<Option<ExitCode>> {
    let tally = &surveyed.tally;
    if surveyed.is_interrupted {
        return Ok(Some(nothing_written()));
    }
    if !tally.has_too_many_skipped() {
        return Ok(None);
    }
    let mut errors = io::stderr().lock();
    tally.write_skipped(&mut errors)?;
    writeln!(errors)?;
    drop(errors);
    if tally.is_failure() {
        eprintln!("{NO_CALL}");
        return Ok(Some(ExitCode::FAILURE));
    }
    eprintln!("{}", share(tally));
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        eprintln!("nothing was written; look closer with --dry-run, or import the others with --yes");
        return Ok(Some(ExitCode::FAILURE));
    }
    eprint!("import the other {}? [y/N] ", tally.calls());
    if is_yes(&answer(stop).await) {
        return Ok(None);
    }
    Ok(Some(nothing_written()))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// A line from the terminal; nothing when it was stopped.
async fn answer(stop: &CancellationToken) -> String {
    let (said, answer) = oneshot::channel();
    // Not one of the runtime's threads: those must end before the program does.
    std::thread::spawn(move || {
        let mut line = String::new();
        // What cannot be read is no yes, and a receiver that is gone was stopped.
        let _ = io::stdin().read_line(&mut line);
        let _ = said.send(line);
    });
    tokio::select! {
        () = stop.cancelled() => String::new(),
        answer = answer => answer.unwrap_or_default(),
    }
}

/// Lines that give no call and all lines, in words.
fn share(tally: &Tally) -> String {
    let lines = tally.skipped + tally.calls();
    let percent = u128::from(tally.skipped) * 100 / u128::from(lines.max(1));
    format!("{} of {lines} lines ({percent} %) give no call", tally.skipped)
}

fn nothing_written() -> ExitCode {
    eprintln!("nothing was written");
    ExitCode::FAILURE
}

fn tell_unended(tally: &Tally) {
    if let Some(line) = tally.unended {
        eprintln!(
            "line {line} has no line end yet and is left to the next run; --take-last-line takes it now, \
             if nothing will be added to the file"
        );
    }
}

fn tell(projected: &Projected) {
    match projected {
        Projected::Yes => eprintln!("all figures hold these calls"),
        Projected::NoWorker => {
            eprintln!("the calls are in the log; no worker runs, so figures will hold them when one does");
        }
        Projected::Standstill(reason) => {
            let reason = reason.as_deref().unwrap_or("it does not say why");
            eprintln!("the calls are in the log, but the worker does not get on: {reason}");
        }
    }
}

fn finish(imported: &Imported) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    imported.tally.write(&mut out)?;
    out.flush()?;
    tell_unended(&imported.tally);
    if imported.is_interrupted {
        eprintln!("interrupted; run it again to go on: nothing counts twice");
        return Ok(ExitCode::FAILURE);
    }
    if imported.tally.is_failure() {
        eprintln!("{NO_CALL}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
