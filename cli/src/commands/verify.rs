//! `usage-ledger verify`: whether log and tables agree, and whether what is sealed for a user opens.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use data_keys::Keys;
use ledger::{ExternalId, UserId, UserRef};
use ledger_worker::rebuild::{Compared, Rebuild, Room};
use ledger_worker::verify::{self, SealedReport};
use store::Schema;
use store::identity::{erasure, wrapped_keys};

use crate::config::Settings;
use crate::differences;
use crate::output::{chain, printable};
use crate::progress::Bar;

/// Counts the log anew, and compares it with the stored sums and with the calls themselves. It may run beside the
/// worker.
///
/// With --user it also opens everything that the log holds sealed for the user, and the stored tokens: all of it must
/// open. That needs `ENCRYPTION_KEY`. Of a user who was erased nothing may open: no data key may be left, and no row
/// with an address, a user agent or a token. Without a data key that needs no `ENCRYPTION_KEY`.
///
/// Exit code 0 when all agrees, 1 when something differs (the rows are listed) or it could not be found out.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only this user: our id or the host's. One who was erased is known by our id, and by the host's only while
    /// `ENCRYPTION_KEY` is set
    #[arg(long)]
    user: Option<UserRef>,
    /// Directory for what does not fit into memory, some 100 bytes an event while it runs [default: the system's own
    /// for temporary files]
    #[arg(long, value_name = "DIRECTORY")]
    temp_dir: Option<PathBuf>,
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let database_url = settings.database_url()?;
    let user = match &arguments.user {
        None => None,
        Some(user) => {
            let user = find(user, settings).await?;
            Some((user, keys_for(user, settings).await?))
        }
    };
    let log = nats::connect(&settings.nats("usage-ledger verify")?).await?;
    let bar = Bar::new();
    let progress = |step| bar.show(step);
    let room = Room { dir: arguments.temp_dir.as_deref(), ..Room::default() };
    let rebuild = Rebuild { database_url, log: &log, progress: &progress, room };
    let compared = verify::verify(&rebuild, user.as_ref().map(|(user, _)| *user)).await?;
    let opened = match &user {
        None => None,
        Some((user, keys)) => Some((*user, verify::open_all(&rebuild, *user, keys.as_ref()).await?)),
    };
    bar.finish();
    let agrees = tell(&compared)?;
    let is_proven = opened.is_none_or(|(user, report)| tell_opened(user, report));
    Ok(if agrees && is_proven { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn find(user: &UserRef, settings: &Settings) -> Result<UserId> {
    let external = match user {
        UserRef::Id(id) => return Ok(*id),
        UserRef::External(external) => external,
    };
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    if let Some(id) = store::identity::users::named(&mut conn, external).await? {
        return Ok(id);
    }
    if settings.get("ENCRYPTION_KEY").is_none() {
        anyhow::bail!(
            "there is no such user; set ENCRYPTION_KEY to look among those who were erased, or name one by our id"
        );
    }
    erased(external, settings).await?.context("there is no such user, nor was one of this id erased")
}

/// The host's id of an erased user is gone, but for a keyed hash.
async fn erased(external: &ExternalId, settings: &Settings) -> Result<Option<UserId>> {
    let keys = start_keys(settings).await?;
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    let hashed = keys.hash_external_id(external.clone()).await?;
    Ok(store::identity::users::by_external_id(&mut conn, &hashed).await?.map(|account| account.user_id))
}

/// The data keys that open the user's sealed values. Of an erased user there is nothing to open with, and a data key
/// that should not be there counts against the erasure whether it opens or not.
async fn keys_for(user: UserId, settings: &Settings) -> Result<Option<Keys>> {
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    if erasure::state(&mut conn, user).await?.erased_at.is_none() {
        return start_keys(settings).await.map(Some);
    }
    if wrapped_keys::of_users(&mut conn, &[user]).await?.is_empty() {
        return Ok(None);
    }
    Ok(start_keys(settings).await.ok())
}

async fn start_keys(settings: &Settings) -> Result<Keys> {
    Ok(Keys::start(settings.database_url()?, &settings.keys(), &settings.clock()?).await?)
}

fn tell(compared: &Compared) -> Result<bool> {
    differences::print(&compared.differences, "log")?;
    let (events, seq, tables) = (compared.events, compared.seq, compared.tables.len());
    if compared.differences.is_empty() {
        println!("log, calls and sums agree: {events} events up to frame {seq}, {tables} comparisons");
        return Ok(true);
    }
    eprintln!(
        "{events} events up to frame {seq} read: what is stored differs as listed; `usage-ledger rebuild` mends it"
    );
    Ok(false)
}

fn tell_opened(user: UserId, report: SealedReport) -> bool {
    let (sealed, open) =
        (report.tokens.sealed + report.personal.sealed, report.tokens.open + report.personal.open);
    let data_keys = report.data_keys;
    match report.erased_at {
        Some(erased_at) => println!(
            "erased {}: {sealed} sealed values in the log, {open} open, {data_keys} data keys, {} rows with personal \
             fields",
            erased_at.format("%Y-%m-%dT%H:%M:%SZ"),
            report.personal_rows,
        ),
        None => println!(
            "{sealed} sealed values in the log, {open} open, {data_keys} data keys; {} stored tokens, {} open",
            report.stored_tokens.sealed, report.stored_tokens.open,
        ),
    }
    let is_proven = report.faults.is_empty();
    for fault in report.faults {
        eprintln!("user {user}: {}", printable(&chain(&fault.into())));
    }
    is_proven
}
