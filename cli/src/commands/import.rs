//! `usage-ledger import`: calls from a file.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::config::Settings;
use crate::import::{self, Format, Imported, Mapping, Projected, Sink, SinkConfig, Source, Target, UserFrom};
use crate::shutdown;

/// Exit code of arguments that cannot be, as clap has it.
const WRONG_USAGE: u8 = 2;

/// Lines that give no call are told on stderr with their numbers, and passed over. A file can be imported again, whole
/// or after an interruption: nothing counts twice. Users are made where there are none.
///
/// Exit code 0 when the file's calls are in the ledger (or the file is empty), 1 when no line of it gave a call, or
/// something failed.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The file, or - for stdin
    file: PathBuf,
    /// How its lines are to be read
    #[arg(long, value_enum)]
    format: FormatName,
    /// Where a line names its user [default: ip for combined, field for json]
    #[arg(long, value_enum)]
    user_from: Option<UserFrom>,
    /// Which JSON field holds which field of a call, such as endpoint=path,time=ts; dots lead into nested objects
    #[arg(long, value_name = "FIELD=NAME,…")]
    map: Option<Mapping>,
    /// Write nothing; tell what is in the file
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// Access logs of Apache and nginx
    Combined,
    /// One JSON object a line
    Json,
}

impl Arguments {
    /// Contradiction in the arguments.
    fn contradiction(&self) -> Option<&'static str> {
        match self.format {
            FormatName::Combined if self.map.is_some() => Some("--map is for --format json"),
            FormatName::Combined if self.user_from == Some(UserFrom::Field) => {
                Some("--user-from field is for --format json; a combined log has ip and user")
            }
            FormatName::Combined | FormatName::Json => None,
        }
    }

    fn source(&self) -> anyhow::Result<Source> {
        let (format, user_from) = match self.format {
            FormatName::Combined => (Format::Combined, UserFrom::Ip),
            FormatName::Json => (Format::Json(self.map.clone().unwrap_or_default()), UserFrom::Field),
        };
        let user_from = self.user_from.unwrap_or(user_from);
        let (reader, bytes) = import::open(&self.file)?;
        Ok(Source { reader, bytes, format, user_from })
    }
}

pub(crate) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<ExitCode> {
    if let Some(contradiction) = arguments.contradiction() {
        eprintln!("usage-ledger: {contradiction}");
        return Ok(ExitCode::from(WRONG_USAGE));
    }
    let source = arguments.source()?;
    let stop = shutdown::on_signals().context("cannot listen for signals")?;
    if arguments.dry_run {
        let target = Target::Nowhere(settings.clock()?, settings.rules()?);
        let imported = import::run(source, target, &stop).await?;
        eprintln!("dry run: nothing was written");
        return finish(&imported);
    }
    let sink = Sink::open(SinkConfig::of(&settings, settings.clock()?)?).await?;
    let result = import::run(source, Target::Log(&sink), &stop).await;
    let imported = result.context("the import ended early; run it again to go on: nothing counts twice")?;
    if let Some(seq) = imported.seq {
        tokio::select! {
            projected = sink.wait_projected(seq) => tell(&projected?),
            () = stop.cancelled() => {}
        }
    }
    sink.close().await;
    finish(&imported)
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
    if imported.is_interrupted {
        eprintln!("interrupted; run it again to go on: nothing counts twice");
        return Ok(ExitCode::FAILURE);
    }
    if imported.tally.is_failure() {
        eprintln!("no line gave a call: is it the right file, and the right --format?");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
