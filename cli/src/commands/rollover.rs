//! `usage-ledger rollover`: closes the months that are over.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use chrono::TimeDelta;
use clap::Args;
use ledger::{IdSource, Month};
use ledger_worker::rollover::Closer;
use nats::{Publisher, PublisherConfig};
use sqlx::PgConnection;

use crate::config::Settings;

/// Time that the worker may take to close them.
const WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// Every past month that has calls and is not closed, `CLOSE_GRACE` after its end. The worker does the same by itself.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only this one, as YYYY-MM
    #[arg(long)]
    month: Option<Month>,
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let clock = settings.clock()?;
    let ids = IdSource::new(clock.clone());
    let close_grace = TimeDelta::from_std(settings.close_grace()?)?;
    let mut conn = store::connect(settings.database_url()?, store::Schema::Live).await?;
    let log = nats::connect(&settings.nats("usage-ledger rollover")?).await?;
    let producers = ids.clone();
    let publisher = Publisher::start(&log, PublisherConfig::default(), move || producers.random_id()).await?;
    let closer = Closer { publisher: publisher.clone(), ids, clock, close_grace };
    let (months, _) = closer.close_due(&mut conn, arguments.month).await?;
    publisher.close().await;
    if months.is_empty() {
        eprintln!("no month is to be closed");
        return Ok(ExitCode::SUCCESS);
    }
    wait_closed(&mut conn, &months).await?;
    for month in months {
        println!("{month}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait_closed(conn: &mut PgConnection, months: &[Month]) -> Result<()> {
    let start = Instant::now();
    while store::projection::periods::closed(conn, months).await?.len() < months.len() {
        if start.elapsed() > WITHIN {
            bail!("the months' ends are in the log, but no worker has closed them yet; is one running?");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
