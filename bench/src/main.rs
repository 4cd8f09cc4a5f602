//! `make bench`: the ledger and, in the same run on the same machine, the baselines that it is held against.

mod baselines;
mod calls;
mod copy;
mod ingest;
mod load;
mod outcomes;
mod probe;
mod process;
mod projection;
mod report;
mod scale;
mod sign_ins;
mod strangers;
mod tracked;
mod vault;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::baselines::Baseline;
use crate::process::Machine;
use crate::report::Report;
use crate::tracked::Users;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    /// The cargo target directory with `release/usage-ledger` in it.
    #[arg(long, default_value = "target")]
    target: PathBuf,
    /// Only these groups of figures.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "vault,tracked,outcomes,strangers,sign-ins,ingest,projection"
    )]
    only: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves one baseline; the benchmark starts itself with this.
    Serve {
        baseline: Baseline,
        #[arg(long)]
        listen: String,
    },
    /// A million users in a long tail, and as many calls as are asked for.
    Scale {
        #[arg(long, default_value_t = 10_000_000)]
        rows: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Serve { baseline, listen }) => {
            baselines::serve(baseline, tokio::net::TcpListener::bind(listen).await?).await
        }
        Some(Command::Scale { rows }) => {
            let mut report = Report::default();
            let measured = scale::measure(&arguments.target, rows, &mut report).await;
            println!("{}", report.table());
            measured?;
            report.write(&arguments.target.join("bench-scale.json"))
        }
        None => measure(&arguments).await,
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted = |group: &str| arguments.only.iter().any(|only| only == group);
    let mut report = Report::default();
    if wanted("vault") {
        vault::measure(&mut report)?;
    }
    if ["tracked", "outcomes", "strangers", "sign-ins", "ingest"].into_iter().any(wanted) {
        let machine = Machine::start(&arguments.target, "calls").await?;
        let users = Users::create(&machine).await?;
        if wanted("tracked") {
            tracked::measure(&machine, &users, &mut report).await?;
        }
        if wanted("outcomes") {
            outcomes::measure(&machine, &users, &mut report).await?;
        }
        if wanted("strangers") {
            strangers::measure(&machine, &users, &mut report).await?;
        }
        if wanted("sign-ins") {
            sign_ins::measure(&machine, &users, &mut report).await?;
        }
        if wanted("ingest") {
            ingest::measure(&machine, &users, &mut report).await?;
        }
        machine.stop().await?;
    }
    if wanted("projection") {
        let machine = Machine::start(&arguments.target, "projection").await?;
        projection::measure(&machine, &mut report).await?;
        machine.stop().await?;
    }
    println!("{}", report.table());
    report.write(&arguments.target.join("bench.json"))
}
