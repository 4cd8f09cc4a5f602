//! The database and the log, for commands that change what users sign in with.

use anyhow::{Context as _, Result, ensure};
use api::accounts::{AccountLog, By, People, Registry};
use api::facts::{Positions, Watermark, Writer};
use api::http::site::Site;
use data_keys::Keys;
use events::{Actor, ActorKind};
use ledger::{Clock, IdSource, UserId, UserRef};
use nats::{Publisher, PublisherConfig};
use sqlx::{PgConnection, PgPool};
use store::identity::users::{self, AccountStatus};

use crate::config::Settings;

/// The database and the log.
pub(super) struct Connected {
    pub(super) clock: Clock,
    pub(super) ids: IdSource,
    pub(super) pool: PgPool,
    publisher: Publisher,
    writer: Writer,
}

impl Connected {
    /// Opens both. `client` names the command in the log's list of clients.
    pub(super) async fn open(settings: &Settings, client: &str) -> Result<Self> {
        let clock = settings.clock()?;
        let ids = IdSource::new(clock.clone());
        let database_url = settings.database_url()?;
        store::check(database_url).await?;
        let pool = store::pool(database_url, 2)?;
        let log = nats::connect(&settings.nats(client)?).await?;
        let stream = log.state().await?;
        let producers = ids.clone();
        let publisher =
            Publisher::start(&log, PublisherConfig::default(), move || producers.random_id()).await?;
        let positions = Positions::of(settings.log()?.connection.stream.as_str(), stream.created);
        let watermark = Watermark::default();
        let writer = Writer::new(publisher.clone(), watermark, positions, clock.clone(), ids.clone());
        Ok(Self { clock, ids, pool, publisher, writer })
    }

    /// API keys.
    pub(super) fn registry(&self, settings: &Settings) -> Result<Registry> {
        Ok(Registry::new(self.pool.clone(), self.writer.clone(), settings.environment()?))
    }

    /// People.
    pub(super) fn people(&self, settings: &Settings) -> Result<People> {
        let log = AccountLog::new(self.writer.clone(), None);
        Ok(People::new(self.pool.clone(), log, Site::new(settings.public_url()?), self.ids.clone()))
    }

    /// Ends both, with all that was written.
    pub(super) async fn close(self) {
        self.publisher.close().await;
        self.pool.close().await;
    }
}

/// The operator at this command, as the log names one.
pub(super) fn operator(command: &'static str) -> By {
    By { actor: Actor::new(ActorKind::Operator, command), personal: None }
}

/// The user of this name, who must have an account.
pub(super) async fn user(
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
    ensure!(account.status != AccountStatus::Erased, "this user was erased, for ever");
    Ok(account.user_id)
}
