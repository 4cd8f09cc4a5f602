//! The projector's second session, which is opened when there is something to catch up with.

use store::Schema;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::batch::Pipeline;
use crate::error::chain;

/// Opens the session beside the projecting, and tries again after the next time that there was nothing to do.
pub(crate) struct Second {
    database_url: String,
    holder: Uuid,
    opening: JoinSet<Result<sqlx::PgConnection, store::Error>>,
    was_opened: bool,
}

impl Second {
    /// Of the process `holder`, which has the projector's lock.
    pub(crate) fn new(database_url: &str, holder: Uuid) -> Self {
        let database_url = database_url.to_owned();
        Self { database_url, holder, opening: JoinSet::new(), was_opened: false }
    }

    /// Gives the session to the pipeline once it is open; begins to open it at first.
    pub(crate) fn open(&mut self, pipeline: &mut Pipeline) {
        if !std::mem::replace(&mut self.was_opened, true) {
            let (url, holder) = (self.database_url.clone(), self.holder);
            self.opening
                .spawn(async move { store::connect::connect_second(&url, Schema::Live, holder).await });
        }
        match self.opening.try_join_next() {
            Some(Ok(Ok(conn))) => pipeline.add(conn),
            Some(Ok(Err(error))) => tracing::warn!(
                error = chain(&error),
                "no second session with the database; catching up with one"
            ),
            Some(Err(_)) | None => {}
        }
    }

    /// Closes it: there is nothing to catch up with.
    pub(crate) fn close(&mut self, pipeline: &mut Pipeline) {
        self.was_opened = false;
        self.opening = JoinSet::new();
        pipeline.narrow();
    }
}
