//! `usage-ledger dead-letters`: events that could not be applied.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use data_keys::Keys;
use ledger_worker::dead_letters;
use store::{Position, Schema};

use crate::config::Settings;
use crate::output::printable;

const PAGE: i64 = 500;

/// They are told by their place in the log and never show what they hold.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists them: frame, index, time, reason, type, detail
    List,
    /// Tries them again, after what stood in their way was mended; exit code 1 when one of them still cannot be applied
    Retry(Retry),
}

#[derive(Args, Debug)]
#[group(id = "which", required = true)]
struct Retry {
    /// The frame of the one to try
    #[arg(long, requires = "idx", conflicts_with = "all", group = "which")]
    seq: Option<u64>,
    /// Its index in the frame
    #[arg(long, requires = "seq")]
    idx: Option<u16>,
    /// All of them
    #[arg(long, group = "which")]
    all: bool,
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    match &arguments.command {
        Command::List => list(settings).await,
        Command::Retry(retry) => self::retry(retry, settings).await,
    }
}

async fn list(settings: &Settings) -> Result<ExitCode> {
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    let (mut after, mut count) = (None, 0);
    loop {
        let letters = store::projection::dead_letters::list(&mut conn, None, after, PAGE).await?;
        let Some(last) = letters.last() else { break };
        after = Some(last.position);
        count += letters.len();
        let mut out = io::stdout().lock();
        for letter in &letters {
            let Position { seq, idx } = letter.position;
            let at = letter.recorded_at.format("%Y-%m-%dT%H:%M:%SZ");
            let (reason, kind, detail) =
                (letter.reason.as_str(), printable(&letter.event_type), printable(&letter.detail));
            writeln!(out, "{seq}\t{idx}\t{at}\t{reason}\t{kind}\t{detail}")?;
        }
    }
    eprintln!("{count} dead letters");
    Ok(ExitCode::SUCCESS)
}

async fn retry(retry: &Retry, settings: &Settings) -> Result<ExitCode> {
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    let keys = Keys::start(settings.database_url()?, &settings.keys(), &settings.clock()?).await?;
    let log = nats::connect(&settings.nats("usage-ledger dead-letters")?).await?;
    let (applied, still_dead) = if let (Some(seq), Some(idx)) = (retry.seq, retry.idx) {
        match dead_letters::retry_one(&mut conn, &log, &keys, Position { seq, idx }).await? {
            Some(applied) => (u64::from(applied), u64::from(!applied)),
            None => bail!("there is no dead letter at --seq {seq} --idx {idx}"),
        }
    } else {
        let report = dead_letters::retry_all(&mut conn, &log, &keys, None).await?;
        (report.applied, report.still_dead)
    };
    println!("applied {applied}, still dead {still_dead}");
    Ok(if still_dead == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
