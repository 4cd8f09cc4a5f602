//! `Content-Type` of bodies: which ones are JSON that is read here.

use axum::http::{HeaderMap, header};

use crate::http::problem::{Code, Problem};

/// A media type with its parameters (RFC 9110, §8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MediaType<'a>(&'a str);

impl<'a> MediaType<'a> {
    /// The media type of this text; an empty one says nothing.
    pub(crate) const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The request's Content-Type, if there is one. One that is no text is of no type that is known.
    ///
    /// # Errors
    /// 400 when it is there more than once: whoever reads another one than a proxy before it sees another body.
    pub(crate) fn of(headers: &'a HeaderMap) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(header::CONTENT_TYPE).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            let detail = "Content-Type must be there once.";
            return Err(Problem::malformed(Code::MalformedHeader, detail));
        }
        Ok(Some(Self(value.to_str().unwrap_or("unknown"))))
    }

    /// Type and subtype as they are written.
    pub(crate) fn essence(self) -> &'a str {
        self.0.split(';').next().unwrap_or_default().trim()
    }

    /// Whether it is this one, whatever its parameters.
    pub(crate) fn is(self, essence: &str) -> bool {
        self.essence().eq_ignore_ascii_case(essence)
    }

    /// Whether it is one of JSON's (WHATWG MIME Sniffing, "JSON MIME type").
    pub(crate) fn is_json(self) -> bool {
        const SUFFIX: &str = "+json";
        let essence = self.essence();
        let suffix = essence.len().checked_sub(SUFFIX.len()).and_then(|start| essence.get(start..));
        self.is("application/json")
            || self.is("text/json")
            || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(SUFFIX))
    }

    /// Whether a charset, where one is named, is UTF-8 or a part of it.
    pub(crate) fn is_unicode(self) -> bool {
        self.0.split(';').skip(1).all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let charset = value.trim().trim_matches('"');
            !name.trim().eq_ignore_ascii_case("charset")
                || ["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known))
        })
    }
}
