//! `usage-ledger verify`: do log, rows and sums agree?

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use ledger::UserRef;
use ledger_worker::rebuild::Rebuild;

use crate::config::Settings;
use crate::differences;
use crate::progress::Bar;

/// Counts the log anew, and compares it with the stored sums and with the calls themselves. It may run beside the
/// worker.
///
/// Exit code 0 when all agrees, 1 when something differs (the rows are listed) or it could not be found out.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only this user: our id or the host's
    #[arg(long)]
    user: Option<UserRef>,
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let database_url = settings.database_url()?;
    let user = match &arguments.user {
        None => None,
        Some(user) => {
            let mut conn = store::connect(database_url, store::Schema::Live).await?;
            let found = match user {
                UserRef::Id(id) => Some(*id),
                UserRef::External(external) => store::users::named(&mut conn, external).await?,
            };
            Some(found.context("there is no such user")?)
        }
    };
    let log = nats::connect(&settings.nats("usage-ledger verify")?).await?;
    let bar = Bar::new();
    let progress = |step| bar.show(step);
    let rebuild = Rebuild { database_url, log: &log, progress: &progress };
    let outcome = ledger_worker::verify::verify(&rebuild, user).await?;
    bar.finish();
    differences::print(&outcome.differences, "log")?;
    let (events, seq, tables) = (outcome.events, outcome.seq, outcome.tables.len());
    if outcome.differences.is_empty() {
        println!("log, calls and sums agree: {events} events up to frame {seq}, {tables} comparisons");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "{events} events up to frame {seq} read: what is stored differs as listed; `usage-ledger rebuild` mends it"
    );
    Ok(ExitCode::FAILURE)
}
