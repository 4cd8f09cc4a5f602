//! `usage-ledger user show`: a user, how it signs in, and its sessions.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use ledger::UserRef;
use store::Schema;
use store::identity::people::{self, IdentityKind};
use store::identity::{passwords, second_factors, sessions, users};

use crate::commands::connected::user;
use crate::config::Settings;
use crate::output::printable;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Our UUID of the user, or the host's own id
    user: UserRef,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let clock = settings.clock()?;
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    let id = user(settings, &clock, &mut conn, &arguments.user).await?;
    let account = users::read(&mut conn, id).await?.context("the user is gone")?;
    let is_admin = users::by_id(&mut conn, id).await?.is_some_and(|account| account.is_admin);
    let mut out = io::stdout().lock();
    writeln!(out, "user      {id}")?;
    for (name, value) in
        [("host's id", account.external_id), ("contact", account.email), ("name", account.name)]
    {
        if let Some(value) = value {
            writeln!(out, "{name:<9} {}", printable(&value))?;
        }
    }
    writeln!(out, "state     {}{}", account.status.as_str(), if is_admin { ", admin" } else { "" })?;
    writeln!(out, "made      {}", time(account.created_at))?;
    for kind in [IdentityKind::Email, IdentityKind::GitHub] {
        if let Some(identity) = people::identity(&mut conn, id, kind).await? {
            let proof =
                if identity.verified_at.is_some() { "" } else { " (nobody has shown it to be the user's)" };
            writeln!(out, "signs in  {} {}{proof}", kind.as_str(), printable(&identity.label))?;
        }
    }
    let password = passwords::hash(&mut conn, id).await?;
    writeln!(out, "password  {}", if password.is_some() { "set" } else { "none" })?;
    for factor in second_factors::list(&mut conn, id).await? {
        let state = factor
            .confirmed_at
            .map_or_else(|| "not confirmed".to_owned(), |at| format!("since {}", time(at)));
        writeln!(out, "factor    {} {} {state}", factor.id, printable(&factor.name))?;
    }
    let now = clock.now();
    for session in sessions::list(&mut conn, id, now, DateTime::UNIX_EPOCH).await? {
        let agent = session.user_agent.as_deref().map_or_else(|| "-".to_owned(), printable);
        writeln!(
            out,
            "session   {} {} from {}, last used {}, until {}, {agent}",
            session.id,
            session.method.as_str(),
            session.address,
            time(session.last_used_at),
            time(session.ends_at),
        )?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
