//! The log's records and the tables' rows on disk, in parts of users that are counted one after the other.
//!
//! Users are divided by a hash of their ids; a part that is still too large, because one of them called that often, is
//! divided by the calls' ids: only calls of one id or one request, and a call and its completion, have to meet.

use std::sync::Arc;

use ledger::UserId;
use store::operations::recount::StoredLink;

use super::found::{Found, pack_link, place_of_link};
use super::ids::{IdMap, IdSet, way};
use super::packed::Packer;
use super::record::{Record, What};
use super::scratch::{Cursor, Run, Scratch, ScratchError};
use super::tally::{Met, Requests, meet, word};

/// The most parts of one division: each has unfinished blocks in memory.
const MAX_WAYS: u64 = 1_024;
/// Divisions by users; what is too large after them is divided by ids.
const USER_LEVELS: u32 = 2;
/// What a record may take in memory while it is counted, when every call is of another user's month.
const CALL_BYTES: u64 = 400;
const OPEN_BYTES: u64 = 160;
const OF_REQUEST_BYTES: u64 = 90;
const OTHER_BYTES: u64 = 60;

/// Some users' records and rows.
#[derive(Debug)]
pub(super) struct Part {
    /// Events, in the log's order.
    records: Run,
    /// Rows of tables.
    pub(super) found: Run,
    /// Links of audit chains, in the log's order.
    pub(super) links: Run,
    memory_bytes: u64,
    /// Number of the division that it came from.
    level: u32,
}

/// A part, or what it was divided into.
#[derive(Debug)]
pub(super) enum Divided {
    Whole(Part),
    Smaller(Vec<Part>),
}

/// Records that are counted in one go.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) records: Run,
    /// Calls that are the same as earlier ones of their requests, if that was decided before.
    same: Option<Run>,
}

/// All parts of one division.
#[derive(Debug)]
pub(super) struct Parts {
    all: Vec<Part>,
    level: u32,
    packer: Packer,
}

fn ways(bytes: u64, memory_bytes: u64) -> usize {
    let ways = bytes.div_ceil(memory_bytes.max(1)).clamp(1, MAX_WAYS);
    usize::try_from(ways).unwrap_or(1)
}

fn bytes_of(record: &Record<'_>) -> u64 {
    let What::Call(call) = &record.what else { return OTHER_BYTES };
    let more = |is: bool, bytes: u64| if is { bytes } else { 0 };
    CALL_BYTES + more(call.open, OPEN_BYTES) + more(call.request.is_some(), OF_REQUEST_BYTES)
}

impl Parts {
    /// Parts of all users, of whom the log has about so many events, so that each can be counted in so many bytes.
    pub(super) fn of_all(scratch: &Arc<Scratch>, events: u64, memory_bytes: u64) -> Self {
        Self::new(scratch, 0, ways(events.saturating_mul(CALL_BYTES), memory_bytes))
    }

    /// The part of one user.
    pub(super) fn of_one(scratch: &Arc<Scratch>) -> Self {
        Self::new(scratch, USER_LEVELS - 1, 1)
    }

    fn new(scratch: &Arc<Scratch>, level: u32, ways: usize) -> Self {
        let part = |_| Part {
            records: Run::new(scratch),
            found: Run::new(scratch),
            links: Run::new(scratch),
            memory_bytes: 0,
            level,
        };
        Self { all: (0..ways).map(part).collect(), level, packer: Packer::default() }
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        self.all
    }

    fn of(&mut self, user: UserId) -> &mut Part {
        let way = way(user.get().as_u128(), self.level, self.all.len());
        &mut self.all[way]
    }

    pub(super) fn push(&mut self, record: &Record<'_>) -> Result<(), ScratchError> {
        let mut packer = std::mem::take(&mut self.packer);
        let pushed = self.push_packed(record, record.pack(&mut packer));
        self.packer = packer;
        pushed
    }

    fn push_packed(&mut self, record: &Record<'_>, packed: &[u8]) -> Result<(), ScratchError> {
        let part = self.of(record.user);
        part.memory_bytes += bytes_of(record);
        part.records.push(packed)
    }

    pub(super) fn push_found(&mut self, found: &Found) -> Result<(), ScratchError> {
        let mut packer = std::mem::take(&mut self.packer);
        let pushed = self.of(found.user()).found.push(found.pack(&mut packer));
        self.packer = packer;
        pushed
    }

    pub(super) fn push_link(&mut self, link: &StoredLink) -> Result<(), ScratchError> {
        let mut packer = std::mem::take(&mut self.packer);
        let pushed = self.of(link.user).links.push(pack_link(link, &mut packer));
        self.packer = packer;
        pushed
    }
}

