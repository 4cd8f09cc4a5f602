//! `usage-ledger rebuild`: the projections, anew from the log.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use data_keys::Keys;
use ledger_worker::rebuild::{Compared, Finish, Rebuild, Room};

use crate::config::Settings;
use crate::differences;
use crate::progress::Bar;

/// Fills fresh tables from the log beside the live ones, tells what differs, and puts them in their place. Killed and
/// started again, it goes on where it was.
///
/// Exit code 0 when it came to its end, 1 when it did not, or when a dry run found differences.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Arguments {
    /// Only these, counted by themselves: quick, for figures that are wrong while the calls are right
    #[arg(long, value_enum, conflicts_with_all = ["hold", "swap", "drop"])]
    only: Option<Only>,
    /// Tell what differs and change nothing
    #[arg(long, conflicts_with_all = ["hold", "swap", "drop"])]
    dry_run: bool,
    /// Leave the rebuilt tables beside the live ones, for --swap or --drop
    #[arg(long, conflicts_with_all = ["swap", "drop"])]
    hold: bool,
    /// Put the tables of an earlier --hold in the place of the live ones
    #[arg(long, conflicts_with = "drop")]
    swap: bool,
    /// Drop the tables of an earlier --hold
    #[arg(long)]
    drop: bool,
    /// With --only: directory for what does not fit into memory, some 100 bytes an event while it runs [default: the
    /// system's own for temporary files]
    #[arg(long, value_name = "DIRECTORY", requires = "only")]
    temp_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    /// Monthly summaries
    Summaries,
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let (database_url, clock) = (settings.database_url()?, settings.clock()?);
    let log = nats::connect(&settings.nats("usage-ledger rebuild")?).await?;
    let bar = Bar::new();
    let progress = |step| bar.show(step);
    let room = Room { dir: arguments.temp_dir.as_deref(), ..Room::default() };
    let rebuild = Rebuild { database_url, log: &log, progress: &progress, room };
    if arguments.drop {
        let there = rebuild.drop_held().await?;
        eprintln!("{}", if there { "the rebuilt tables are dropped" } else { "there was nothing to drop" });
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.swap {
        rebuild.swap(&Keys::start(database_url, &settings.keys(), &clock).await?).await?;
        bar.finish();
        eprintln!("the rebuilt tables are live");
        return Ok(ExitCode::SUCCESS);
    }
    let compared = match arguments.only {
        Some(Only::Summaries) => rebuild.summaries(arguments.dry_run).await?,
        None => {
            let keys = Keys::start(database_url, &settings.keys(), &clock).await?;
            rebuild.run(&keys, arguments.finish()).await?
        }
    };
    bar.finish();
    tell(arguments, &compared)
}

impl Arguments {
    fn finish(&self) -> Finish {
        match (self.dry_run, self.hold) {
            (true, _) => Finish::DryRun,
            (false, true) => Finish::Hold,
            (false, false) => Finish::Swap,
        }
    }
}

fn tell(arguments: &Arguments, compared: &Compared) -> Result<ExitCode> {
    differences::print(&compared.differences, "log")?;
    let (differs, events, seq) = (!compared.differences.is_empty(), compared.events, compared.seq);
    let found = if differs { "differences as listed" } else { "no differences" };
    let done = match (arguments.dry_run, arguments.hold, arguments.only) {
        (true, _, _) => "dry run, nothing was changed",
        (_, true, _) => "the rebuilt tables are kept: `usage-ledger rebuild --swap` or `--drop`",
        (_, _, Some(_)) if differs => "the sums are mended",
        (_, _, Some(_)) => "the sums are as they should be",
        (_, _, None) => "the rebuilt tables are live",
    };
    eprintln!(
        "{events} events read; {} tables compared at frame {seq}: {found}; {done}",
        compared.tables.len()
    );
    Ok(if differs && arguments.dry_run { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
