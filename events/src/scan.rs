//! Reading calls ([`Body::ApiCalled`]) in the very layout that `encode` writes, without a JSON parser.
//!
//! Nearly all of the log are such events. The scanner never reports an error: at the first byte that it does not
//! expect it gives up, and `wire` reads the event from its beginning. So what it does accept must be what `wire` would
//! have given; a property test holds them against each other.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use ledger::{Category, Endpoint, Method, Month, UserId, text, time};
use uuid::Uuid;

use crate::actor::{Actor, ActorKind};
use crate::body::{ApiCalled, Body};
use crate::event::{Event, MAX_EVENT_BYTES, parse_hyphenated};
use crate::event_type::api_called;
use crate::sealed::{MAX_SEALED_BYTES, SealedJson};

/// A place in a frame's body.
///
/// `PLAIN` says that the whole body is printable ASCII without a backslash, checked once; then a string ends at the
/// next quote and needs no check of its own.
#[derive(Clone, Copy)]
pub(crate) struct Scanner<'a, const PLAIN: bool> {
    text: &'a str,
    at: usize,
}

/// Whether every byte is printable ASCII and no backslash.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without a branch a byte it compiles to vector instructions"
)]
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    let is_plain = |byte: u8| (byte.wrapping_sub(0x20) < 0x5f) & (byte != b'\\');
    bytes.chunks(4_096).all(|chunk| chunk.iter().fold(true, |plain, &byte| plain & is_plain(byte)))
}

impl<'a, const PLAIN: bool> Scanner<'a, PLAIN> {
    pub(crate) fn new(text: &'a str, at: usize) -> Self {
        Self { text, at }
    }

