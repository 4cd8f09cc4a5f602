//! The place on this site at which somebody goes on after a sign-in.

use url::Url;

/// Where nobody has said another place.
const DEFAULT: &str = "/account";
/// Longest place that is taken, in bytes.
const MAX_BYTES: usize = 512;

/// The place that a request asks for, if it is a path on this site and nothing else, as browsers read it; `/account`
/// otherwise.
pub(super) fn place(asked: Option<&str>) -> String {
    asked.and_then(on_this_site).unwrap_or_else(|| DEFAULT.to_owned())
}

fn on_this_site(asked: &str) -> Option<String> {
    let is_path = asked.starts_with('/') && asked.len() <= MAX_BYTES;
    let is_plain = asked.chars().all(|character| character.is_ascii_graphic());
    if !is_path || !is_plain {
        return None;
    }
    // A browser reads `//x` and `/\x` as another site.
    let here = Url::parse("https://here.invalid").ok()?;
    let there = here.join(asked).ok()?;
    if there.origin() != here.origin() {
        return None;
    }
    let place = &there[url::Position::BeforePath..];
    (!place.starts_with("//")).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_elsewhere() {
        for (asked, expected) in [
            (Some("/account"), "/account"),
            (Some("/usage?month=2026-11#top"), "/usage?month=2026-11#top"),
            (Some("/a/../b"), "/b"),
            (None, "/account"),
            (Some(""), "/account"),
            (Some("account"), "/account"),
            (Some("//evil.example"), "/account"),
            (Some("/\\evil.example"), "/account"),
            (Some("/\\/evil.example"), "/account"),
            (Some("\\\\evil.example"), "/account"),
            (Some("https://evil.example"), "/account"),
            (Some("https:evil.example"), "/account"),
            (Some("javascript:alert(1)"), "/account"),
            (Some("/\t/evil.example"), "/account"),
            (Some("/\n/evil.example"), "/account"),
            (Some(" //evil.example"), "/account"),
            (Some("/.//evil.example"), "/account"),
            (Some("/a/..//evil.example"), "/account"),
            (Some("/@evil.example"), "/@evil.example"),
            (Some("/%2f%2fevil.example"), "/%2f%2fevil.example"),
            (Some("///evil.example"), "/account"),
            (Some("/ü"), "/account"),
        ] {
            assert_eq!(place(asked), expected, "{asked:?}");
        }
        assert_eq!(place(Some(&format!("/{}", "a".repeat(512)))), "/account");
    }
}
