//! `usage-ledger token`: mints a bearer token and makes its user an account.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use api::auth::{Mint, Role, mint};
use clap::Args;
use data_keys::Keys;
use ledger::{Clock, IdSource, UserId, UserRef, parse_duration};
use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, PgConnection};
use store::identity::admins;
use store::identity::users::{self, AccountStatus, NewUser};

use crate::config::Settings;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Our UUID of the user, or the host's own id.
    #[arg(long)]
    user: UserRef,
    /// What the token may do: user, service or admin.
    #[arg(long, default_value = "user")]
    role: Role,
    /// How long it is valid: 90s, 15m, 1h, 7d.
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Duration,
}

pub(crate) async fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode> {
    let clock = settings.clock()?;
    let token = mint_for(settings, &clock, &arguments.user, arguments.role, arguments.ttl).await?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

/// Creates the user where there is none, and mints a bearer token.
pub(crate) async fn mint_for(
    settings: &Settings,
    clock: &Clock,
    user: &UserRef,
    role: Role,
    ttl: Duration,
) -> Result<String> {
    let jwt = settings.jwt()?;
    let now = clock.now();
    let mut connection = store::connect(settings.database_url()?, store::Schema::Live).await?;
    let keys = Keys::start(settings.database_url()?, &settings.keys(), clock).await?;
    let user_id = ensure_account(&keys, clock, &mut connection, user).await?;
    if role == Role::Admin {
        // Before there is a token of it: from now on only an admin may bar the account.
        ensure!(admins::mark_admin(&mut connection, user_id).await?, "the account is gone");
    }
    connection.close().await.context("cannot close the connection to PostgreSQL")?;
    let token = mint(&jwt, &keys, &Mint { subject: user, role, scopes: None, ttl, now })?;
    Ok(token.expose_secret().to_owned())
}

/// The account, made where there is none.
async fn ensure_account(
    keys: &Keys,
    clock: &Clock,
    connection: &mut PgConnection,
    user: &UserRef,
) -> Result<UserId> {
    let (account, new) = match user {
        UserRef::Id(id) => (users::by_id(connection, *id).await?, NewUser::unnamed(id.get())),
        UserRef::External(id) => {
            let external = keys.hash_external_id(id.clone()).await?;
            let account = users::by_external_id(connection, &external).await?;
            (account, NewUser::named(IdSource::new(clock.clone()).random_id(), external))
        }
    };
    match account {
        None => {
            let made = users::provision(connection, vec![new], clock.now()).await?;
            made.first().copied().context("somebody else makes this user at this moment; try again")
        }
        Some(account) if account.status == AccountStatus::Erased => bail!("this user was erased, for ever"),
        Some(account) => Ok(account.user_id),
    }
}

fn ttl(text: &str) -> Result<Duration> {
    let ttl = parse_duration(text)?;
    ensure!(!ttl.is_zero(), "a token of no time is of no use");
    Ok(ttl)
}