    /// The event that begins here, and where it ends.
    #[inline]
    pub(crate) fn event(mut self) -> Option<(Event<'a>, usize)> {
        let start = self.at;
        self.literal(br#"{"specversion":"1.0","id":""#)?;
        let id = self.string(text::MAX_NAME_BYTES)?;
        self.literal(br#","source":""#)?;
        let source = self.string(text::MAX_NAME_BYTES)?;
        self.literal(concat!(r#","type":""#, api_called!(), r#"","subject":""#).as_bytes())?;
        let subject = UserId::new(self.uuid()?);
        self.literal(br#","time":""#)?;
        let time = self.time()?;
        self.literal(br#","data":{"endpoint":""#)?;
        let body = Body::ApiCalled(self.api_called()?);
        self.literal(b"}")?;
        if self.at - start > MAX_EVENT_BYTES {
            return None;
        }
        let event = Event {
            id: Cow::Borrowed(id),
            source: Cow::Borrowed(source),
            subject: Some(subject),
            time,
            body,
        };
        Some((event, self.at))
    }

    #[inline]
    fn api_called(&mut self) -> Option<ApiCalled<'a>> {
        let mut call = ApiCalled::new(self.string(Endpoint::MAX_BYTES)?, Category::Other);
        if self.follows(br#","method":""#) {
            let method = self.string(Method::MAX_BYTES)?;
            ledger::endpoint::check_method(method).ok()?;
            call.method = Some(Cow::Borrowed(method));
        }
        if self.follows(br#","status_code":"#) {
            call.status_code = Some(self.number(100, 599)?);
        }
        if self.follows(br#","response_time_ms":"#) {
            call.response_time_ms = Some(self.number(0, u64::from(i32::MAX.unsigned_abs()))?);
        }
        if self.follows(br#","personal":"#) {
            call.personal = Some(self.sealed()?);
        }
        if self.follows(br#","request_size":"#) {
            call.request_size = Some(self.number(0, i64::MAX.unsigned_abs())?);
        }
        if self.follows(br#","response_size":"#) {
            call.response_size = Some(self.number(0, i64::MAX.unsigned_abs())?);
        }
        self.literal(br#","units":"#)?;
        call.units = self.number(1, 1_000_000)?;
        self.literal(br#","category":""#)?;
        call.category = self.category()?;
        self.literal(br#","counted":"#)?;
        call.counted = self.boolean()?;
        if self.follows(b"}") {
            return Some(call);
        }
        if self.follows(br#","key_id":""#) {
            call.key_id = Some(self.uuid()?);
        }
        if self.follows(br#","reservation_id":""#) {
            call.reservation_id = Some(self.uuid()?);
        }
        if self.follows(br#","lease":""#) {
            call.lease = Some(self.uuid()?);
        }
        if self.follows(br#","actor":{"kind":""#) {
            call.actor = Some(self.actor()?);
        }
        if self.follows(br#","request":""#) {
            call.request = Some(self.uuid()?);
        }
        // A field that is newer than this code is for `wire`.
        self.literal(b"}")?;
        Some(call)
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    #[inline]
    fn follows(&mut self, expected: &[u8]) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    #[inline]
    fn literal(&mut self, expected: &[u8]) -> Option<()> {
        self.follows(expected).then_some(())
    }

    /// The rest of a string whose opening quote is read: not empty, without escapes and forbidden characters.
    #[inline]
    fn string(&mut self, max_bytes: usize) -> Option<&'a str> {
        let length = memchr::memchr(b'"', self.rest())?;
        let string = self.text.get(self.at..self.at + length)?;
        let is_bad = !PLAIN && (string.contains('\\') || text::has_forbidden(string));
        if length == 0 || length > max_bytes || is_bad {
            return None;
        }
        self.at += length + 1;
        Some(string)
    }

    /// A string, or an object of strings and numbers: that it is one is checked member by member, for it is kept as it
    /// stands.
    #[inline]
    fn sealed(&mut self) -> Option<SealedJson<'a>> {
        let start = self.at;
        if self.follows(b"\"") {
            self.string(MAX_SEALED_BYTES)?;
            return SealedJson::new(self.text.get(start..self.at)?).ok();
        }
        self.literal(b"{\"")?;
        loop {
            self.string(MAX_SEALED_BYTES)?;
            if self.follows(b":\"") {
                self.string(MAX_SEALED_BYTES)?;
            } else {
                self.literal(b":")?;
                self.number::<u64>(0, u64::MAX)?;
            }
            if self.follows(b"}") {
                return SealedJson::new(self.text.get(start..self.at)?).ok();
            }
            self.literal(b",\"")?;
        }
    }

    #[inline]
    fn uuid(&mut self) -> Option<Uuid> {
        let (text, rest) = self.rest().split_first_chunk::<36>()?;
        let uuid = parse_hyphenated(text)?;
        if rest.first() != Some(&b'"') {
            return None;
        }
        self.at += 37;
        Some(uuid)
    }

    #[inline]
    fn time(&mut self) -> Option<DateTime<Utc>> {
        let (text, rest) = self.rest().split_first_chunk::<{ time::CANONICAL_BYTES }>()?;
        let instant = time::parse_canonical(text)?;
        let is_kept = Month::FIRST.year() <= year_of(text);
        if !is_kept || rest.first() != Some(&b'"') {
            return None;
        }
        self.at += time::CANONICAL_BYTES + 1;
        Some(instant)
    }

    /// A number without sign, fraction, exponent or leading zero.
    #[inline]
    fn number<T: TryFrom<u64>>(&mut self, min: u64, max: u64) -> Option<T> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = &self.rest()[..digits];
        if !(1..=19).contains(&digits) || (text[0] == b'0' && digits > 1) {
            return None;
        }
        let number = text.iter().fold(0, |number: u64, byte| number * 10 + u64::from(byte - b'0'));
        if !(min..=max).contains(&number) {
            return None;
        }
        self.at += digits;
        T::try_from(number).ok()
    }

    #[inline]
    fn category(&mut self) -> Option<Category> {
        Category::ALL.into_iter().find(|category| {
            let rest = self.rest();
            let name = category.as_str().as_bytes();
            let found = rest.starts_with(name) && rest.get(name.len()) == Some(&b'"');
            if found {
                self.at += name.len() + 1;
            }
            found
        })
    }

    fn actor(&mut self) -> Option<Actor<'a>> {
        let name = self.string(text::MAX_NAME_BYTES)?;
        let kind = ActorKind::ALL.into_iter().find(|kind| kind.as_str() == name)?;
        self.literal(br#","id":""#)?;
        let id = self.string(text::MAX_NAME_BYTES)?;
        self.literal(b"}")?;
        Some(Actor { kind, id: Cow::Borrowed(id) })
    }

    #[inline]
    fn boolean(&mut self) -> Option<bool> {
        if self.follows(b"true") { Some(true) } else { self.follows(b"false").then_some(false) }
    }
}

fn year_of(canonical: &[u8; time::CANONICAL_BYTES]) -> u32 {
    canonical[..4].iter().fold(0, |year, byte| year * 10 + u32::from(byte.wrapping_sub(b'0')))
}

#[cfg(test)]
mod tests;
