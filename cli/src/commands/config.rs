//! `usage-ledger config`: every variable with its value and where it comes from.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;

use crate::{
    config::{Settings, VARIABLES, masked},
    output::printable,
};

pub(crate) fn run(settings: &Settings) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    for variable in VARIABLES {
        let (value, source) = match settings.get_with_source(variable.name) {
            Some((value, source)) => (masked(value, variable.shown), source.to_string()),
            None => (String::new(), "not set".to_owned()),
        };
        let value = printable(&value);
        writeln!(out, "{:<24} {:<40} {:<18} {}", variable.name, value, source, variable.meaning)?;
    }
    // What an api or a worker would refuse to start with is an error here too.
    let clock = settings.clock()?;
    settings.close_grace()?;
    settings.worker(clock.clone())?;
    settings.api(clock)?;
    settings.keys().ring()?;
    Ok(ExitCode::SUCCESS)
}
