//! One file per event type and version, as this build writes it. A file never changes once it was released: what is in
//! a log must be readable for ever. `UPDATE_GOLDEN=1` writes files that are missing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use events::{
    AccountAction, AccountFact, Actor, ActorKind, ApiCalled, ApiKeyRevoked, ApiKeyRotated, ApiKeyTerms,
    AuthFailed, AuthFailureCount, Body, CallCompleted, ClaimsTurned, Event, GapAccepted, GapKind,
    LimitRejected, LimitThresholdCrossed, OwnCallCount, OwnCalls, PeriodClosed, PlanChanged, SOURCE_API,
    SOURCE_CLI, SOURCE_WORKER, SealedJson, StatusClass, TokenDeleted, TokenStored, TokenUsed, UsageReset,
    UserErased, decode, decode_batch, encode, encode_batch, event_type, raw_events, request_hash,
};
use ledger::{Category, Currency, Meter, Money, Month, PlanName};
use uuid::{Uuid, uuid};

const USER: Uuid = uuid!("5b0a4d3e-5c8f-4a56-9d0f-6d2d4f3f1a77");
const ADMIN: &str = "9f1c2b7a-0d3e-4f5a-8b6c-7d8e9f0a1b2c";
const KEY: Uuid = uuid!("0193612a-0000-7000-8000-000000000001");
const ID: Uuid = uuid!("019360f5-3c5b-7a10-8a2e-4b1f0c9d8e7f");

/// `{"ip_address":"2001:db8::17","user_agent":"curl/8"}`, sealed under a key that is gone. Its members are sorted.
const SEALED: &str = concat!(
    r#"{"dek":"d1","encrypted":"87c568e037a5fa50b1bc911e8ee19a77c4dd3c22bce9932f86fdd8a216afe168"#,
    r#"1c89737fada6859e91047eece711ec16da62d6ccb9fd0de2c51f132347350d8c","iv":"507b553b106b1b9963b7affb34e5ed14","kid":"k1","tag":"99f97d455d5d62b24f3a942a1abc3fa8863fc0ce2037f52f09bd785b22b800d4","v":2}"#
);

/// The same in one string.
const COMPACT: &str = concat!(
    r#""AgJrMQJkMVB7VTsQaxuZY7ev-zTl7RSZ-X1FXV1isk86lCoavD-ohj_AziA39S8JvXhbIrgA1IfFaOA3pfpQsbyRHo7hmnfE3Twi"#,
    r#"vOmTL4b92KIWr-FoHIlzf62mhZ6RBH7s5xHsFtpi1sy5_Q3ixR8TI0c1DYw""#
);

fn at(text: &str) -> DateTime<Utc> {
    ledger::time::parse(text).expect("a time")
}

fn november() -> Month {
    Month::new(2026, 11).expect("a month")
}

fn event(source: &'static str, body: Body<'static>) -> Event<'static> {
    let subject = (!body.is_ledger_wide()).then(|| USER.into());
    Event::own(source, ID, subject, at("2026-11-24T03:50:37.123456Z"), body)
}

/// Every field of the type filled.
fn full_call() -> Event<'static> {
    let body = Body::ApiCalled(ApiCalled {
        endpoint: "/api/analyze/caf%C3%A9".into(),
        method: Some("POST".into()),
        status_code: Some(200),
        response_time_ms: Some(41),
        personal: Some(SealedJson::new(SEALED).expect("an object")),
        request_size: Some(512),
        response_size: Some(18_220),
        units: 3,
        category: Category::Analyze,
        counted: true,
        key_id: Some(KEY),
        reservation_id: Some(uuid!("0193612a-0000-7000-8000-000000000002")),
        lease: Some(uuid!("0193612a-0000-7000-8000-000000000003")),
        actor: Some(Actor::new(ActorKind::Service, "billing")),
        request: None,
    });
    let time = at("2026-11-24T03:50:37.000001Z");
    Event {
        id: "evt \"1\"".into(),
        source: "https://shop.example".into(),
        subject: Some(USER.into()),
        time,
        body,
    }
}

