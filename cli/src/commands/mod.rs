//! One file per command.

mod admin;
mod api;
mod api_keys;
mod config;
mod connected;
mod dead_letters;
mod dev;
mod import;
mod keys;
mod log;
mod migrate;
mod processes;
mod rebuild;
mod rollover;
mod serve;
mod token;
mod user;
mod verify;
mod worker;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    config::Settings,
    logging::{self, LogFormat},
};

/// An event-sourced usage ledger: every call a durable fact, counted exactly once, held to its limit.
#[derive(Debug, Parser)]
#[command(name = "usage-ledger", version, propagate_version = true)]
pub(crate) struct Cli {
    /// How log lines are written (`LOG_FORMAT`).
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole system on this machine, with a PostgreSQL and a nats-server of its own.
    Dev(dev::Arguments),
    /// For one production machine: api, worker and a nats-server, against the PostgreSQL of `DATABASE_URL`.
    Serve(serve::Arguments),
    /// The HTTP service alone.
    Api(api::Arguments),
    /// The projector alone.
    Worker(worker::Arguments),
    /// Brings the tables of `DATABASE_URL` up to date.
    Migrate,
    /// Brings the calls of a file into the ledger.
    Import(import::Arguments),
    /// Fills the projections anew from the log.
    Rebuild(rebuild::Arguments),
    // Without words of its own here: its arguments say what is proved.
    Verify(verify::Arguments),
    /// Closes the months that are over.
    Rollover(rollover::Arguments),
    /// Events that could not be applied.
    DeadLetters(dead_letters::Arguments),
    /// Whether the log is whole, and the way on when it is not.
    Log(log::Arguments),
    /// Mints a token and creates its user where there is none.
    Token(token::Arguments),
    /// API keys, by which programs sign in.
    ApiKeys(api_keys::Arguments),
    /// People, and the links by which they get in.
    User(user::Arguments),
    /// The administrator's way in.
    Admin(admin::Arguments),
    /// The root keys that protect users' secrets.
    Keys(keys::Arguments),
    /// Lists every variable with its value and where it comes from.
    Config,
}

/// Runs the command; an error is exit code 1, wrong usage 2 (by clap).
pub(crate) async fn run(cli: Cli) -> Result<ExitCode> {
    let settings = match cli.command {
        Command::Dev(_) | Command::Serve(_) => Settings::load_own()?,
        _ => Settings::load()?,
    };
    logging::start(cli.log_format.map_or_else(|| settings.log_format(), Ok)?);
    match cli.command {
        Command::Dev(arguments) => dev::run(arguments, settings).await,
        Command::Serve(arguments) => serve::run(arguments, settings).await,
        Command::Api(arguments) => api::run(&arguments, settings).await,
        Command::Worker(arguments) => worker::run(&arguments, settings).await,
        Command::Migrate => migrate::run(&settings).await,
        Command::Import(arguments) => import::run(arguments, settings).await,
        Command::Rebuild(arguments) => rebuild::run(&arguments, &settings).await,
        Command::Verify(arguments) => verify::run(&arguments, &settings).await,
        Command::Rollover(arguments) => rollover::run(&arguments, &settings).await,
        Command::DeadLetters(arguments) => dead_letters::run(&arguments, &settings).await,
        Command::Log(arguments) => log::run(&arguments, &settings).await,
        Command::Token(arguments) => token::run(&arguments, &settings).await,
        Command::ApiKeys(arguments) => api_keys::run(&arguments, &settings).await,
        Command::User(arguments) => user::run(&arguments, &settings).await,
        Command::Admin(arguments) => admin::run(&arguments, &settings).await,
        Command::Keys(arguments) => keys::run(&arguments, &settings).await,
        Command::Config => config::run(&settings),
    }
}
