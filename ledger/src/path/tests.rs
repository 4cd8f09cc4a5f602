//! Tests of the normalisation of paths.

use proptest::prelude::*;

use super::{EncodedSlash, PathError, match_key};
use crate::rules::Rules;
use crate::usage::Category;

fn normalise(path: &str) -> Result<String, PathError> {
    super::normalise(path, EncodedSlash::Refuse)
}

fn keep(path: &str) -> Result<String, PathError> {
    super::normalise(path, EncodedSlash::Keep)
}

fn normal(path: &str) -> String {
    normalise(path).unwrap_or_else(|error| panic!("{path:?} is refused: {error}"))
}

fn category(path: &str) -> Category {
    let rules = Rules::default();
    let endpoint = rules.endpoint(path).unwrap_or_else(|error| panic!("{path:?} is refused: {error}"));
    rules.classify(&endpoint, None, None).category
}

#[test]
fn spellings_of_one_path_become_one() {
    let spellings = [
        "/api/analyze",
        "//api/analyze",
        "/api//analyze",
        "///api///analyze",
        "/./api/analyze",
        "/api/./analyze",
        "/api/././/./analyze",
        "/x/../api/analyze",
        "/api/x/../analyze",
        "/api/x/y/../../analyze",
        "/../api/analyze",
        "/../../../api/analyze",
        "/api/x//../analyze",
        "/%61pi/analyze",
        "/api/%61nalyze",
        "/api/%61%6e%61%6C%79%7A%65",
        "/api/x/%2e%2e/analyze",
        "/api/x/.%2E/analyze",
        "/api/%2e/analyze",
        "/api/%2E%2e/api/analyze",
        "/api/analyze?x=1",
        "/api/analyze?x=/../y",
        "/api/analyze?",
        "/api/analyze?a#b",
        "http://example.com/api/analyze",
        "https://example.com:8443/api/analyze?x",
        "HTTP://EXAMPLE.COM/api/analyze",
        "http://user:secret@example.com/api/analyze",
        "http://[::1]/api//analyze",
        "ws://example.com/api/analyze",
        "/..//api/analyze",
    ];
    for spelling in spellings {
        assert_eq!(normal(spelling), "/api/analyze", "{spelling}");
        assert_eq!(category(spelling), Category::Analyze, "{spelling}");
    }
}

#[test]
fn decoys_stay_what_they_are() {
    let decoys = [
        ("/api/analyz", "/api/analyz"),
        ("/x/api/analyze", "/x/api/analyze"),
        ("/api/analyze/../stats", "/api/stats"),
        ("/api/analyze/..", "/api/"),
        ("/api/analyze/%2e%2e/stats", "/api/stats"),
        ("/api/%2561nalyze", "/api/%2561nalyze"),
        ("/stats?/api/analyze", "/stats"),
        ("http://example.com?/api/analyze", "/"),
        ("//example.com/api/analyze", "/example.com/api/analyze"),
        ("/.../api/analyze", "/.../api/analyze"),
        ("/api /analyze", "/api%20/analyze"),
        ("/api./analyze", "/api./analyze"),
    ];
    for (decoy, expected) in decoys {
        assert_eq!(normal(decoy), expected, "{decoy}");
        assert_eq!(category(decoy), Category::Other, "{decoy}");
    }
}

#[test]
fn what_begins_like_analyze_is_analyze() {
    let paths = [
        "/api/analyze/",
        "/api/analyze/.",
        "/api/analyze.",
        "/api/analyze;jsessionid=1",
        "/api;v=1/analyze",
        "/;x/api/;y/analyze",
        "/api/;/analyze",
        "/api/analyze%20",
        "/api/analyze%3Fx",
        "/api/analyze%3bx",
        "/api/analyze/x;y/../z",
    ];
    for path in paths {
        assert_eq!(category(path), Category::Analyze, "{path}");
    }
    assert_eq!(category("/api/auth"), Category::Other);
    assert_eq!(category("/api/auth/login"), Category::Auth);
    assert_eq!(category("/api/auth;x/login"), Category::Auth);
}