fn golden_events() -> Vec<(&'static str, Event<'static>)> {
    let mut uncounted = ApiCalled::new("/", Category::Other);
    uncounted.counted = false;
    let mut compact = ApiCalled::new("/api/analyze", Category::Analyze);
    compact.personal = Some(SealedJson::new(COMPACT).expect("a string"));
    let api = |body| event(SOURCE_API, body);
    let worker = |body| event(SOURCE_WORKER, body);
    vec![
        ("usage.api_called.v1", full_call()),
        ("usage.api_called.v1.compact", api(Body::ApiCalled(compact))),
        ("usage.api_called.v1.minimal", api(Body::ApiCalled(uncounted))),
        ("usage.api_called.v1.request", api(Body::ApiCalled(asked_about_by_a_proxy()))),
        ("usage.call_completed.v1", api(Body::CallCompleted(call_completed()))),
        ("usage.limit_rejected.v1", api(Body::LimitRejected(limit_rejected()))),
        ("usage.limit_rejected.v1.key", api(Body::LimitRejected(rejected_by_a_key()))),
        ("usage.own_calls.v1", api(Body::OwnCalls(own_calls()))),
        ("usage.limit_threshold_crossed.v1", worker(Body::LimitThresholdCrossed(threshold_crossed()))),
        ("usage.usage_reset.v1", api(Body::UsageReset(usage_reset()))),
        ("plan.plan_changed.v1", api(Body::PlanChanged(plan_changed()))),
        ("plan.plan_changed.v1.minimal", api(Body::PlanChanged(unlimited()))),
        ("usage.period_closed.v1", worker(Body::PeriodClosed(PeriodClosed { month: november() }))),
        ("log.claims_turned.v1", worker(Body::ClaimsTurned(ClaimsTurned { generation: 3 }))),
        ("log.gap_accepted.v1", event(SOURCE_CLI, Body::GapAccepted(gap_accepted()))),
        ("token.token_stored.v1", api(Body::TokenStored(token_stored()))),
        ("token.token_deleted.v1", api(Body::TokenDeleted(token_deleted()))),
        ("token.token_used.v1", api(Body::TokenUsed(token_used()))),
        ("user.user_erased.v1", api(Body::UserErased(user_erased()))),
        ("user.api_key_created.v1", api(Body::ApiKeyCreated(api_key_terms()))),
        ("user.api_key_changed.v1", event(SOURCE_CLI, Body::ApiKeyChanged(bare_api_key()))),
        ("user.api_key_rotated.v1", api(Body::ApiKeyRotated(api_key_rotated()))),
        ("user.api_key_revoked.v1", api(Body::ApiKeyRevoked(api_key_revoked()))),
        ("user.auth_failed.v1", api(Body::AuthFailed(auth_failed()))),
        ("user.user_registered.v1", account(AccountAction::Registered, "invitation")),
        ("user.signed_in.v1", account(AccountAction::SignedIn, "password")),
        ("user.signed_out.v1", event(SOURCE_CLI, bare_fact(AccountAction::SignedOut))),
        ("user.password_changed.v1", api(bare_fact(AccountAction::PasswordChanged))),
        ("user.factor_added.v1", account(AccountAction::FactorAdded, "totp")),
        ("user.factor_removed.v1", account(AccountAction::FactorRemoved, "totp")),
        ("user.recovery_codes_made.v1", api(bare_fact(AccountAction::RecoveryCodesMade))),
        ("user.identity_linked.v1", account(AccountAction::IdentityLinked, "github")),
        ("user.identity_unlinked.v1", account(AccountAction::IdentityUnlinked, "github")),
        ("user.status_changed.v1", account(AccountAction::StatusChanged, "suspended")),
        ("user.link_made.v1", account(AccountAction::LinkMade, "password_reset")),
        ("user.profile_changed.v1", api(bare_fact(AccountAction::ProfileChanged))),
    ]
}

