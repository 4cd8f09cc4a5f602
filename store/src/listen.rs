//! Listening for announcements over a connection that may be lost without a word.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgNotification};
use tokio::time::{Interval, MissedTickBehavior};

use crate::connect::{pool_of, within};
use crate::error::Error;

/// The listening connection is asked this often whether it is alive: one that is dead without a word stays silent for
/// ever, like one on which nothing happens.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that does not answer for so long is given up. What was announced meanwhile is unknown here for this
/// time and `PING_INTERVAL` at most.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that the database has for a new connection, and to note what is listened for.
const LISTEN_WITHIN: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// A database that stays away is reported this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Announcements on some channels, over a connection like the pool's but beside it, and another one when that is lost.
/// A silent connection, which says goodbye for ever, keeps no place of the pool.
#[derive(Debug)]
pub struct Announcements {
    pool: PgPool,
    channels: &'static [&'static str],
    /// The log's words for what cannot be done without a connection.
    complaint: &'static str,
    listening: Option<Listening>,
    /// Time at which a lost connection was last reported.
    reported: Option<Instant>,
}

#[derive(Debug)]
struct Listening {
    listener: PgListener,
    pings: Interval,
}

/// One thing that a listener gets to know.
#[derive(Debug)]
pub enum Heard {
    /// The connection is new: something may have been announced unheard.
    Connected,
    /// An announcement.
    Announced(PgNotification),
    /// The connection is alive; once after [`Heard::Connected`] at once, then every second.
    Alive,
}

impl Announcements {
    /// Announcements on these channels. `complaint` is logged when the connection is lost: "cannot …".
    pub fn on(channels: &'static [&'static str], pool: &PgPool, complaint: &'static str) -> Self {
        Self { pool: pool.clone(), channels, complaint, listening: None, reported: None }
    }

    /// Waits for the next thing to know. While the database is away it tries again and again.
    pub async fn next(&mut self) -> Heard {
        loop {
            let heard = match &mut self.listening {
                Some(listening) => listening.next().await,
                None => self.connect().await,
            };
            match heard {
                Ok(Some(heard)) => return heard,
                Ok(None) => self.reconnect().await,
                Err(error) => self.give_up(&error).await,
            }
        }
    }

    /// Gives the connection up, because of an error that the caller met, and waits a little; the next thing to know is
    /// a new connection.
    pub async fn give_up(&mut self, error: &Error) {
        if self.reported.is_none_or(|at| at.elapsed() > REPORT_INTERVAL) {
            tracing::warn!(error = chain(error), "{}; trying again", self.complaint);
            self.reported = Some(Instant::now());
        }
        self.reconnect().await;
    }

    /// Drops the connection, and waits before another one is made.
    async fn reconnect(&mut self) {
        self.listening = None;
        tokio::time::sleep(RETRY_INTERVAL).await;
    }

    async fn connect(&mut self) -> Result<Option<Heard>, Error> {
        let own = pool_of(self.pool.connect_options().as_ref().clone(), 1);
        let listener = within("listening", LISTEN_WITHIN, async {
            let mut listener = PgListener::connect_with(&own).await?;
            // It would connect again by itself, however long that takes.
            listener.eager_reconnect(false);
            listener.listen_all(self.channels.iter().copied()).await?;
            Ok::<_, Error>(listener)
        })
        .await?;
        let mut pings = tokio::time::interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.listening = Some(Listening { listener, pings });
        Ok(Some(Heard::Connected))
    }
}

impl Listening {
    /// The next thing to know; `None` when the connection was closed.
    async fn next(&mut self) -> Result<Option<Heard>, Error> {
        tokio::select! {
            announcement = self.listener.try_recv() => Ok(announcement?.map(Heard::Announced)),
            _ = self.pings.tick() => {
                within("the listening connection", PING_TIMEOUT, async {
                    Ok(sqlx::query("SELECT 1").execute(&mut self.listener).await?)
                })
                .await
                .map(|_| Some(Heard::Alive))
            }
        }
    }
}

/// An error with its causes as one text: formats of logs that know no errors show the first one only.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.extend([": ", &error.to_string()]);
        cause = error.source();
    }
    text
}
