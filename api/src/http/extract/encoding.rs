//! `Content-Encoding` of bodies: which ones a route takes.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::http::problem::{Code, Problem};

/// Content coding by which a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// RFC 1952, also called `x-gzip`.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The coding of a body on a route that takes packed ones, none for a plain body. 415 for any other, and for
    /// several at once, which would multiply what a small body may unpack to.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut applied = applied(headers);
        let coding = match applied.next() {
            None => return Ok(None),
            Some(name) if is(name, "gzip") || is(name, "x-gzip") => Self::Gzip,
            Some(name) if is(name, "zstd") => Self::Zstd,
            Some(_) => return Err(unsupported("gzip, zstd")),
        };
        if applied.next().is_some() { Err(unsupported("gzip, zstd")) } else { Ok(Some(coding)) }
    }

    /// The registered name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// 415 where the body is packed and its route takes plain ones alone.
pub(super) fn require_identity(headers: &HeaderMap) -> Result<(), Problem> {
    if applied(headers).next().is_none() { Ok(()) } else { Err(unsupported("identity")) }
}

/// The codings that were applied. `identity` is none; a value that is no text counts as one that is unknown.
fn applied(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let names = values.flat_map(|value| value.to_str().unwrap_or("unknown").split(','));
    names.map(str::trim).filter(|name| !name.is_empty() && !is(name, "identity"))
}

fn is(name: &str, known: &str) -> bool {
    name.eq_ignore_ascii_case(known)
}

/// Says what would be taken (RFC 9110, §15.5.16).
fn unsupported(accepted: &'static str) -> Problem {
    let detail = match accepted {
        "identity" => "Send the body as it is, without a Content-Encoding.".to_owned(),
        _ => format!("The Content-Encoding may be one of {accepted}, once."),
    };
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::UnsupportedEncoding, detail)
        .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> (Result<Option<Coding>, u16>, bool) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let coding = Coding::of(&headers).map_err(|refused| refused.status().as_u16());
        (coding, require_identity(&headers).is_ok())
    }

    #[test]
    fn one_known_coding_is_taken_and_no_other() {
        let packed = |coding| (Ok(Some(coding)), false);
        for (values, expected) in [
            (&[] as &[&str], (Ok(None), true)),
            (&[""], (Ok(None), true)),
            (&["identity"], (Ok(None), true)),
            (&["Identity, identity"], (Ok(None), true)),
            (&["gzip"], packed(Coding::Gzip)),
            (&["GZip"], packed(Coding::Gzip)),
            (&["x-gzip"], packed(Coding::Gzip)),
            (&[" zstd "], packed(Coding::Zstd)),
            (&["identity, zstd"], packed(Coding::Zstd)),
            (&["gzip, gzip"], (Err(415), false)),
            (&["gzip", "zstd"], (Err(415), false)),
            (&["br"], (Err(415), false)),
            (&["deflate"], (Err(415), false)),
            (&["compress"], (Err(415), false)),
            (&["*"], (Err(415), false)),
            (&["gzip;q=1"], (Err(415), false)),
            (&["gz\u{ef}p"], (Err(415), false)),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
    }
}