/// Every field filled.
fn account(action: AccountAction, method: &'static str) -> Event<'static> {
    let fact = AccountFact {
        method: Some(method.into()),
        object_id: Some(KEY),
        actor: Actor::new(ActorKind::User, USER.to_string()),
        personal: Some(SealedJson::new(COMPACT).expect("a string")),
    };
    event(SOURCE_API, Body::Account(action, fact))
}

fn bare_fact(action: AccountAction) -> Body<'static> {
    let actor = Actor::new(ActorKind::Operator, "root@ledger-1");
    Body::Account(action, AccountFact { method: None, object_id: None, actor, personal: None })
}

fn auth_failed() -> AuthFailed<'static> {
    let count = |reason, network, failures| AuthFailureCount {
        reason: Cow::Borrowed(reason),
        network: Cow::Borrowed(network),
        failures,
    };
    AuthFailed {
        window_start: at("2026-11-24T03:50:00Z"),
        counts: vec![count("password", "203.0.113.0/24", 31), count("signature", "2001:db8:7::/48", 2)],
        other: 7,
    }
}

fn asked_about_by_a_proxy() -> ApiCalled<'static> {
    let mut call = ApiCalled::new("/api/analyze", Category::Analyze);
    call.method = Some("POST".into());
    call.request = Some(request_hash(USER.into(), "POST", "/api/analyze?x=1", b"2f1c9e0d8b7a6f5e", 0));
    call
}

fn call_completed() -> CallCompleted {
    CallCompleted {
        call_id: uuid!("019360f5-0000-7000-8000-00000000000a"),
        call_time: at("2026-11-24T03:50:30.5Z"),
        status_code: 503,
        response_time_ms: Some(30_000),
        response_size: Some(0),
        counted: false,
    }
}

fn limit_rejected() -> LimitRejected {
    LimitRejected {
        meter: Meter::Analyze,
        count: 17,
        window_start: at("2026-11-24T03:50:30Z"),
        shadow: false,
        key_id: None,
    }
}

fn rejected_by_a_key() -> LimitRejected {
    LimitRejected { meter: Meter::Total, key_id: Some(KEY), ..limit_rejected() }
}

fn own_calls() -> OwnCalls<'static> {
    let count = |route, status, calls| OwnCallCount { route: Cow::Borrowed(route), status, calls };
    OwnCalls {
        window_start: at("2026-11-24T03:50:30Z"),
        counts: vec![
            count("GET /api/tokens/{id}", StatusClass::Success, 2),
            count("GET /api/tokens/{id}", StatusClass::ClientError, 19_998),
            count(OwnCalls::OTHER, StatusClass::ServerError, 1),
        ],
    }
}

fn threshold_crossed() -> LimitThresholdCrossed {
    LimitThresholdCrossed {
        month: november(),
        meter: Meter::Total,
        threshold_percent: 80,
        used: 41,
        limit: 50,
    }
}

fn usage_reset() -> UsageReset<'static> {
    UsageReset {
        month: november(),
        reason: "goodwill after an outage".into(),
        actor: Actor::new(ActorKind::Admin, ADMIN),
    }
}

fn gap_accepted() -> GapAccepted<'static> {
    GapAccepted {
        seq_from: 1_200,
        seq_to: 1_204,
        kind: GapKind::Missing,
        reason: "disk replaced, see the report of 24 November".into(),
        actor: Actor::new(ActorKind::Operator, "root@ledger-1"),
    }
}

fn plan_changed() -> PlanChanged<'static> {
    PlanChanged {
        plan_name: PlanName::new("pro").expect("a name"),
        monthly_api_limit: Some(500),
        analyze_limit: Some(100),
        price_monthly: Money::from_cents(999),
        currency: Currency::USD,
        effective_at: at("2026-11-24T03:50:37.123456Z"),
        previous_plan: Some(PlanName::free()),
        reason: Some("payment succeeded".into()),
        source_event_id: Some("evt_1PqLm2".into()),
        actor: Actor::new(ActorKind::User, USER.to_string()),
    }
}

fn unlimited() -> PlanChanged<'static> {
    PlanChanged {
        monthly_api_limit: None,
        analyze_limit: None,
        previous_plan: None,
        reason: None,
        source_event_id: None,
        ..plan_changed()
    }
}

