//! Tests of endpoints and methods.

use super::*;

#[test]
fn methods_are_tokens() {
    for method in ["GET", "get", "M-SEARCH", "!#$%&'*+-.^_`|~09", &"X".repeat(32)] {
        assert_eq!(Method::new(method).unwrap().as_str(), method);
    }
    for method in ["", "G T", "GET\n", "GÉT", "GET/", "(x)", "\0", &"X".repeat(33)] {
        assert_eq!(Method::new(method).unwrap_err().code, "invalid_method", "{method:?}");
    }
}

#[test]
fn an_event_type_can_be_an_endpoint() {
    assert_eq!(Endpoint::for_event_type("prompt").unwrap().as_str(), "event:prompt");
    assert_eq!(Endpoint::for_event_type("").unwrap_err().code, "empty");
    assert_eq!(Endpoint::for_event_type("a\u{7}").unwrap_err().code, "invalid_characters");
    assert_eq!(Endpoint::for_event_type(&"x".repeat(256)).unwrap_err().code, "too_long");
}

#[test]
fn a_refused_path_has_a_code() {
    let invalid = Invalid::from(Endpoint::from_path("/a%2fb", EncodedSlash::Refuse).unwrap_err());
    assert_eq!(
        (invalid.code, invalid.detail.as_str()),
        ("encoded_slash_in_path", "a path must not contain %2f")
    );
}
