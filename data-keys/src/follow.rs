//! Forgetting destroyed keys, for a process that follows nothing else of users.

use std::time::{Duration, Instant};

use ledger::UserId;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use crate::keys::Keys;

/// How often the listening connection is asked whether it is alive.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// One that does not answer for so long is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// A database that stays away is reported this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

impl Keys {
    /// Forgets a user's key when a change of the user is announced, and all when an announcement may have been missed,
    /// until `shutdown`. Takes one of the pool's connections for itself.
    pub async fn follow(&self, pool: &PgPool, shutdown: &CancellationToken) {
        let mut reported: Option<Instant> = None;
        loop {
            let result = tokio::select! {
                result = self.listen(pool) => result,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = result
                && reported.is_none_or(|at| at.elapsed() > REPORT_INTERVAL)
            {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot hear of destroyed keys; trying again"
                );
                reported = Some(Instant::now());
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// What was announced on [`store::identity::users::CHANNEL`] with this payload.
    pub fn heard(&self, payload: &str) {
        match payload.parse::<UserId>() {
            Ok(user) => self.forget(&[user]),
            Err(_) => self.forget_all(),
        }
    }

    /// Listens until the connection is lost, which it may be without a word.
    async fn listen(&self, pool: &PgPool) -> Result<(), store::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(store::identity::users::CHANNEL).await?;
        // Keys may have been destroyed unheard.
        self.forget_all();
        let mut ticks = tokio::time::interval(PING_INTERVAL);
        loop {
            tokio::select! {
                notification = listener.try_recv() => match notification? {
                    Some(notification) => self.heard(notification.payload()),
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    let ping = store::projection::checkpoint::ping_listener(&mut listener);
                    tokio::time::timeout(PING_TIMEOUT, ping).await.map_err(|_| silent())??;
                }
            }
        }
    }
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the listening connection is silent"))
}