fn sealed() -> SealedJson<'static> {
    SealedJson::new(SEALED).expect("an object")
}

fn token_stored() -> TokenStored<'static> {
    TokenStored {
        token_id: ID,
        token_type: "github".into(),
        sealed: sealed(),
        masked: "ghp_…x7Qz".into(),
        fingerprint: "6b1f0c9d8e7f2a4e".into(),
        actor: Actor::new(ActorKind::User, USER.to_string()),
        personal: Some(sealed()),
    }
}

fn token_deleted() -> TokenDeleted<'static> {
    TokenDeleted {
        token_id: ID,
        token_type: "github".into(),
        actor: Actor::new(ActorKind::Admin, ADMIN),
        personal: Some(sealed()),
    }
}

fn token_used() -> TokenUsed<'static> {
    TokenUsed {
        token_id: ID,
        token_type: "openai".into(),
        purpose: "test".into(),
        actor: Actor::new(ActorKind::User, USER.to_string()),
        personal: None,
    }
}

fn user_erased() -> UserErased<'static> {
    UserErased { actor: Actor::new(ActorKind::Admin, ADMIN) }
}

fn api_key_terms() -> ApiKeyTerms<'static> {
    ApiKeyTerms {
        key_id: KEY,
        role: "user".into(),
        scopes: vec!["check".into(), "read".into()],
        networks: 2,
        budget: Some(50),
        expires_at: Some(at("2027-11-24T00:00:00Z")),
        actor: Actor::new(ActorKind::User, USER.to_string()),
        personal: Some(sealed()),
    }
}

fn bare_api_key() -> ApiKeyTerms<'static> {
    ApiKeyTerms {
        key_id: KEY,
        role: "service".into(),
        scopes: Vec::new(),
        networks: 0,
        budget: None,
        expires_at: None,
        actor: Actor::new(ActorKind::Operator, "root@ledger-1"),
        personal: None,
    }
}

fn api_key_rotated() -> ApiKeyRotated<'static> {
    ApiKeyRotated {
        key_id: KEY,
        earlier_end_at: at("2026-11-25T03:50:37.123456Z"),
        actor: Actor::new(ActorKind::User, USER.to_string()),
        personal: Some(sealed()),
    }
}

fn api_key_revoked() -> ApiKeyRevoked<'static> {
    ApiKeyRevoked { key_id: KEY, actor: Actor::new(ActorKind::Admin, ADMIN), personal: None }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn encoded(event: &Event<'_>) -> String {
    let mut json = Vec::new();
    encode(event, &mut json);
    String::from_utf8(json).expect("JSON is UTF-8")
}

