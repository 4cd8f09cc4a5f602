//! Packed values: how records are written into runs and read from them.

use chrono::{DateTime, Utc};
use ledger::{Month, UserId};
use store::Position;
use uuid::Uuid;

/// Writes values one behind the other.
#[derive(Debug, Default)]
pub(super) struct Packer(Vec<u8>);

impl Packer {
    /// Begins a record anew.
    pub(super) fn start(&mut self, kind: u8) -> &mut Self {
        self.0.clear();
        self.bytes(&[kind])
    }

    pub(super) fn record(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn i64s(&mut self, values: &[i64]) -> &mut Self {
        for value in values {
            self.i64(*value);
        }
        self
    }

    pub(super) fn option_i64(&mut self, value: Option<i64>) -> &mut Self {
        self.bytes(&[u8::from(value.is_some())]).i64(value.unwrap_or(0))
    }

    pub(super) fn u128(&mut self, value: u128) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.u128(value.as_u128())
    }

    pub(super) fn user(&mut self, value: UserId) -> &mut Self {
        self.uuid(value.get())
    }

    pub(super) fn position(&mut self, value: Position) -> &mut Self {
        self.u64(value.seq).bytes(&value.idx.to_le_bytes())
    }

    pub(super) fn month(&mut self, value: Month) -> &mut Self {
        self.u32(value.year() * 12 + value.number() - 1)
    }

    /// An instant in whole microseconds.
    pub(super) fn time(&mut self, value: DateTime<Utc>) -> &mut Self {
        self.i64(value.timestamp_micros())
    }

    pub(super) fn text(&mut self, value: Option<&str>) -> &mut Self {
        let length = value.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX - 1));
        self.u32(length).bytes(value.unwrap_or_default().as_bytes())
    }
}

/// Reads values in the order in which they were written; none: they are not what was written.
#[derive(Debug)]
pub(super) struct Packed<'a>(pub(super) &'a [u8]);

impl<'a> Packed<'a> {
    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (now, later) = self.0.split_at_checked(length)?;
        self.0 = later;
        Some(now)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn i64s<const N: usize>(&mut self) -> Option<[i64; N]> {
        let mut values = [0; N];
        for value in &mut values {
            *value = self.i64()?;
        }
        Some(values)
    }

    #[expect(clippy::option_option, reason = "the outer one says whether it is what was written")]
    pub(super) fn option_i64(&mut self) -> Option<Option<i64>> {
        let (is_some, value) = (self.u8()? == 1, self.i64()?);
        Some(is_some.then_some(value))
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn uuid(&mut self) -> Option<Uuid> {
        self.u128().map(Uuid::from_u128)
    }

    pub(super) fn user(&mut self) -> Option<UserId> {
        self.uuid().map(UserId::new)
    }

    pub(super) fn position(&mut self) -> Option<Position> {
        Some(Position { seq: self.u64()?, idx: self.array().map(u16::from_le_bytes)? })
    }

    pub(super) fn month(&mut self) -> Option<Month> {
        let index = self.u32()?;
        Month::new(index / 12, index % 12 + 1)
    }

    pub(super) fn time(&mut self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.i64()?)
    }

    #[expect(clippy::option_option, reason = "the outer one says whether it is what was written")]
    pub(super) fn text(&mut self) -> Option<Option<&'a str>> {
        let length = self.u32()?;
        if length == u32::MAX {
            return Some(None);
        }
        let bytes = self.slice(usize::try_from(length).ok()?)?;
        std::str::from_utf8(bytes).ok().map(Some)
    }
}
