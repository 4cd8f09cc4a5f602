//! Tests of the rules.

use std::error::Error;

use super::*;

fn classify(rules: &Rules, method: Option<&str>, path: &str, status: Option<u64>) -> Classified {
    let method = method.map(|method| Method::new(method).unwrap());
    let status = status.map(|status| StatusCode::new(status).unwrap());
    rules.classify(&Endpoint::from_path(path).unwrap(), method.as_ref(), status)
}

fn refusal(text: &str) -> String {
    let error = Rules::from_toml(text).expect_err("these rules are wrong");
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn the_default_rules_are_the_contracts() {
    let toml = r#"
        [[rule]]
        match = "/api/analyze*"
        category = "analyze"
        [[rule]]
        match = "/api/auth/*"
        category = "auth"
    "#;
    assert_eq!(Rules::from_toml(toml).unwrap(), Rules::default());
}

#[test]
fn server_errors_never_count() {
    let rules = Rules::default();
    for (status, counted) in
        [(None, true), (Some(200), true), (Some(499), true), (Some(500), false), (Some(599), false)]
    {
        assert_eq!(classify(&rules, None, "/api/analyze", status).counted, counted, "{status:?}");
        assert_eq!(classify(&rules, None, "/", status).counted, counted, "{status:?}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = Rules::from_toml(
        r#"
        [[rule]]
        match = "/v1/%63hat"
        method = "POST"
        category = "analyze"
        units = 5
        endpoint = "chat"
        [[rule]]
        match = "/v1/*"
        counted = false
        [[rule]]
        match = "*"
        category = "auth"
        "#,
    );
    // A lone star is no path: everything is "/*".
    assert!(matches!(rules, Err(RulesError::Pattern { number: 3, .. })));

    let rules = Rules::from_toml(
        r#"
        rule = [
            { match = "/v1/%63hat", method = "POST", category = "analyze", units = 5, endpoint = "chat" },
            { match = "/v1/*", counted = false },
            { match = "/*", category = "auth" },
        ]
        "#,
    )
    .unwrap();
    let chat = classify(&rules, Some("post"), "/v1/chat", None);
    assert_eq!((chat.category, chat.units.get(), chat.endpoint.as_str()), (Category::Analyze, 5, "chat"));
    assert!(chat.counted);
    for (method, path) in [(Some("GET"), "/v1/chat"), (None, "/v1/chat"), (Some("POST"), "/v1/chat/x")] {
        let classified = classify(&rules, method, path, None);
        assert_eq!((classified.category, classified.counted), (Category::Other, false), "{method:?} {path}");
        assert_eq!(classified.endpoint.as_str(), path);
    }
    assert_eq!(classify(&rules, None, "/v1", None).category, Category::Auth);
}

#[test]
fn events_without_a_path_match_no_path_rule() {
    let rules = Rules::from_toml("rule = [{ match = \"/*\", category = \"analyze\" }]").unwrap();
    let event = Endpoint::for_event_type("/api/analyze").unwrap();
    assert_eq!(rules.classify(&event, None, None).category, Category::Other);
    let star = Endpoint::from_path("*").unwrap();
    assert_eq!(rules.classify(&star, None, None).category, Category::Other);
}

#[test]
fn wrong_rules_say_what_is_wrong() {
    let cases = [
        ("rule = 1", "invalid type"),
        ("[[rule]]\nmatch = \"/x\"\ncost = 1", "unknown field `cost`"),
        ("[[rules]]\nmatch = \"/x\"", "unknown field `rules`"),
        ("[[rule]]\ncategory = \"auth\"", "missing field `match`"),
        ("[[rule]]\nmatch = \"/x\"\ncategory = \"premium\"", "unknown variant `premium`"),
        (
            "[[rule]]\nmatch = \"/x\"\nunits = 0",
            "rule 1: units is not valid: units must be from 1 to 1000000",
        ),
        ("[[rule]]\nmatch = \"/x\"\nunits = -1", "invalid value: integer `-1`"),
        ("[[rule]]\nmatch = \"/x\"\nmethod = \"G T\"", "rule 1: method is not valid: a method is"),
        (
            "[[rule]]\nmatch = \"/x\"\nendpoint = \"\"",
            "rule 1: endpoint is not valid: an endpoint must not be empty",
        ),
        (
            "[[rule]]\nmatch = \"/x\"\n[[rule]]\nmatch = \"x\"",
            "rule 2: match = \"x\" is not a path: a path must begin",
        ),
        ("[[rule]]\nmatch = \"/a/*/b\"", "rule 1: match = \"/a/*/b\" may hold one * only, at its end"),
        (
            "[[rule]]\nmatch = \"/a%2fb\"",
            "rule 1: match = \"/a%2fb\" is not a path: a path must not contain %2f",
        ),
        ("[[rule", "TOML parse error at line 1"),
    ];
    for (toml, expected) in cases {
        let refusal = refusal(toml);
        assert!(refusal.contains(expected), "{toml}\n{refusal}");
    }
}

#[test]
fn no_rules_at_all_are_rules_too() {
    let rules = Rules::from_toml("").unwrap();
    assert_eq!(classify(&rules, None, "/api/analyze", None).category, Category::Other);
}
