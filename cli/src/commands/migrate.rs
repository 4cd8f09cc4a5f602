//! `usage-ledger migrate`: brings the tables up to date.

use std::process::ExitCode;

use anyhow::Result;

use crate::config::Settings;

pub(crate) async fn run(settings: &Settings) -> Result<ExitCode> {
    store::migrate(settings.database_url()?).await?;
    eprintln!("the tables are up to date");
    Ok(ExitCode::SUCCESS)
}
