//! Progress of the projections, kept up to date by one LISTEN connection and a poll each second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use sqlx::PgPool;
use sqlx::postgres::PgNotification;
use store::identity::{credential_changes, users};
use store::listen::{Announcements, Heard};
use store::projection::checkpoint;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lag::Lag;

/// Time that the database has for a look.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Sequence of the last projected frame; 0 before the first, and before the first look at the database. It only rises,
/// unless an operator rewound the projections. Cheap to clone.
#[derive(Clone)]
pub struct Watermark(Arc<Parts>);

struct Parts {
    projected: watch::Sender<u64>,
    /// The sequence announced last.
    announced: AtomicU64,
    /// Number of times that the sequence was seen to fall.
    rewinds: watch::Sender<u64>,
    /// The log's last sequence, when it was asked last.
    log_seq: AtomicU64,
    lag: Mutex<Lag>,
}

impl Default for Watermark {
    fn default() -> Self {
        Self(Arc::new(Parts {
            projected: watch::channel(0).0,
            announced: AtomicU64::new(0),
            rewinds: watch::channel(0).0,
            log_seq: AtomicU64::new(0),
            lag: Mutex::default(),
        }))
    }
}

impl Watermark {
    /// The latest known sequence.
    pub fn current(&self) -> u64 {
        *self.0.projected.borrow()
    }

    /// The log's last sequence, when it was asked last: up to a second ago.
    pub fn log_seq(&self) -> u64 {
        self.0.log_seq.load(Ordering::Acquire)
    }

    /// Time for which the oldest frame that is not projected has been in the log, as far as this process knows: it
    /// looks once a second, and more often for its own.
    pub(crate) fn lag(&self) -> Duration {
        self.lag_now().of(Instant::now())
    }

    /// [`Watermark::lag`] in milliseconds, of somebody who knows that something is not projected: 1 at least.
    pub(crate) fn lag_ms(&self) -> u64 {
        u64::try_from(self.lag().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Bytes that this process has written and that are not projected yet.
    pub(crate) fn unprojected_bytes(&self) -> u64 {
        self.lag_now().unprojected_bytes()
    }

    fn lag_now(&self) -> MutexGuard<'_, Lag> {
        let mut lag = self.0.lag.lock();
        lag.reached(self.current());
        lag
    }

    /// The log was asked: its last sequence is `seq`.
    pub(crate) fn log_is_at(&self, seq: u64) {
        self.0.log_seq.store(seq, Ordering::Release);
        self.lag_now().seen(seq, 0, Instant::now());
    }

    /// This process has written `bytes` since it started, the last of them at `seq`.
    pub(crate) fn written(&self, seq: u64, bytes: u64) {
        self.lag_now().seen(seq, bytes, Instant::now());
    }

    /// Waits until the projections have reached `seq`; `false` when they have not after `timeout`.
    pub async fn wait_for(&self, seq: u64, timeout: Duration) -> bool {
        let mut marks = self.0.projected.subscribe();
        let reached = marks.wait_for(|mark| *mark >= seq);
        // The sender lives as long as `self`, so that only the time can end the wait early.
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }

    /// Follows the sequences: `changed().await` on the receiver, then `borrow_and_update()`.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.projected.subscribe()
    }

    /// Follows how often an operator has rewound the projections: `changed().await` on the receiver. Whatever was read
    /// before may be of a log that is no more.
    pub(crate) fn rewinds(&self) -> watch::Receiver<u64> {
        self.0.rewinds.subscribe()
    }

    /// Announced sequences come in order, but one may arrive after a look at the database that saw a later one.
    fn announced(&self, seq: u64) {
        if seq < self.0.announced.swap(seq, Ordering::AcqRel) {
            self.rewound(seq);
            return;
        }
        self.0.projected.send_if_modified(|current| {
            let newer = seq > *current;
            *current = seq.max(*current);
            newer
        });
    }