#[test]
fn what_servers_read_differently_is_refused() {
    let refused = [
        ("", PathError::NotAPath),
        ("api/analyze", PathError::NotAPath),
        (" /api/analyze", PathError::NotAPath),
        ("?x", PathError::NotAPath),
        ("http:/api/analyze", PathError::NotAPath),
        ("http:///api/analyze", PathError::NotAPath),
        ("ftp://example.com/api/analyze", PathError::NotAPath),
        ("event://x/api/analyze", PathError::NotAPath),
        ("**", PathError::NotAPath),
        ("/api%2fanalyze", PathError::EncodedSlash),
        ("/api%2Fanalyze", PathError::EncodedSlash),
        ("/api%5canalyze", PathError::Backslash),
        ("/api%5Canalyze", PathError::Backslash),
        ("/api\\analyze", PathError::Backslash),
        ("\\api\\analyze", PathError::NotAPath),
        ("http://example.com\\api/analyze", PathError::Backslash),
        ("/api/analyze#fragment", PathError::Fragment),
        ("/api/analyze#?/../x", PathError::Fragment),
        ("/stats#/../api/analyze", PathError::Fragment),
        ("/#", PathError::Fragment),
        ("http://example.com#@elsewhere.example/api/analyze", PathError::Fragment),
        ("http://example.com/stats#/api/analyze", PathError::Fragment),
        ("/api/analyze%00", PathError::ControlCharacter),
        ("/api/%0d%0aanalyze", PathError::ControlCharacter),
        ("/api/%7Fanalyze", PathError::ControlCharacter),
        ("/api/\u{0}analyze", PathError::ControlCharacter),
        ("/api/\tanalyze", PathError::ControlCharacter),
        ("/api/\u{85}analyze", PathError::ControlCharacter),
        ("/api/\u{202e}analyze", PathError::ControlCharacter),
        ("http://exa\nmple.com/api", PathError::ControlCharacter),
        ("/api/%", PathError::InvalidEscape),
        ("/api/%6", PathError::InvalidEscape),
        ("/api/%6/analyze", PathError::InvalidEscape),
        ("/api/%zz", PathError::InvalidEscape),
        ("/api/%u0061nalyze", PathError::InvalidEscape),
        ("/api/%+1", PathError::InvalidEscape),
        ("/x/%c0%ae%c0%ae/api/analyze", PathError::OverlongEncoding),
        ("/api%c0%afanalyze", PathError::OverlongEncoding),
        ("/api%e0%80%afanalyze", PathError::OverlongEncoding),
        ("/api%f0%80%80%afanalyze", PathError::OverlongEncoding),
        ("/api/x/..;/analyze", PathError::DotSegmentWithParameters),
        ("/api/.;a=b/analyze", PathError::DotSegmentWithParameters),
        ("/api/x/%2e%2e;/analyze", PathError::DotSegmentWithParameters),
        ("/api/x/..%3b/analyze", PathError::DotSegmentWithParameters),
        ("/api/x/..%3b;/analyze", PathError::DotSegmentWithParameters),
    ];
    for (path, expected) in refused {
        assert_eq!(normalise(path), Err(expected), "{path:?}");
    }
}

#[test]
fn a_kept_slash_is_a_character_of_its_segment() {
    let kept = [
        ("/api/v4/projects/group%2Fproject/issues", "/api/v4/projects/group%2Fproject/issues"),
        ("/api/v4/projects/group%2fproject", "/api/v4/projects/group%2Fproject"),
        ("/@babel%2fcore", "/@babel%2Fcore"),
        ("/a%2F/b", "/a%2F/b"),
        ("/%2F%2f", "/%2F%2F"),
        ("/a/%2Fb/../c", "/a/c"),
        ("/a%252Fb", "/a%252Fb"),
        ("/a%2F...%2Fb", "/a%2F...%2Fb"),
        ("/a%2F?x=%2F..", "/a%2F"),
    ];
    for (path, expected) in kept {
        assert_eq!(keep(path).as_deref(), Ok(expected), "{path}");
        assert_eq!(keep(expected).as_deref(), Ok(expected), "{path}");
    }
    for path in [
        "/a%2F..",
        "/..%2fa",
        "/a%2F.%2Fb",
        "/a%2F%2e%2e%2Fb",
        "/a%2f..;x%2fb",
        "/a%2F..%3Bx%2Fb",
        "/a%2f%2e%2e%3bx;y%2fb",
        "/a%2F.%3B",
        "/%2F.",
        "/a/.%2F",
    ] {
        assert_eq!(keep(path), Err(PathError::DotSegmentBesideEncodedSlash), "{path}");
    }
    for path in ["/..;x%2Fb", "/..%3Bx%2Fb", "/.%3bx"] {
        assert_eq!(keep(path), Err(PathError::DotSegmentWithParameters), "{path}");
    }
    for (path, expected) in [
        ("/a%5Cb", PathError::Backslash),
        ("/a%2F#b", PathError::Fragment),
        ("/a%2Fb%c0%af", PathError::OverlongEncoding),
        ("/a%2F%00", PathError::ControlCharacter),
    ] {
        assert_eq!(keep(path), Err(expected), "{path}");
    }
}

#[test]
fn the_key_of_a_kept_slash_is_that_of_no_other_path() {
    let kept = match_key("/a%2Fb").into_owned();
    for other in ["/a/b", "/a%252Fb", "/a", "/ab"] {
        assert_ne!(match_key(other).as_ref(), kept, "{other}");
    }
    assert_eq!(match_key("/a%2Fb;x/c").as_ref(), b"/a\0b/c");
}

#[test]
fn a_setting_of_slashes_is_refuse_or_keep() {
    assert_eq!("keep".parse(), Ok(EncodedSlash::Keep));
    assert_eq!("refuse".parse(), Ok(EncodedSlash::Refuse));
    for wrong in ["", "Keep", "decode"] {
        assert!(wrong.parse::<EncodedSlash>().is_err(), "{wrong}");
    }
}

