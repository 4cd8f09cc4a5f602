//! Positions in headers: `Ledger-Seq` on writes, `Ledger-Min-Seq` on reads.

use std::convert::Infallible;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponseParts, ResponseParts};
use utoipa::IntoParams;

use super::position::Positions;
use super::projections::{NotReached, Projections};
use crate::http::problem::{Chain, Code, Problem};

/// Header on the answer to a write: the position at which it stands in the log.
pub const LEDGER_SEQ: HeaderName = HeaderName::from_static("ledger-seq");
/// Header on a read: the position that its answer must reflect.
pub const LEDGER_MIN_SEQ: HeaderName = HeaderName::from_static("ledger-min-seq");

/// The response header `Ledger-Seq`: `(writer.at(seq), Json(body))`.
#[derive(Clone, Debug)]
pub struct LedgerSeq(String);

impl LedgerSeq {
    /// The position of a write's frame.
    pub fn at(positions: Positions, seq: u64) -> Self {
        Self(positions.encode(seq))
    }

    /// Adds the header to an answer.
    pub(crate) fn insert_into(self, headers: &mut HeaderMap) {
        // Digits, letters and hyphens are a valid header.
        if let Ok(value) = HeaderValue::try_from(self.0) {
            headers.insert(LEDGER_SEQ, value);
        }
    }
}

impl IntoResponseParts for LedgerSeq {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        self.insert_into(response.headers_mut());
        Ok(response)
    }
}

/// Parameter that stands behind the caller in every handler that reads a projection: with `Ledger-Min-Seq` it waits
/// until the projections have reached that position. 400 when it was not issued here, 503 when it is not
/// reached in 5 seconds.
#[derive(Clone, Copy, Debug)]
pub struct MinSeq;

/// The request header, for the document: `params(MinSeqHeader)` of every operation that takes [`MinSeq`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what `MinSeq` reads")]
pub(crate) struct MinSeqHeader {
    /// `Ledger-Seq` of an earlier answer, which this one must reflect.
    #[param(rename = "Ledger-Min-Seq")]
    ledger_min_seq: Option<String>,
}

impl<S> FromRequestParts<S> for MinSeq
where
    S: Send + Sync,
    Projections: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(LEDGER_MIN_SEQ).iter();
        let Some(value) = values.next() else { return Ok(Self) };
        let position = value.to_str().map_err(|_| unknown())?;
        if values.next().is_some() {
            return Err(unknown());
        }
        match Projections::from_ref(state).reach(position).await {
            Ok(()) => Ok(Self),
            Err(NotReached::Unknown) => Err(unknown()),
            Err(NotReached::Log(error)) => {
                Err(Problem::unavailable("log").because(Chain(&error).to_string()))
            }
            Err(NotReached::Late) => {
                Err(Problem::busy("The projections have not reached Ledger-Min-Seq yet; try again."))
            }
        }
    }
}

fn unknown() -> Problem {
    Problem::malformed(Code::UnknownPosition, "Ledger-Min-Seq is not a position of this log.")
}