    /// Takes over what the database says; that is true, even when it is less.
    fn read(&self, seq: u64) {
        if seq < self.current() {
            self.rewound(seq);
            return;
        }
        self.0.projected.send_if_modified(|current| std::mem::replace(current, seq) != seq);
    }

    fn rewound(&self, seq: u64) {
        let earlier = self.0.projected.send_replace(seq);
        tracing::warn!(earlier, seq, "the projections were rewound");
        self.0.lag.lock().rewound(earlier, Instant::now());
        self.0.rewinds.send_modify(|rewinds| *rewinds += 1);
    }
}

/// News of accounts and credentials, for whoever remembers them or data keys.
pub(crate) enum AccountNews<'a> {
    /// Something changed; the notification's payload names whose account it was.
    Changed(&'a str),
    /// A credential changed; the notification's payload says which one, and how many changes there were.
    CredentialChanged(&'a str),
    /// News may have been missed: nothing that is remembered holds any more.
    Missed,
}

/// Keeps the watermark up to date until `shutdown`, and passes on the news of accounts. While the database is away all
/// stays as it is; at its return everything that may have been missed is looked up.
pub(crate) async fn follow(
    pool: PgPool,
    watermark: Watermark,
    tell: impl Fn(AccountNews<'_>) + Send + 'static,
    shutdown: CancellationToken,
) {
    let _ = shutdown.run_until_cancelled(listen(&pool, &watermark, &tell)).await;
}

/// Listens for ever.
async fn listen(pool: &PgPool, watermark: &Watermark, tell: &(impl Fn(AccountNews<'_>) + Send)) {
    let mut announcements = Announcements::on(&CHANNELS, pool, "cannot follow the projections");
    loop {
        match announcements.next().await {
            // Accounts may have changed unheard, and data keys been destroyed.
            Heard::Connected => tell(AccountNews::Missed),
            Heard::Announced(notification) => heard(&notification, watermark, tell),
            // A missed notification is made up for by this look.
            Heard::Alive => {
                if let Err(error) = read(pool, watermark).await {
                    announcements.give_up(&error).await;
                }
            }
        }
    }
}

/// Channels of what is remembered here.
const CHANNELS: [&str; 3] = [checkpoint::CHANNEL, users::CHANNEL, credential_changes::CHANNEL];

/// Looks the sequence up in the database.
async fn read(pool: &PgPool, watermark: &Watermark) -> Result<(), store::Error> {
    let looking = async {
        let mut conn = pool.acquire().await?;
        checkpoint::read(&mut conn, checkpoint::PARTITION).await
    };
    watermark.read(store::within("reading the checkpoint", READ_WITHIN, looking).await?.seq);
    Ok(())
}

fn heard(notification: &PgNotification, watermark: &Watermark, tell: &impl Fn(AccountNews<'_>)) {
    let payload = notification.payload();
    if notification.channel() == checkpoint::CHANNEL {
        // A payload of another form is made up for by the next poll.
        if let Ok(seq) = payload.parse() {
            watermark.announced(seq);
        }
        return;
    }
    tell(if notification.channel() == credential_changes::CHANNEL {
        AccountNews::CredentialChanged(payload)
    } else {
        AccountNews::Changed(payload)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewind_shows_in_the_database_and_in_what_is_announced() {
        let watermark = Watermark::default();
        let mut rewinds = watermark.rewinds();
        watermark.read(7);
        watermark.announced(5);
        assert_eq!(watermark.current(), 7);
        assert!(!rewinds.has_changed().unwrap());
        watermark.read(6);
        assert_eq!(watermark.current(), 6);
        assert!(rewinds.has_changed().unwrap());
        rewinds.mark_unchanged();
        watermark.read(6);
        watermark.read(8);
        assert!(!rewinds.has_changed().unwrap());
        // The first one announced may still have been late; a lower one after it was not.
        watermark.announced(4);
        assert!(rewinds.has_changed().unwrap());
        assert_eq!(watermark.current(), 4);
    }
}