#[test]
fn every_golden_file_is_read_and_written_unchanged() {
    for (name, event) in golden_events() {
        let file = folder().join(format!("{name}.json"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() && !file.exists() {
            fs::write(&file, format!("{}\n", encoded(&event))).expect("the folder is writable");
        }
        let golden = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let golden = golden.trim_end();
        assert_eq!(
            decode(golden).unwrap_or_else(|error| panic!("{name}: {}", error.detail())),
            event,
            "{name}"
        );
        assert_eq!(encoded(&event), golden, "{name}");
        assert!(name.starts_with(event.body.event_type().as_ref()), "{name}");
        assert!(event_type::is_known(&event.body.event_type()), "{name}");
    }
}

#[test]
fn every_golden_file_has_a_test() {
    let tested: BTreeSet<String> = golden_events().iter().map(|(name, _)| format!("{name}.json")).collect();
    let files = fs::read_dir(folder()).expect("the folder is there");
    let files: BTreeSet<String> =
        files.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(files, tested);
}

#[test]
fn all_golden_events_make_one_frame() {
    let events: Vec<Event<'static>> = golden_events().into_iter().map(|(_, event)| event).collect();
    let mut body = Vec::new();
    encode_batch(&events, &mut body);
    let read = decode_batch(&body).expect("a batch");
    assert_eq!(read.into_iter().collect::<Result<Vec<_>, _>>().expect("all good"), events);
}

#[test]
fn the_bytes_of_events_are_those_of_the_frame() {
    let frame = " [ {\"b\" : 1, \"a\":\"]\"} ,\n[1 ,2],\"x\" ]";
    assert_eq!(
        raw_events(frame.as_bytes()).expect("a batch"),
        ["{\"b\" : 1, \"a\":\"]\"}", "[1 ,2]", "\"x\""]
    );
    assert!(raw_events(b"{}").is_err());
    assert!(raw_events(b"[{}").is_err());
}

#[test]
fn what_belongs_to_an_audit_chain_is_told_by_its_type_alone() {
    for (name, event) in golden_events() {
        let is_of_nobody = name == "user.auth_failed.v1";
        let audited = !is_of_nobody && (name.starts_with("token.") || name.starts_with("user."));
        assert_eq!(event.body.is_audited(), audited, "{name}");
    }
    let later = encoded(&event(SOURCE_API, Body::UserErased(user_erased()))).replace(".v1", ".v2");
    assert!(decode(&later).expect("unknown, no error").body.is_audited());
    let broken = encoded(&event(SOURCE_API, Body::TokenUsed(token_used()))).replace("\"purpose\"", "\"p\"");
    assert!(decode(&broken).expect_err("a field is missing").is_audited());
    let failed = encoded(&event(SOURCE_API, Body::AuthFailed(auth_failed())));
    for of_nobody in [failed.replace(".v1", ".v2"), failed.replace("_failed.v1", "_failed")] {
        assert!(!decode(&of_nobody).expect("unknown, no error").body.is_audited());
    }
    assert!(!decode(&failed.replace("\"other\"", "\"o\"")).expect_err("a field is missing").is_audited());
    let later = failed.replace("_failed.v1", "_failed_again.v1");
    assert!(decode(&later).expect("unknown, no error").body.is_audited());
}

#[test]
fn every_action_on_an_account_has_its_type_and_a_golden_file() {
    let names: BTreeSet<&str> = golden_events().iter().map(|(name, _)| *name).collect();
    for action in AccountAction::ALL {
        assert_eq!(action.event_type(), format!("user.{}.v1", action.as_str()));
        assert_eq!(AccountAction::of_type(action.event_type()), Some(*action));
        assert!(names.contains(action.event_type()), "{action:?}");
    }
    assert_eq!(AccountAction::of_type("user.signed_in.v2"), None);
}

#[test]
fn any_layout_and_unknown_fields_are_read_alike() {
    for (name, event) in golden_events() {
        let mut value: serde_json::Value = serde_json::from_str(&encoded(&event)).expect("JSON");
        value["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
        value["data"]["later"] = serde_json::json!({"deep": [1, {"er": null}]});
        let actor = &mut value["data"]["actor"];
        if actor.is_object() {
            actor["later"] = true.into();
        }
        // Sorted keys put `data` before `type`, and pretty printing puts white space everywhere.
        let mut pretty = serde_json::to_string_pretty(&value).expect("JSON");
        // What is sealed is kept as it stands.
        for member in ["personal", "sealed"] {
            let name = format!("\"{member}\": ");
            if let Some(start) = pretty.find(&format!("{name}{{")) {
                let end = start + pretty[start..].find('}').expect("its end") + 1;
                pretty.replace_range(start..end, &format!("{name}{SEALED}"));
            }
        }
        assert_eq!(
            decode(&pretty).unwrap_or_else(|error| panic!("{name}: {}", error.detail())),
            event,
            "{name}"
        );
    }
}

#[test]
fn rows_have_the_ids_of_their_events() {
    assert_eq!(
        event(SOURCE_API, Body::ApiCalled(ApiCalled::new("/", Category::Other))).row_id().expect("own"),
        ID
    );
    let reported = full_call();
    let expected = ledger::derived_id(&[USER.to_string().as_bytes(), b"https://shop.example", b"evt \"1\""]);
    assert_eq!(reported.row_id().expect("derived"), expected);

    let mut wrong = event(SOURCE_API, Body::PeriodClosed(PeriodClosed { month: november() }));
    wrong.id = "1".into();
    assert_eq!(wrong.row_id().expect_err("no UUID").reason(), "invalid_uuid");
}
