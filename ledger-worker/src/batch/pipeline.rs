//! Two batches in flight: while one is applied the next one's rows are written, by a second backend of the database.
//!
//! Each is one transaction on a connection of its own, and they commit in the log's order: the [`Applier`] is the
//! baton. Whoever has it has the checkpoint's place, and hands it on when its transaction is committed. A batch that
//! cannot be written ahead waits for the baton and is then applied as if it were alone; if the one before it fails, it
//! is undone.

use std::collections::VecDeque;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use store::projection::checkpoint::Checkpoint;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::applier::Applier;
use super::apply::{Applied, ApplyError};
use super::ready::Batch;
use super::stage::{Marks, Outlook, have_partitions, may_be_ahead, stage};

/// The longest that a batch which was written ahead waits for its turn, holding locks. The one before may be waiting
/// for somebody who waits for them, which the database cannot see; it is undone then, and applied in its turn.
const STAGED_FOR: Duration = Duration::from_secs(1);
/// The longest that one is waited for which is to be undone.
const UNDO_WITHIN: Duration = Duration::from_secs(5);

/// Applies batches in order, two at a time while there is a second connection.
#[derive(Debug)]
pub struct Pipeline {
    main: Option<PgConnection>,
    second: Option<PgConnection>,
    /// Away while a batch has it.
    applier: Option<Applier>,
    /// As the applier left it.
    outlook: Outlook,
    staged_for: Duration,
    /// The oldest first; it has the applier.
    flights: VecDeque<Flight>,
}

/// A batch that was applied.
#[derive(Debug)]
pub struct Landed {
    /// The batch.
    pub batch: Box<Batch>,
    /// What came of it.
    pub applied: Applied,
    /// The checkpoint after it.
    pub checkpoint: Checkpoint,
    /// Time that it took from its turn on.
    pub busy: Duration,
}

#[derive(Debug)]
struct Flight {
    /// Its one task; dropping it closes the connection, which undoes what is not committed.
    task: JoinSet<Flown>,
    turn: mpsc::Sender<Applier>,
    /// None while there was no second connection.
    marks: Option<Marks>,
    is_on_main: bool,
}

/// End of a flight.
#[derive(Debug)]
pub struct Flown {
    /// None if it is of no use any more.
    conn: Option<PgConnection>,
    batch: Box<Batch>,
    /// None if its turn never came.
    end: Option<(Applier, Result<Applied, ApplyError>)>,
    busy: Duration,
}

impl Pipeline {
    /// Applies on `main`, one batch at a time for now.
    pub fn new(main: PgConnection, applier: Applier) -> Self {
        let outlook = applier.outlook();
        Self {
            main: Some(main),
            second: None,
            applier: Some(applier),
            outlook,
            staged_for: STAGED_FOR,
            flights: VecDeque::new(),
        }
    }

    /// Has what was written ahead wait so long for its turn, and not a second.
    #[must_use]
    pub fn staged_for(self, staged_for: Duration) -> Self {
        Self { staged_for, ..self }
    }

    /// From now on two at a time, with a connection that sees the same projection.
    pub fn add(&mut self, second: PgConnection) {
        self.second = Some(second);
    }

    /// Closes the second connection, if nothing is in flight.
    pub fn narrow(&mut self) {
        if self.flights.is_empty() {
            self.second = None;
        }
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// The first connection, if nothing is in flight on it.
    pub fn main(&mut self) -> Option<&mut PgConnection> {
        self.main.as_mut()
    }

    /// Gives the first connection back, if nothing is in flight on it.
    pub fn into_main(self) -> Option<PgConnection> {
        self.main
    }

    /// Whether a batch may be started while another is in flight, if it [fits](Self::fits).
    pub fn takes_another(&self) -> bool {
        self.flights.len() == 1 && (self.main.is_some() || self.second.is_some())
    }

    /// Whether the batch can be written while the one in flight is applied: the two have no id in common, and nothing
    /// in it depends on what the other changes.
    pub fn fits(&self, batch: &Batch) -> bool {
        let before = self.flights.front().and_then(|flight| flight.marks.as_ref());
        self.takes_another()
            && may_be_ahead(batch)
            && before.is_some_and(|before| Marks::of(batch).fit_behind(before))
    }

    /// Starts on the next batch in the log's order. The pipeline is idle, or the batch [fits](Self::fits).
    pub fn start(&mut self, batch: Box<Batch>) {
        let (is_on_main, is_alone) = (self.main.is_some(), self.second.is_none());
        let marks = (!self.is_idle() || !is_alone).then(|| Marks::of(&batch));
        let conn = self.main.take().or_else(|| self.second.take()).expect("a connection is free");
        let (turn, mut my_turn) = mpsc::channel(1);
        let mut flight = Flight { task: JoinSet::new(), turn, marks, is_on_main };
        if let Some(applier) = self.applier.take() {
            self.outlook = applier.outlook();
            flight.pass(applier);
            flight.task.spawn(async move { fly(conn, batch, None, &mut my_turn).await });
        } else {
            let ahead = Some((self.outlook.clone(), self.staged_for));
            flight.task.spawn(async move { fly(conn, batch, ahead, &mut my_turn).await });
        }
        self.flights.push_back(flight);
    }

    /// Waits for the oldest batch in flight; for ever, if there is none. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Flown {
        let Some(flight) = self.flights.front_mut() else { return std::future::pending().await };
        flight.end().await
    }