#[test]
fn real_paths_stay_readable() {
    assert_eq!(normal("/blog/tags/jquery%20mobile"), "/blog/tags/jquery%20mobile");
    assert_eq!(normal("/blog/tags/jquery mobile"), "/blog/tags/jquery%20mobile");
    assert_eq!(normal("/presentations/vim/%094"), "/presentations/vim/%094");
    assert_eq!(normal("/caf\u{e9}"), "/caf%C3%A9");
    assert_eq!(normal("/caf%c3%a9"), "/caf%C3%A9");
    assert_eq!(normal("/%E8%F1+%E0%ED"), "/%E8%F1+%E0%ED");
    assert_eq!(normal("/scripts//%22$%7bWEBLOC%7D/view.php"), "/scripts/%22$%7BWEBLOC%7D/view.php");
    assert_eq!(normal("/a/b/"), "/a/b/");
    assert_eq!(normal("/"), "/");
    assert_eq!(normal("/.."), "/");
    assert_eq!(normal("http://example.com"), "/");
    assert_eq!(normal("*"), "*");
}

#[test]
fn an_endpoint_has_a_longest_length() {
    let longest = format!("/{}", "a".repeat(2_047));
    assert_eq!(normal(&longest), longest);
    assert_eq!(normal(&format!("/x/..{longest}?{longest}")), longest);
    assert_eq!(normalise(&format!("{longest}a")), Err(PathError::TooLong));
    assert_eq!(normalise(&format!("/{}", " ".repeat(700))), Err(PathError::TooLong));
}

#[test]
fn routers_decode_once_so_does_the_key() {
    assert_eq!(match_key("/a%3Ab;x/c%2520").as_ref(), b"/a:b/c%20");
    assert_eq!(match_key("event:a;b%20").as_ref(), b"event:a;b%20");
}

/// Text that is rich in what matters to paths.
fn target() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => "[a-z.;:@~_-]{0,3}",
        4 => Just("/".to_owned()),
        2 => Just("..".to_owned()),
        2 => "%[0-9a-fA-F]{2}",
        1 => "[%?#\\\\ *]",
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// One legal respelling of a segment: any of its characters escaped, in either case.
fn respell(segment: &str, choices: u64) -> String {
    let respelled = segment.bytes().enumerate().map(|(index, byte)| match choices >> (index % 32 * 2) & 3 {
        0 => format!("%{byte:02x}"),
        1 => format!("%{byte:02X}"),
        _ => char::from(byte).to_string(),
    });
    respelled.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn normalising_twice_changes_nothing(target in target()) {
        if let Ok(path) = normalise(&target) {
            prop_assert_eq!(normalise(&path), Ok(path.clone()));
            prop_assert_eq!(keep(&target), Ok(path));
        }
        if let Ok(path) = keep(&target) {
            prop_assert_eq!(keep(&path), Ok(path.clone()));
        }
    }

    #[test]
    fn no_output_holds_what_is_refused(target in target()) {
        if let Ok(path) = normalise(&target) {
            prop_assert!(path.starts_with('/') && path.is_ascii() && !path.contains("//"), "{}", path);
            prop_assert!(!path.contains(['\\', '?', '#', ' ']), "{}", path);
            prop_assert!(!path.bytes().any(|byte| byte.is_ascii_control()), "{}", path);
            prop_assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{}", path);
            for escape in path.split('%').skip(1) {
                let digits = &escape[..2];
                let byte = u8::from_str_radix(digits, 16).expect("an escape has two digits");
                prop_assert_eq!(digits, format!("{byte:02X}"));
                prop_assert!(!super::is_unreserved(byte) && byte != b'/' && byte != b'\\', "{}", path);
                prop_assert!(byte == b'\t' || !byte.is_ascii_control(), "{}", path);
            }
        }
    }

    #[test]
    fn no_respelling_changes_the_category(
        segments in prop::collection::vec("api|aNaLyZe|analyze|auth|login|stats|[a-zA-Z0-9._~:@!$&'()*+,=-]{1,8}", 1..5),
        choices in prop::collection::vec((any::<u64>(), 0..6_u8), 5),
        suffix in prop::sample::select(vec!["", "?", "?q=/api/analyze", "?a#b"]),
        prefix in prop::sample::select(vec!["", "http://h", "https://u@h:1", "//..", "/./"]),
    ) {
        prop_assume!(!segments.iter().any(|segment| segment == "." || segment == ".."));
        let simple = format!("/{}", segments.join("/"));
        let mut other = prefix.to_owned();
        for (segment, (choice, decoration)) in segments.iter().zip(&choices) {
            let before = ["/", "//", "/./", "/x/../", "/%2e/", "/y//%2E./"][usize::from(*decoration)];
            other.push_str(before);
            other.push_str(&respell(segment, *choice));
            if choice % 5 == 0 {
                other.push_str(";p=1");
            }
        }
        other.push_str(suffix);
        prop_assert_eq!(category(&other), category(&simple), "{} and {}", other, simple);
    }
}
