//! Tests of tokens' kinds, checks and masks.

use super::{TOKEN_BYTES_MAX, TokenKind, TokenNote, TokenRefused, mask};
use crate::SecretText;

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

#[test]
fn prefixes_suggest_the_kind() {
    let cases = [
        ("ghp_0123456789abcdef0123456789abcdef0123", Some(TokenKind::Github)),
        ("gho_x", Some(TokenKind::Github)),
        ("ghu_x", Some(TokenKind::Github)),
        ("ghr_x", Some(TokenKind::Github)),
        ("ghs_0123456789abcdef0123456789abcdef0123", Some(TokenKind::Github)),
        ("github_pat_x", Some(TokenKind::Github)),
        ("sk-x", Some(TokenKind::Openai)),
        ("sk-proj-x", Some(TokenKind::Openai)),
        ("sk-svcacct-x", Some(TokenKind::Openai)),
        ("sk-admin-x", Some(TokenKind::Openai)),
        ("sk-ant-api03-x", Some(TokenKind::Anthropic)),
        ("sk-ant-admin01-x", Some(TokenKind::Anthropic)),
        ("sk-ant-next99-x", Some(TokenKind::Anthropic)),
        ("AIzaSyx", Some(TokenKind::Gemini)),
        ("AQ.x", Some(TokenKind::Gemini)),
        ("whatever", None),
        ("GHP_x", None),
    ];
    for (token, kind) in cases {
        assert_eq!(TokenKind::suggested_by(&secret(token)), kind, "{token}");
    }
}

#[test]
fn another_kinds_unmistakable_prefix_is_refused_and_named() {
    for (kind, token) in [
        (TokenKind::Github, "ghp_x"),
        (TokenKind::Openai, "sk-proj-x"),
        (TokenKind::Anthropic, "sk-ant-api03-x"),
        (TokenKind::Gemini, "AIzax"),
        (TokenKind::Gemini, "AQ.x"),
    ] {
        for other in TokenKind::ALL {
            let expected =
                if other == kind { Ok(None) } else { Err(TokenRefused::OtherKind { looks_like: kind }) };
            assert_eq!(other.check(&secret(token)), expected, "{token} as {other}");
        }
    }
    let error = TokenKind::Openai.check(&secret("ghp_secret")).expect_err("GitHub's");
    assert_eq!(error.to_string(), "the token looks like one of github");
}

#[test]
fn the_unknown_is_taken_with_a_note() {
    let unknown = Ok(Some(TokenNote::UnknownFormat));
    for kind in TokenKind::ALL {
        assert_eq!(kind.check(&secret("some-new-format_123")), unknown);
        assert_eq!(kind.check(&secret("schlüssel")), unknown);
    }
    // Between these two the bare prefix proves nothing; for the others it does.
    assert_eq!(TokenKind::Anthropic.check(&secret("sk-0123")), unknown);
    assert_eq!(TokenKind::Openai.check(&secret("sk-0123")), Ok(None));
    let openai = Err(TokenRefused::OtherKind { looks_like: TokenKind::Openai });
    assert_eq!(TokenKind::Github.check(&secret("sk-0123")), openai);
    assert_eq!(TokenKind::Github.check(&secret(&format!("ghs_{}", "x".repeat(36)))), Ok(None));
    assert_eq!(TokenKind::Github.check(&secret(&format!("ghs_{}", "x".repeat(516)))), Ok(None));
    assert_eq!(TokenKind::Github.check(&secret("ghs_x")), unknown);
}

#[test]
fn malformed_text_is_refused_for_every_kind() {
    let cases = [
        ("", TokenRefused::Empty),
        ("ghp_a b", TokenRefused::Whitespace),
        ("ghp_a\n", TokenRefused::Whitespace),
        ("\tghp_a", TokenRefused::Whitespace),
        ("ghp_a\u{a0}", TokenRefused::Whitespace),
        ("ghp_a\0", TokenRefused::Control),
        ("ghp_a\u{7f}", TokenRefused::Control),
        ("ghp_a\u{202e}b", TokenRefused::Control),
    ];
    for (text, expected) in cases {
        for kind in TokenKind::ALL {
            assert_eq!(kind.check(&secret(text)), Err(expected), "{text:?}");
        }
    }
    let longest = "x".repeat(TOKEN_BYTES_MAX);
    assert!(TokenKind::Github.check(&secret(&longest)).is_ok());
    assert_eq!(TokenKind::Github.check(&secret(&(longest + "x"))), Err(TokenRefused::TooLong));
}

#[test]
fn a_mask_shows_the_prefix_and_the_last_four_or_nothing() {
    let cases = [
        ("ghp_0123456789abcdef0123456789abcdefwxyz", "ghp_…wxyz"),
        ("github_pat_0123456789abcdef", "github_pat_…cdef"),
        ("sk-ant-api03-0123456789abcdef", "sk-ant-api03-…cdef"),
        ("sk-ant-next99-0123456789abcdef", "sk-ant-…cdef"),
        ("AIzaSy0123456789abcdef", "AIza…cdef"),
        ("0123456789abcdef", "…cdef"),
        ("0123456789abcdeü", "…cdeü"),
        ("0123456789abcde", "••••••••"),
        ("ghp_0123456789abcde", "••••••••"),
        ("ghp_", "••••••••"),
        ("", "••••••••"),
    ];
    for (token, expected) in cases {
        assert_eq!(mask(&secret(token)), expected, "{token}");
    }
}

#[test]
fn kinds_have_one_name_everywhere() {
    for kind in TokenKind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
        assert_eq!(serde_json::to_string(&kind).expect("serialises"), format!("\"{kind}\""));
    }
    assert!("GitHub".parse::<TokenKind>().is_err());
    assert!("".parse::<TokenKind>().is_err());
}

#[test]
fn forms_that_providers_issue_are_known_and_garbage_is_not() {
    let digits = "0123456789abcdefghijklmnopqrstuvwxyz";
    let long = "aB3-_".repeat(40);
    let jwt = format!("ghs_12345_{}", "eyJh.".repeat(102));
    for (kind, token) in [
        (TokenKind::Github, format!("ghp_{digits}")),
        (TokenKind::Github, format!("ghs_{digits}")),
        (TokenKind::Github, jwt),
        (TokenKind::Github, format!("github_pat_{digits}_{digits}")),
        (TokenKind::Openai, format!("sk-{digits}")),
        (TokenKind::Openai, format!("sk-proj-{long}")),
        (TokenKind::Anthropic, format!("sk-ant-api03-{long}")),
        (TokenKind::Gemini, format!("AIza{digits}")),
        (TokenKind::Gemini, format!("AQ.{long}")),
    ] {
        assert!(kind.has_known_form(&secret(&token)), "{token}");
        for other in TokenKind::ALL.into_iter().filter(|other| *other != kind) {
            assert!(!other.has_known_form(&secret(&token)), "{token} as {other}");
        }
        for garbage in
            [format!("{token}ä"), format!("{token}/"), format!("{token}\u{fffd}"), token[3..].to_owned()]
        {
            assert!(!kind.has_known_form(&secret(&garbage)), "{garbage}");
        }
    }
    for token in ["", "ghp_", "ghp_0123456789", "ghs_0123456789abcdef0123", digits] {
        assert!(!TokenKind::Github.has_known_form(&secret(token)), "{token}");
    }
}
