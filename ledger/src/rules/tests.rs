//! Tests of the rules.

use std::error::Error;

use super::*;

fn from_toml(text: &str) -> Result<Rules, RulesError> {
    Rules::from_toml(text, EncodedSlash::Refuse)
}

fn classify(rules: &Rules, method: Option<&str>, path: &str, status: Option<u64>) -> Classified {
    let method = method.map(|method| Method::new(method).unwrap());
    let status = status.map(|status| StatusCode::new(status).unwrap());
    rules.classify(&rules.endpoint(path).unwrap(), method.as_ref(), status)
}

fn refusal(text: &str) -> String {
    let error = from_toml(text).expect_err("these rules are wrong");
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
    assert_eq!(from_toml(toml).unwrap(), Rules::default());
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
    let rules = from_toml(
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

    let rules = from_toml(
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
    let rules = from_toml("rule = [{ match = \"/*\", category = \"analyze\" }]").unwrap();
    let event = Endpoint::for_event_type("/api/analyze").unwrap();
    assert_eq!(rules.classify(&event, None, None).category, Category::Other);
    let star = rules.endpoint("*").unwrap();
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
    let rules = from_toml("").unwrap();
    assert_eq!(classify(&rules, None, "/api/analyze", None).category, Category::Other);
}

/// One letter, in each way in which somebody who ignores case may read it.
#[test]
fn case_is_ignored_unless_it_is_not() {
    let toml = |head: &str| {
        format!(
            "{head}\nrule = [{{ match = \"/Kasse/straße*\", method = \"POST\", category = \"analyze\", \
             endpoint = \"tills\" }}, {{ match = \"/api/analyze*\", category = \"analyze\" }}]"
        )
    };
    let lenient = from_toml(&toml("")).unwrap();
    let strict = from_toml(&toml("case_sensitive = true")).unwrap();
    let spellings = [
        ("POST", "/Kasse/straße", true),
        ("POST", "/kasse/straße/1", false),
        ("POST", "/KASSE/STRA%C3%9FE", false),
        ("post", "/Kasse/straße", false),
        ("POST", "/\u{212a}asse/straße", false),
        ("POST", "/ka\u{17f}se/STRASSE", false),
        ("GET", "/api/analyze", true),
        ("GET", "/API/Analyze/7", false),
        ("GET", "/api/%41nalyze", false),
        ("GET", "/aPi/analyzE;v=1", false),
    ];
    for (method, path, exact) in spellings {
        let category = |rules: &Rules| classify(rules, Some(method), path, None).category;
        assert_eq!(category(&lenient), Category::Analyze, "{method} {path}");
        assert_eq!(category(&strict) == Category::Analyze, exact, "{method} {path}");
    }
    for other in ["/Kasse/strae", "/api/analyz", "/api/\u{e4}nalyze"] {
        assert_eq!(classify(&lenient, Some("POST"), other, None).category, Category::Other, "{other}");
    }
}

/// A path that a rule names in full, in each way in which a lenient server may read it.
#[test]
fn a_slash_at_the_end_escapes_no_rule_unless_it_shall() {
    let toml = |head: &str| {
        format!(
            "{head}\nrule = [{{ match = \"/v1/chat\", category = \"analyze\" }}, \
             {{ match = \"/v1/images/\", category = \"analyze\" }}, {{ match = \"/\", category = \"auth\" }}]"
        )
    };
    let lenient = from_toml(&toml("")).unwrap();
    let strict = from_toml(&toml("case_sensitive = true")).unwrap();
    for (path, expected, strictly) in [
        ("/v1/chat", Category::Analyze, Category::Analyze),
        ("/v1/chat/", Category::Analyze, Category::Other),
        ("/v1/chat//", Category::Analyze, Category::Other),
        ("/V1/Chat/?x", Category::Analyze, Category::Other),
        ("/v1/chat/.", Category::Analyze, Category::Other),
        ("/v1/chat/x/..", Category::Analyze, Category::Other),
        ("/v1/chat/;x", Category::Analyze, Category::Other),
        ("/v1/images", Category::Analyze, Category::Other),
        ("/v1/images/", Category::Analyze, Category::Analyze),
        ("/", Category::Auth, Category::Auth),
        ("//", Category::Auth, Category::Auth),
        ("/v1/chat/x", Category::Other, Category::Other),
        ("/v1/chats", Category::Other, Category::Other),
        ("/v1", Category::Other, Category::Other),
    ] {
        assert_eq!(classify(&lenient, None, path, None).category, expected, "{path}");
        assert_eq!(classify(&strict, None, path, None).category, strictly, "{path}");
    }
}

#[test]
fn a_named_endpoint_is_one_whatever_its_case_and_another_is_as_it_was_called() {
    let rules = from_toml("rule = [{ match = \"/v1/chat\", endpoint = \"chat\" }]").unwrap();
    for path in ["/v1/chat", "/V1/Chat", "/v1/CHAT"] {
        assert_eq!(classify(&rules, None, path, None).endpoint.as_str(), "chat");
    }
    assert_eq!(classify(&Rules::default(), None, "/api/Analyze", None).endpoint.as_str(), "/api/Analyze");
}

#[test]
fn kept_slashes_match_rules_as_characters() {
    let toml = r#"rule = [
        { match = "/api/v4/projects/group%2fproject", category = "analyze" },
        { match = "/packages/@scope%2F*", units = 7 },
    ]"#;
    let rules = Rules::from_toml(toml, EncodedSlash::Keep).unwrap();
    let classified = |path| classify(&rules, None, path, None);
    let project = classified("/api/v4/projects/GROUP%2Fproject");
    assert_eq!(
        (project.category, project.endpoint.as_str()),
        (Category::Analyze, "/api/v4/projects/GROUP%2Fproject")
    );
    assert_eq!(classified("/packages/@scope%2fcore").units.get(), 7);
    for other in
        ["/api/v4/projects/group/project", "/api/v4/projects/group%252Fproject", "/packages/@scope/a"]
    {
        let other = classified(other);
        assert_eq!((other.category, other.units.get()), (Category::Other, 1), "{other:?}");
    }
    // The default rules too: `/api%2Fanalyze` is one segment.
    let kept = Rules::default().with_encoded_slash(EncodedSlash::Keep);
    assert_eq!(classify(&kept, None, "/api%2Fanalyze", None).category, Category::Other);
    assert_eq!(classify(&kept, None, "/api/analyze%2F7", None).category, Category::Analyze);
}
