//! `usage-ledger keys rotate`: wraps all data keys under the current root key.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use sqlx::Connection as _;

use crate::config::Settings;

pub(super) async fn run(settings: &Settings) -> Result<ExitCode> {
    let mut conn = store::connect(settings.database_url()?, store::Schema::Live).await?;
    let clock = settings.clock()?;
    let ring = data_keys::ring(&mut conn, &settings.keys(), clock.now()).await?;
    let known = data_keys::in_use(&mut conn).await?;
    let todo = known.iter().filter(|key| key.kid != *ring.current()).map(|key| key.data_keys).sum();
    let bar = if io::stderr().is_terminal() { ProgressBar::new(todo) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} data keys, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let (mut rewrapped, mut refused, mut after) = (0, 0_u64, None);
    match data_keys::rewrap_ledger_keys(&mut conn, &ring).await {
        Ok(keys) => rewrapped += keys,
        Err(error) => {
            refused += 1;
            let error = anyhow::Error::from(error);
            bar.suspend(|| eprintln!("a data key of the ledger's own: {error:#}"));
        }
    }
    bar.inc(rewrapped);
    loop {
        let page = data_keys::rewrap_page(&mut conn, &ring, after.as_ref()).await?;
        rewrapped += page.rewrapped;
        bar.inc(page.rewrapped);
        for key in page.refused {
            refused += 1;
            let error = anyhow::Error::from(key.error);
            bar.suspend(|| eprintln!("the data key {} of user {}: {error:#}", key.dek_id, key.user));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    conn.close().await.map_err(store::Error::from)?;
    println!("{rewrapped} data keys are wrapped under {} now", ring.current());
    if refused > 0 {
        eprintln!("{refused} data keys do not open and are as they were");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
