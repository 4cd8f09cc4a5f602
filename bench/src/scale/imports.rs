//! `usage-ledger import` of a web server's log, with the worker beside it, until all of it is projected: of few users,
//! and of a long tail of new ones with their accounts and keys.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use ledger::Clock;

use crate::probe::Probe;
use crate::process::Machine;
use crate::report::{Report, Target};

use super::longtail::Random;
use super::{BOUND, FEW_USERS, USERS};

/// Lines of each file.
const LINES: usize = 500_000;

/// Measures both imports.
pub(super) async fn measure(machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    let few = import(machine, "few", |_, n| n % FEW_USERS).await?;
    report.add("import_1000_per_s", few);
    // Beyond the addresses of the few.
    let many = import(machine, "many", |random, _| FEW_USERS + random.user(USERS)).await?;
    report.add("import_longtail_per_s", many);
    report.hold("import_longtail_vs_1000", many / few, Target::AtLeast(0.3));
    Ok(())
}

async fn import(
    machine: &Machine,
    name: &str,
    user: impl Fn(&mut Random, usize) -> usize,
) -> anyhow::Result<f64> {
    let file = machine.directory.join(format!("{name}.log"));
    write(&file, Clock::system().now() - TimeDelta::days(58), user)?;
    let worker = machine.run(&["worker"])?;
    let mut probe = Probe::connect(machine).await?;
    probe.wait_until_projected(BOUND).await?;
    let path = file.to_str().unwrap_or_default();
    let start = Instant::now();
    machine.run(&["import", path, "--format", "combined"])?.finish(BOUND).await?;
    probe.wait_until_projected(BOUND).await?;
    let elapsed = start.elapsed();
    worker.stop().await?;
    std::fs::remove_file(file)?;
    #[expect(clippy::cast_precision_loss, reason = "a constant")]
    let lines = LINES as f64;
    Ok(lines / elapsed.as_secs_f64())
}

fn write(
    file: &Path,
    start: DateTime<Utc>,
    user: impl Fn(&mut Random, usize) -> usize,
) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    let (mut random, mut line) = (Random::default(), String::new());
    let every = TimeDelta::days(58) / i32::try_from(LINES)?;
    for n in 0..LINES {
        // From 10.0.0.0 on.
        let address = Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(user(&mut random, n))?);
        let at = (start + every * i32::try_from(n)?).format("%d/%b/%Y:%H:%M:%S +0000");
        line.clear();
        writeln!(
            line,
            "{address} - - [{at}] \"GET /api/items/{:05} HTTP/1.1\" 200 512 \"-\" \"{}\"",
            n % 500,
            crate::calls::AGENT
        )?;
        out.write_all(line.as_bytes())?;
    }
    Ok(out.flush()?)
}
