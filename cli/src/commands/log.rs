//! `usage-ledger log`: whether the log is whole, and the way on when it is not.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, Subcommand};
use events::GapKind;
use ledger::IdSource;
use ledger_worker::gaps::{self, LogStatus};
use nats::{Publisher, PublisherConfig, Stop};
use store::Schema;

use crate::config::Settings;
use crate::output::printable;

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How far the log reaches, how far it is projected, and why not further; exit code 1 when it is not whole
    Status,
    /// Declares frames lost, after an attempt at repair: projector, rebuild and verify pass exactly these from then on
    Accept(Accept),
}

#[derive(Args, Debug)]
struct Accept {
    /// First and last frame, as A..B
    #[arg(long, value_name = "A..B")]
    seq: Range,
    /// Why; it is kept in the log
    #[arg(long)]
    reason: String,
}

/// `A..B`, both ends included, or `A` for one frame.
#[derive(Debug, Clone)]
struct Range(RangeInclusive<u64>);

/// Text that is no range of frames.
#[derive(Debug, thiserror::Error)]
#[error("a range of frames is like 120..125, or 120 for one")]
struct RangeError;

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) if 1 <= from && from <= to => Ok(Self(from..=to)),
            _ => Err(RangeError),
        }
    }
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    match &arguments.command {
        Command::Status => status(settings).await,
        Command::Accept(range) => accept(range, settings).await,
    }
}

async fn status(settings: &Settings) -> Result<ExitCode> {
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    let log = nats::connect(&settings.nats("usage-ledger log")?).await?;
    let status = gaps::status(&mut conn, &log).await?;
    print_status(&status);
    Ok(if status.stop.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_status(status: &LogStatus) {
    let LogStatus { stream, checkpoint, projector, stop, accepted } = status;
    println!(
        "stream\t{}: frames {}..{}, {} bytes, created {}",
        stream.stream, stream.first_seq, stream.last_seq, stream.bytes, stream.created
    );
    let behind = stream.last_seq.saturating_sub(checkpoint.seq);
    println!(
        "projected\tup to frame {} ({} events), {behind} frames behind",
        checkpoint.seq, checkpoint.events
    );
    match projector {
        Some(projector) => {
            let reason = projector.reason.as_deref().map(|reason| format!(": {}", printable(reason)));
            let (state, age) = (projector.state.as_str(), projector.age_ms / 1_000);
            println!("projector\t{state}{}, heard of {age} s ago", reason.unwrap_or_default());
        }
        None => println!("projector\tno worker is running"),
    }
    for gap in accepted {
        let (from, to, kind) = (gap.seq_from, gap.seq_to, gap.kind.as_str());
        println!("accepted\t{from}..{to} ({kind}) at {}: {}", gap.accepted_at, printable(&gap.reason));
    }
    let Some(stop) = stop else {
        println!("whole\tfrom frame {} on", checkpoint.seq + 1);
        return;
    };
    println!("not whole\t{}", printable(&stop.to_string()));
    println!("way on\t{}", way_on(stop));
}

/// Ways on for an operator.
fn way_on(stop: &Stop) -> String {
    let Some(gap) = stop.acceptable() else {
        return match stop {
            Stop::StreamReplaced { .. } => {
                "restore the stream, or: usage-ledger rebuild, which makes everything anew \
                                            from this one; then start the api again"
                    .to_owned()
            }
            _ => "restore the stream; nothing can be accepted".to_owned(),
        };
    };
    let (from, to) = (gap.seqs.start(), gap.seqs.end());
    if gap.kind == GapKind::Truncated {
        return format!(
            "restore these frames, or: usage-ledger log accept --seq A..{to} --reason …, where A is the first frame \
             that is not the one that was projected, {from} at the latest; then usage-ledger rebuild"
        );
    }
    format!("restore these frames, or: usage-ledger log accept --seq {from}..{to} --reason …")
}

async fn accept(range: &Accept, settings: &Settings) -> Result<ExitCode> {
    let clock = settings.clock()?;
    let ids = IdSource::new(clock.clone());
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    let log = nats::connect(&settings.nats("usage-ledger log")?).await?;
    let producers = ids.clone();
    let publisher = Publisher::start(&log, PublisherConfig::default(), move || producers.random_id()).await?;
    let seqs = range.seq.0.clone();
    let gap = gaps::accept(&mut conn, &log, &publisher, (&clock, &ids), seqs, &range.reason).await?;
    publisher.close().await;
    println!("accepted {}..{} as {}", gap.seq_from, gap.seq_to, gap.kind.as_str());
    eprintln!("the worker goes on within a second");
    if gap.kind == GapKind::Truncated {
        eprintln!(
            "what was projected from the lost frames is still there, and `usage-ledger verify` lists it: run \
             `usage-ledger rebuild` to drop it"
        );
    }
    Ok(ExitCode::SUCCESS)
}
