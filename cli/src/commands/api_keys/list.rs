//! `usage-ledger api-keys list`: a user's keys.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use ledger::UserRef;
use store::Schema;
use store::identity::api_keys::{self, ApiKey};

use super::super::connected::user;
use crate::config::Settings;
use crate::output::printable;

/// Keys that are read at a time.
const PAGE: u32 = 500;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Our UUID of the user, or the host's own id
    #[arg(long)]
    user: UserRef,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let clock = settings.clock()?;
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    let owner = user(settings, &clock, &mut conn, &arguments.user).await?;
    let (mut before, mut count) = (None, 0);
    let mut out = io::stdout().lock();
    loop {
        let keys = api_keys::list(&mut conn, owner, before, clock.now(), PAGE).await?;
        let Some(last) = keys.last() else { break };
        before = Some(last.id);
        count += keys.len();
        for key in &keys {
            writeln!(out, "{}", line(key, clock.now()))?;
        }
    }
    out.flush()?;
    eprintln!("{count} keys");
    Ok(ExitCode::SUCCESS)
}

fn line(key: &ApiKey, now: DateTime<Utc>) -> String {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let state = match (key.revoked_at, key.terms.expires_at) {
        (Some(at), _) => format!("revoked {}", time(at)),
        (None, Some(end)) if end <= now => format!("ended {}", time(end)),
        (None, Some(end)) => format!("until {}", time(end)),
        (None, None) => "live".to_owned(),
    };
    let budget = key.terms.budget.map_or_else(|| "-".to_owned(), |units| units.to_string());
    let used = key.last_used_at.map_or_else(|| "never used".to_owned(), time);
    let scopes: Vec<&str> = key.terms.scopes.iter().map(credentials::Scope::as_str).collect();
    format!(
        "{}\t{}\t{}\t{}\t{budget}\t{}…{}\t{state}\t{used}",
        key.id,
        printable(&key.name),
        key.role.as_str(),
        scopes.join(","),
        key.prefix,
        key.last_four
    )
}
