//! The history as CSV, written while it is sent.

use std::borrow::Cow;
use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;

use super::point::Point;
use crate::facts::AsOf;

/// Lines in a chunk of the body.
const CHUNK_LINES: usize = 512;

const HEADER: [&str; 5] = ["period", "group", "units", "calls", "avg_response_time_ms"];

/// Answers the points as `text/csv` (RFC 4180), with the position that they reflect in `Ledger-As-Of`.
pub(super) fn respond(points: Vec<Point>, as_of: &AsOf) -> Response {
    let mut points = points.into_iter();
    let first = std::iter::once(lines(std::iter::once(HEADER.map(Cow::Borrowed))));
    let rest = std::iter::from_fn(move || {
        let chunk: Vec<Point> = points.by_ref().take(CHUNK_LINES).collect();
        (!chunk.is_empty()).then(|| lines(chunk.iter().map(cells)))
    });
    let body = Body::from_stream(stream::iter(first.chain(rest).map(Ok::<_, Infallible>)));
    let headers = [
        (CONTENT_TYPE.as_str(), "text/csv; charset=utf-8; header=present"),
        (CONTENT_DISPOSITION.as_str(), "attachment; filename=\"usage-history.csv\""),
        ("ledger-as-of", &as_of.position),
    ];
    (headers, body).into_response()
}

fn cells(point: &Point) -> [Cow<'_, str>; 5] {
    [
        point.period.to_rfc3339_opts(chrono::SecondsFormat::Secs, true).into(),
        point.group.as_deref().map_or(Cow::Borrowed(""), guard),
        point.units.to_string().into(),
        point.calls.to_string().into(),
        point.avg_response_time_ms.map_or(Cow::Borrowed(""), |average| average.to_string().into()),
    ]
}

/// Spreadsheets run a cell that starts with one of these as a formula (OWASP, "CSV Injection").
fn guard(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@']) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

fn lines<'a>(records: impl Iterator<Item = [Cow<'a, str>; 5]>) -> Bytes {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for record in records {
        // Writing to a vector fails for no reason but records of unequal length, which the type rules out.
        let _ = writer.write_record(record.iter().map(|cell| cell.as_bytes()));
    }
    Bytes::from(writer.into_inner().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_guarded() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)"] {
            assert_eq!(guard(formula), format!("'{formula}"));
        }
        assert_eq!(guard("/api/=x"), "/api/=x");
        let point = Point {
            period: chrono::DateTime::from_timestamp(1_793_491_200, 0).unwrap(),
            group: Some("=HYPERLINK(\"x\", 1)".to_owned()),
            units: 3,
            calls: 2,
            avg_response_time_ms: None,
        };
        let line = lines(std::iter::once(cells(&point)));
        assert_eq!(&line[..], b"2026-11-01T00:00:00Z,\"'=HYPERLINK(\"\"x\"\", 1)\",3,2,\r\n");
    }
}
