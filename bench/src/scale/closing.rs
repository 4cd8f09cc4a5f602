//! The end of two months with calls of everybody, beside calls that go on: how long nothing is projected.

use std::time::{Duration, Instant};

use anyhow::ensure;
use ledger::Clock;
use nats::Log;
use sqlx::{Connection as _, PgConnection};

use crate::calls;
use crate::probe::Probe;
use crate::process::Machine;
use crate::report::{Report, Target};

use super::{BOUND, FEW_USERS};

/// Time for which calls go on after the months are closed: what the closing left to do is done meanwhile.
const AFTER: Duration = Duration::from_secs(10);

/// Closes both months that are over, and measures the longest time that a call waits to be projected meanwhile.
pub(super) async fn measure(machine: &Machine, log: &Log, report: &mut Report) -> anyhow::Result<()> {
    let worker = machine.run(&["worker"])?;
    let mut probe = Probe::connect(machine).await?;
    probe.wait_until_projected(BOUND).await?;
    let mut connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    let closing = machine.run_with(&["rollover"], &[("CLOSE_GRACE", "1s")])?;
    let (began, clock) = (Instant::now(), Clock::system());
    let (mut longest, mut closed_at) = (Duration::ZERO, None);
    while closed_at.is_none_or(|at: Instant| at.elapsed() < AFTER) {
        calls::write(log, 100, None, |n| (calls::user(n % FEW_USERS), clock.now())).await?;
        let written = Instant::now();
        probe.wait_until_projected(BOUND).await?;
        longest = longest.max(written.elapsed());
        let closed: i64 =
            sqlx::query_scalar("SELECT count(*) FROM closed_periods").fetch_one(&mut connection).await?;
        if closed >= 2 {
            closed_at.get_or_insert_with(Instant::now);
        }
        ensure!(began.elapsed() < BOUND, "{closed} months are closed after {BOUND:?}");
    }
    closing.finish(BOUND).await?;
    report.hold("closing_pause_ms", longest.as_secs_f64() * 1_000.0, Target::AtMost(250.0));
    worker.stop().await
}
