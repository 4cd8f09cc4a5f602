//! `usage-ledger user list`: all users.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use store::Schema;
use store::identity::users::{self, User};

use crate::config::Settings;
use crate::output::printable;

/// Users that are read at a time.
const PAGE: u32 = 1_000;

#[derive(Debug, Args)]
pub(crate) struct Arguments {}

pub(super) async fn run(_: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let mut conn = store::connect(settings.database_url()?, Schema::Live).await?;
    let (mut after, mut count) = (None, 0);
    let mut out = io::stdout().lock();
    loop {
        let page = users::page(&mut conn, after, PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.user_id);
        count += page.len();
        for (user, signs_in_as) in &page {
            writeln!(out, "{}", line(user, signs_in_as.as_deref()))?;
        }
    }
    out.flush()?;
    eprintln!("{count} users");
    Ok(ExitCode::SUCCESS)
}

fn line(user: &User, signs_in_as: Option<&str>) -> String {
    let text = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), printable);
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}",
        user.user_id,
        text(user.external_id.as_deref()),
        text(signs_in_as),
        text(user.email.as_deref()),
        text(user.name.as_deref()),
        user.status.as_str(),
        if user.used_by_admin { "admin" } else { "user" }
    )
}
