//! `usage-ledger keys import-legacy`: takes over provider tokens of another program.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use secrecy::ExposeSecret as _;
use vault::RootKey;

use crate::config::Settings;
use crate::import::{self, Connected, Projected, SinkConfig};
use crate::legacy::{Legacy, Taken};
use crate::shutdown;

/// Stores tokens that another program kept as plain AES-256-CBC under `ENCRYPTION_KEY`, sealed anew.
///
/// The file (plain, gzip or zstd) has one JSON object a line, hexadecimal digits in lower case:
///
/// `{"user": "…", "token_type": "github", "token_name": "…", "encrypted": "…", "iv": "…"}`
///
/// user is our id or the host's; `token_type` is github, openai, anthropic or gemini; `token_name` may be left out. For
/// the last two there may be `"encrypted_token": {"encrypted": "…", "iv": "…"}`. A line has 16 KiB at most.
///
/// That form proves nothing about its content, so a row that opens to no known form of its type is refused unless
/// --accept-unknown is given; look at such rows first.
///
/// Lines that give no token are told on stderr with their numbers and the reason, never with what they hold, and passed
/// over. A file can be taken over again, whole or after an interruption: nothing is stored twice. A user's token that
/// is there already stays: the row is told and skipped. The worker must run, so that such tokens are known.
///
/// Exit code 0 when every line's token is stored or skipped, 1 otherwise.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The file, or - for stdin
    file: PathBuf,
    /// Make an account for a user who has none
    #[arg(long)]
    provision: bool,
    /// Take also what opens to no known form of its type
    #[arg(long)]
    accept_unknown: bool,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let pass = import::Input::open(&arguments.file)?.pass();
    let stop = shutdown::on_signals().context("cannot listen for signals")?;
    let clock = settings.clock()?;
    let connected = Connected::open(&SinkConfig::of(settings, clock.clone())?).await?;
    match connected.catch_up().await? {
        Projected::Yes => {}
        Projected::NoWorker => bail!("no worker runs, so it is not known which tokens users have: start one"),
        Projected::Standstill(reason) => {
            let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            bail!("the worker lags{reason}, so it is not known which tokens users have: wait for it");
        }
    }
    // Held against the database just now, under its name.
    let root =
        RootKey::parse(settings.keys().key.expose_secret()).context("ENCRYPTION_KEY cannot be used")?;
    let legacy = Legacy::new(&connected, clock, arguments.provision, arguments.accept_unknown);
    let taken = legacy.run(pass, root, &stop).await;
    let taken = taken.context("it ended early; run it again to go on: nothing is stored twice")?;
    if let Some(seq) = taken.seq {
        tokio::select! {
            projected = connected.wait_projected(seq) => tell(&projected?),
            () = stop.cancelled() => {}
        }
    }
    connected.close().await;
    finish(&taken)
}

fn tell(projected: &Projected) {
    match projected {
        Projected::Yes => eprintln!("the tokens can be used"),
        Projected::NoWorker => {
            eprintln!("the tokens are in the log; no worker runs, so they can be used when one does");
        }
        Projected::Standstill(reason) => {
            let reason = reason.as_deref().unwrap_or("it does not say why");
            eprintln!("the tokens are in the log, but the worker does not get on: {reason}");
        }
    }
}

fn finish(taken: &Taken) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    for (what, count) in [
        ("stored", taken.stored),
        ("stored before", taken.known),
        ("skipped", taken.skipped),
        ("refused", taken.refused),
    ] {
        writeln!(out, "{what:<18}{count:>10}")?;
    }
    out.flush()?;
    if taken.is_interrupted {
        eprintln!("interrupted; run it again to go on: nothing is stored twice");
        return Ok(ExitCode::FAILURE);
    }
    if taken.refused > 0 {
        eprintln!("{} lines gave no token", taken.refused);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
