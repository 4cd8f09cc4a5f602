//! Forgetting destroyed data keys, for a process that follows nothing else of users.

use ledger::UserId;
use sqlx::PgPool;
use store::identity::users;
use store::listen::{Announcements, Heard};
use tokio_util::sync::CancellationToken;

use crate::keys::Keys;

impl Keys {
    /// Forgets a user's data key when a change of the user is announced, and all when an announcement may have been
    /// missed, until `shutdown`. Takes one of the pool's connections for itself.
    pub async fn follow(&self, pool: &PgPool, shutdown: &CancellationToken) {
        let mut announcements = Announcements::on(&[users::CHANNEL], pool, "cannot hear of destroyed keys");
        loop {
            tokio::select! {
                heard = announcements.next() => match heard {
                    // Keys may have been destroyed unheard.
                    Heard::Connected => self.forget_all(),
                    Heard::Announced(change) => self.heard(change.payload()),
                    Heard::Alive => {}
                },
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Takes note of what was announced on [`users::CHANNEL`] with this payload.
    pub fn heard(&self, payload: &str) {
        match payload.parse::<UserId>() {
            Ok(user) => self.forget(&[user]),
            Err(_) => self.forget_all(),
        }
    }
}