impl Part {
    /// Smaller parts, if it does not fit into so many bytes and smaller ones can be had.
    pub(super) fn divide(self, memory_bytes: u64) -> Result<Divided, ScratchError> {
        if self.memory_bytes <= memory_bytes || self.level + 1 >= USER_LEVELS {
            return Ok(Divided::Whole(self));
        }
        let (scratch, bytes) = (self.records.scratch(), self.memory_bytes.saturating_mul(2));
        let mut parts = Parts::new(scratch, self.level + 1, ways(bytes, memory_bytes));
        let mut cursor = Cursor::default();
        while let Some(packed) = cursor.next(&self.records)? {
            let record = Record::unpack(packed).ok_or_else(|| self.records.damaged())?;
            parts.push_packed(&record, packed)?;
        }
        let mut cursor = Cursor::default();
        while let Some(packed) = cursor.next(&self.found)? {
            let found = Found::unpack(packed).ok_or_else(|| self.found.damaged())?;
            parts.of(found.user()).found.push(packed)?;
        }
        let mut cursor = Cursor::default();
        while let Some(packed) = cursor.next(&self.links)? {
            let (_, user) = place_of_link(packed).ok_or_else(|| self.links.damaged())?;
            parts.of(user).links.push(packed)?;
        }
        Ok(Divided::Smaller(parts.into_parts()))
    }

    /// Its records, in shares that fit into so many bytes.
    pub(super) fn shares(&mut self, memory_bytes: u64) -> Result<Vec<Share>, ScratchError> {
        let records = Run::new(self.records.scratch());
        let records = std::mem::replace(&mut self.records, records);
        if self.memory_bytes <= memory_bytes {
            return Ok(vec![Share { records, same: None }]);
        }
        let ways = ways(self.memory_bytes.saturating_mul(2), memory_bytes);
        shares_by_ids(&records, ways)
    }
}

fn shares_by_ids(records: &Run, ways: usize) -> Result<Vec<Share>, ScratchError> {
    let runs = || -> Vec<Run> { (0..ways).map(|_| Run::new(records.scratch())).collect() };
    let (mut by_id, mut by_request) = (runs(), runs());
    let to = |id: u128| way(id, USER_LEVELS, ways);
    let mut cursor = Cursor::default();
    while let Some(packed) = cursor.next(records)? {
        let record = Record::unpack(packed).ok_or_else(|| records.damaged())?;
        match &record.what {
            What::Call(call) => {
                by_id[to(call.id)].push(packed)?;
                if let Some((request, _)) = call.request {
                    by_request[to(request)].push(packed)?;
                }
            }
            What::Completed(completed) => by_id[to(completed.call_id)].push(packed)?,
            // There are few, and all calls have to know of them.
            What::Reset { .. } => by_id.iter_mut().try_for_each(|run| run.push(packed))?,
            What::Link(_) => by_id[0].push(packed)?,
        }
    }
    let mut same = runs();
    for run in by_request {
        mark_same(&run, &mut same, to)?;
    }
    let shares = by_id.into_iter().zip(same);
    Ok(shares.map(|(records, same)| Share { records, same: Some(same) }).collect())
}

/// Notes the calls of these requests that are the same as earlier ones, each for those who count its id.
fn mark_same(calls: &Run, same: &mut [Run], to: impl Fn(u128) -> usize) -> Result<(), ScratchError> {
    let (mut own_rows, mut claims) = (IdSet::default(), IdSet::default());
    let mut requests = Requests::Here(IdMap::default());
    let mut cursor = Cursor::default();
    while let Some(packed) = cursor.next(calls)? {
        let record = Record::unpack(packed).ok_or_else(|| calls.damaged())?;
        let What::Call(call) = &record.what else { continue };
        let claim = || claims.insert(call.id);
        if meet(record.position, call, &mut own_rows, claim, &mut requests) == Met::SameRequest {
            same[to(call.id)].push(&word(record.position).to_le_bytes())?;
        }
    }
    Ok(())
}

impl Share {
    /// What is known of the requests of its calls.
    pub(super) fn requests(&self) -> Result<Requests, ScratchError> {
        let Some(run) = &self.same else { return Ok(Requests::Here(IdMap::default())) };
        let (mut same, mut cursor) = (IdSet::default(), Cursor::default());
        while let Some(word) = cursor.next(run)? {
            same.insert(u64::from_le_bytes(word.try_into().map_err(|_| run.damaged())?));
        }
        Ok(Requests::Same(same))
    }
}
