//! Stored rows, packed like the records that they are compared with.

use ledger::{KeyId, Month, UserId};
use store::Position;
use store::operations::recount::{
    CallSums, KeptToken, LINK_COLUMNS, StoredCalls, StoredKeyUsage, StoredLink, StoredSummary, Sums,
};

use store::projection::periods::LateUnits;

use super::packed::{Packed, Packer};

/// A stored row that is no link.
#[derive(Debug)]
pub(super) enum Found {
    Summary(StoredSummary),
    Late(LateUnits),
    Calls(Month, StoredCalls),
    Token(KeptToken),
    KeyUsage(StoredKeyUsage),
}

const SUMMARY: u8 = 0;
const CALLS: u8 = 1;
const TOKEN: u8 = 2;
const LINK: u8 = 3;
const LATE: u8 = 4;
const KEY_USAGE: u8 = 5;

impl Found {
    pub(super) fn user(&self) -> UserId {
        match self {
            Self::Summary(summary) => summary.user,
            Self::Late(late) => late.user,
            Self::Calls(_, calls) => calls.user,
            Self::Token(token) => token.user,
            Self::KeyUsage(usage) => usage.of.0,
        }
    }

    pub(super) fn pack<'p>(&self, packer: &'p mut Packer) -> &'p [u8] {
        match self {
            Self::Summary(StoredSummary { user, month, sums, limits, plan_limits }) => {
                packer.start(SUMMARY).user(*user).month(*month).i64s(&sums.units);
                packer.i64(sums.total_response_time_ms).i64(sums.timed_calls).time(sums.last_updated);
                packer.position(sums.reset);
                for limit in limits.iter().chain(plan_limits) {
                    packer.option_i64(*limit);
                }
            }
            Self::Late(LateUnits { user, of_month, closings, units, .. }) => {
                packer.start(LATE).user(*user).month(*of_month).i64((*closings).into()).i64s(units);
            }
            Self::Calls(month, StoredCalls { user, sums }) => {
                packer.start(CALLS).user(*user).month(*month).i64s(&sums.units);
                packer.i64(sums.calls).i64(sums.counted_calls).i64(sums.counted_units);
                packer.i64(sums.total_response_time_ms).i64(sums.timed_calls).i64(sums.checksum);
            }
            Self::Token(KeptToken { user, token_type, id }) => {
                packer.start(TOKEN).user(*user).text(Some(token_type)).uuid(*id);
            }
            Self::KeyUsage(StoredKeyUsage { of: (user, month, key), units }) => {
                packer.start(KEY_USAGE).user(*user).month(*month).uuid(key.get()).i64(*units);
            }
        }
        packer.record()
    }

    pub(super) fn unpack(record: &[u8]) -> Option<Self> {
        let mut packed = Packed(record);
        let (kind, user) = (packed.u8()?, packed.user()?);
        Some(match kind {
            SUMMARY => {
                let month = packed.month()?;
                let sums = Sums {
                    units: packed.i64s()?,
                    total_response_time_ms: packed.i64()?,
                    timed_calls: packed.i64()?,
                    last_updated: packed.time()?,
                    reset: packed.position()?,
                };
                let limits = [packed.option_i64()?, packed.option_i64()?];
                let plan_limits = [packed.option_i64()?, packed.option_i64()?];
                Self::Summary(StoredSummary { user, month, sums, limits, plan_limits })
            }
            LATE => {
                let (of_month, closings) = (packed.month()?, i32::try_from(packed.i64()?).ok()?);
                let units = packed.i64s()?;
                Self::Late(LateUnits { user, of_month, closings, units, retried: [0; 3] })
            }
            CALLS => {
                let month = packed.month()?;
                let sums = CallSums {
                    units: packed.i64s()?,
                    calls: packed.i64()?,
                    counted_calls: packed.i64()?,
                    counted_units: packed.i64()?,
                    total_response_time_ms: packed.i64()?,
                    timed_calls: packed.i64()?,
                    checksum: packed.i64()?,
                };
                Self::Calls(month, StoredCalls { user, sums })
            }
            TOKEN => {
                let token_type = packed.text()??.to_owned();
                Self::Token(KeptToken { user, token_type, id: packed.uuid()? })
            }
            KEY_USAGE => {
                let of = (user, packed.month()?, KeyId::new(packed.uuid()?));
                Self::KeyUsage(StoredKeyUsage { of, units: packed.i64()? })
            }
            _ => return None,
        })
    }
}

/// Packs a link, stored or as it should be.
pub(super) fn pack_link<'p>(link: &StoredLink, packer: &'p mut Packer) -> &'p [u8] {
    packer.start(LINK).position(link.position).user(link.user);
    for column in &link.columns {
        packer.text(column.as_deref());
    }
    packer.record()
}

/// Position and user of a packed link.
pub(super) fn place_of_link(record: &[u8]) -> Option<(Position, UserId)> {
    let mut packed = Packed(record);
    packed.u8()?;
    Some((packed.position()?, packed.user()?))
}

pub(super) fn unpack_link(record: &[u8]) -> Option<StoredLink> {
    let mut packed = Packed(record);
    packed.u8()?;
    let (position, user) = (packed.position()?, packed.user()?);
    let mut columns = [const { None }; LINK_COLUMNS.len()];
    for column in &mut columns {
        *column = packed.text()?.map(str::to_owned);
    }
    Some(StoredLink { user, position, columns })
}
