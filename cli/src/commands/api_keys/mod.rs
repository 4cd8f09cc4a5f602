//! `usage-ledger api-keys`: keys by which programs sign in. (`keys` are the root keys of what is sealed.)

mod create;
mod list;
mod revoke;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use api::accounts::{By, Registry};
use api::facts::{Positions, Watermark, Writer};
use clap::{Args, Subcommand};
use data_keys::Keys;
use events::{Actor, ActorKind};
use ledger::{Clock, IdSource, UserId, UserRef};
use nats::{Publisher, PublisherConfig};
use sqlx::{PgConnection, PgPool};
use store::identity::users::{self, AccountStatus};

use crate::config::Settings;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists a user's keys: id, name, role, scopes, budget, shown part, state, last use
    List(list::Arguments),
    /// Makes a key and prints it, once
    Create(create::Arguments),
    /// Ends a key, for ever
    Revoke(revoke::Arguments),
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    match &arguments.command {
        Command::List(arguments) => list::run(arguments, settings).await,
        Command::Create(arguments) => create::run(arguments, settings).await,
        Command::Revoke(arguments) => revoke::run(arguments, settings).await,
    }
}

/// The database and the log, for commands that change keys.
struct Connected {
    clock: Clock,
    ids: IdSource,
    pool: PgPool,
    publisher: Publisher,
    registry: Registry,
}

impl Connected {
    async fn open(settings: &Settings) -> Result<Self> {
        let clock = settings.clock()?;
        let ids = IdSource::new(clock.clone());
        let database_url = settings.database_url()?;
        store::check(database_url).await?;
        let pool = store::pool(database_url, 2)?;
        let log = nats::connect(&settings.nats("usage-ledger api-keys")?).await?;
        let stream = log.state().await?;
        let producers = ids.clone();
        let publisher =
            Publisher::start(&log, PublisherConfig::default(), move || producers.random_id()).await?;
        let positions = Positions::of(settings.log()?.connection.stream.as_str(), stream.created);
        let watermark = Watermark::default();
        let writer = Writer::new(publisher.clone(), watermark, positions, clock.clone(), ids.clone());
        let registry = Registry::new(pool.clone(), writer, settings.environment()?);
        Ok(Self { clock, ids, pool, publisher, registry })
    }

    async fn close(self) {
        self.publisher.close().await;
        self.pool.close().await;
    }
}

/// The operator, as the log names one.
fn operator() -> By {
    By { actor: Actor::new(ActorKind::Operator, "usage-ledger api-keys"), personal: None }
}

/// The user of this name, who must have an account.
async fn user(
    settings: &Settings,
    clock: &Clock,
    connection: &mut PgConnection,
    user: &UserRef,
) -> Result<UserId> {
    let account = match user {
        UserRef::Id(id) => users::by_id(connection, *id).await?,
        UserRef::External(id) => {
            let keys = Keys::start(settings.database_url()?, &settings.keys(), clock).await?;
            users::by_external_id(connection, &keys.hash_external_id(id.clone()).await?).await?
        }
    };
    let account = account.context("there is no such user; `usage-ledger token --user …` makes one")?;
    anyhow::ensure!(account.status != AccountStatus::Erased, "this user was erased, for ever");
    Ok(account.user_id)
}
