//! Tests of the configuration.

use super::*;

fn read(replicas: &str) -> Result<LogSettings, ConfigError> {
    LogSettings::read(&|name| match name {
        "NATS_URL" => Some("nats://log:4222".to_owned()),
        "NATS_REPLICAS" => Some(replicas.to_owned()),
        _ => None,
    })
}

fn read_api(name: &str, value: &str) -> Result<ApiConfig, ConfigError> {
    let get = |asked: &str| match asked {
        "DATABASE_URL" => Some("postgres://localhost/ledger".to_owned()),
        "NATS_URL" => Some("nats://log:4222".to_owned()),
        "JWT_SECRET" => Some("x".repeat(32)),
        _ => (asked == name).then(|| value.to_owned()),
    };
    ApiConfig::read(&get, Rules::default(), Clock::system())
}

#[test]
fn what_proxies_may_say_is_read_or_refused_with_what_would_be_right() {
    let config = read_api("FORWARD_AUTH_ID_HEADER", "X-Ledger-Request-Id").unwrap();
    assert_eq!(config.forward_auth.id_header.unwrap(), "x-ledger-request-id");
    assert_eq!(config.forward_auth.preflight, Preflight::Check);
    let config = read_api("FORWARD_AUTH_PREFLIGHT", "pass").unwrap();
    assert_eq!((config.forward_auth.preflight, config.forward_auth.id_header), (Preflight::Pass, None));
    for (name, value, says) in [
        ("FORWARD_AUTH_ID_HEADER", "X Id", "it must be the name of a header"),
        ("FORWARD_AUTH_ID_HEADER", "Authorization", "another meaning"),
        ("FORWARD_AUTH_ID_HEADER", "x-forwarded-for", "another meaning"),
        ("FORWARD_AUTH_ID_HEADER", "X-Original-URI", "another meaning"),
        ("FORWARD_AUTH_ID_HEADER", "x-original-url", "another meaning"),
        ("FORWARD_AUTH_ID_HEADER", "X-Original-Method", "another meaning"),
        ("FORWARD_AUTH_ID_HEADER", "X-Forwarded-Uri", "another meaning"),
        ("FORWARD_AUTH_ID_HEADER", "X-Forwarded-Method", "another meaning"),
        ("FORWARD_AUTH_PREFLIGHT", "true", "it must be check or pass"),
    ] {
        let error = read_api(name, value).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with(&format!("{name} cannot be used")) && error.contains(says), "{error}");
    }
}

#[test]
fn surroundings_have_a_short_plain_name() {
    assert_eq!(read_api("OTHER", "").unwrap().environment.as_str(), "dev");
    assert_eq!(read_api("LEDGER_ENV", "prod2").unwrap().environment.as_str(), "prod2");
    for bad in ["Prod", "pro-d", "pro_d", "abcdefghijklmnopq"] {
        let error = read_api("LEDGER_ENV", bad).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with("LEDGER_ENV cannot be used: it must be 1 to 16"), "{bad}: {error}");
    }
}

#[test]
fn an_escaped_slash_is_refused_or_kept() {
    let read = |value: &'static str| encoded_slash(&move |_| Some(value.to_owned()));
    for (value, expected) in
        [("", EncodedSlash::Refuse), ("refuse", EncodedSlash::Refuse), ("keep", EncodedSlash::Keep)]
    {
        assert_eq!(read(value).unwrap(), expected, "{value:?}");
    }
    let error = read("decode").unwrap_err().to_string();
    assert_eq!(error, "ENCODED_SLASH cannot be used: it must be refuse or keep");
}

#[test]
fn a_stream_has_one_three_or_five_copies() {
    for (text, replicas) in [("", 1), ("1", 1), (" 3 ", 3), ("5", 5)] {
        assert_eq!(read(text).unwrap().replicas, replicas, "{text:?}");
    }
    for bad in ["0", "2", "4", "7", "-1", "three", "1.0"] {
        let error = read(bad).unwrap_err().to_string();
        assert_eq!(error, "NATS_REPLICAS cannot be used: it must be 1, 3 or 5", "{bad:?}");
    }
}

#[test]
fn a_lag_is_a_duration_of_a_second_at_least() {
    assert_eq!(read_api("OTHER", "").unwrap().max_lag, Duration::from_secs(4));
    assert_eq!(read_api("MAX_LAG", "2m").unwrap().max_lag, Duration::from_mins(2));
    for bad in ["4", "0s", "-1s", "4000ms", "2d", "25h"] {
        let error = read_api("MAX_LAG", bad).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(error, "MAX_LAG cannot be used: it must be a duration from 1s to 1d, such as 4s", "{bad}");
    }
}