    /// Takes what [`Self::next`] has waited for, and gives the batch behind it its turn. If it failed that one is
    /// undone, and nothing is in flight any more. Not to be dropped before its end.
    ///
    /// # Errors
    /// As [`Applier::apply`]. The pipeline is of no use then but for its connection.
    pub async fn settle(&mut self, flown: Flown) -> Result<Landed, ApplyError> {
        let Flown { conn, batch, end, busy } = flown;
        if let Some(flight) = self.flights.pop_front() {
            self.put_back(conn, flight.is_on_main);
        }
        let (baton, result) = end.expect("the oldest batch has had its turn");
        match result {
            Ok(applied) => {
                let checkpoint = baton.checkpoint().clone();
                self.outlook = baton.outlook();
                match self.flights.front_mut() {
                    Some(next) => next.pass(baton),
                    None => self.applier = Some(baton),
                }
                Ok(Landed { batch, applied, checkpoint, busy })
            }
            Err(error) => {
                self.undo().await;
                Err(error)
            }
        }
    }

    /// Undoes what is in flight; nothing of it has its turn.
    async fn undo(&mut self) {
        while let Some(Flight { mut task, turn, is_on_main, .. }) = self.flights.pop_front() {
            drop(turn);
            // Beyond that its session is closed, with all that it holds.
            if let Ok(Some(Ok(flown))) = timeout(UNDO_WITHIN, task.join_next()).await {
                self.put_back(flown.conn, is_on_main);
            }
        }
    }

    fn put_back(&mut self, conn: Option<PgConnection>, is_main: bool) {
        if is_main {
            self.main = conn;
        } else {
            self.second = conn;
        }
    }
}

impl Flight {
    /// Its turn has come.
    fn pass(&mut self, applier: Applier) {
        // It is passed once, and the task does not end before it.
        let _ = self.turn.try_send(applier);
    }

    async fn end(&mut self) -> Flown {
        match self.task.join_next().await {
            Some(Ok(flown)) => flown,
            // Only at shutdown, or if it panicked: then it is to be seen, not passed over.
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }
}

/// Applies the batch in its turn; with an outlook what can be written ahead is.
async fn fly(
    mut conn: PgConnection,
    mut batch: Box<Batch>,
    ahead: Option<(Outlook, Duration)>,
    turn: &mut mpsc::Receiver<Applier>,
) -> Flown {
    let flown = match ahead {
        Some((outlook, staged_for)) => fly_ahead(&mut conn, &mut batch, &outlook, staged_for, turn).await,
        None => Ok(None),
    };
    match flown {
        Ok(Some((applier, end, busy))) => Flown { conn: Some(conn), batch, end: Some((applier, end)), busy },
        Ok(None) => match turn.recv().await {
            Some(mut applier) => {
                let began = Instant::now();
                let end = applier.apply(&mut conn, &mut batch).await;
                Flown { conn: Some(conn), batch, end: Some((applier, end)), busy: began.elapsed() }
            }
            None => Flown { conn: Some(conn), batch, end: None, busy: Duration::ZERO },
        },
        Err(error) => {
            let end = turn.recv().await.map(|applier| (applier, Err(error.into())));
            Flown { conn: None, batch, end, busy: Duration::ZERO }
        }
    }
}

/// Writes the batch's rows and, in its turn, the rest. `None`, and nothing is written, if it cannot be done ahead or
/// the turn does not come.
async fn fly_ahead(
    conn: &mut PgConnection,
    batch: &mut Batch,
    outlook: &Outlook,
    staged_for: Duration,
    turn: &mut mpsc::Receiver<Applier>,
) -> Result<Option<(Applier, Result<Applied, ApplyError>, Duration)>, store::Error> {
    if !have_partitions(conn, batch, outlook).await? {
        return Ok(None);
    }
    let mut tx = conn.begin().await?;
    let Some(staged) = stage(&mut tx, batch, outlook).await? else {
        tx.rollback().await?;
        return Ok(None);
    };
    let Ok(Some(mut applier)) = timeout(staged_for, turn.recv()).await else {
        tx.rollback().await?;
        return Ok(None);
    };
    let began = Instant::now();
    let end = match applier.finish(tx, batch, staged).await {
        // The event is looked for by applying it alone.
        Err(ApplyError::Store(error)) if error.is_refused() => applier.apply(conn, batch).await,
        end => end,
    };
    Ok(Some((applier, end, began.elapsed())))
}
