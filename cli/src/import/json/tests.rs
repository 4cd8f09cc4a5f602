//! JSON lines, one by one.

use proptest::prelude::*;

use super::*;

fn read(line: &str, mapping: &str) -> Result<Call, LineError> {
    parse(line.as_bytes(), UserFrom::Field, &mapping.parse().unwrap()).map(|reading| reading.call)
}

/// A line with this field beside those that it must have, and the notes on it.
fn with(field: &str, mapping: &str) -> (Call, Vec<String>) {
    let line = format!(r#"{{"user":"a","time":1,"endpoint":"/",{field}}}"#);
    let reading = parse(line.as_bytes(), UserFrom::Field, &mapping.parse().unwrap()).unwrap();
    (reading.call, reading.notes.iter().map(ToString::to_string).collect())
}

fn says(line: &str) -> String {
    read(line, "").unwrap_err().to_string()
}

#[test]
fn a_full_line_is_read_through_its_mapping() {
    let line = r#"{"path":"/api/analyze","ts":"2026-11-01T10:00:00.5+01:00","account":42,"verb":"POST","code":"201",
        "request_time":"0.0425","http":{"client":{"ip":"::1"}},"agent":"curl/8","in":10,"out":"20","cost":3,
        "more":[1]}"#;
    let mapping = "endpoint=path,time=ts,user=account,method=verb,status_code=code,response_time_s=request_time,\
        ip_address=http.client.ip,user_agent=agent,request_size=in,response_size=out,units=cost";
    let expected = Call {
        user: "42".parse().unwrap(),
        time: "2026-11-01T09:00:00.5Z".parse().unwrap(),
        endpoint: "/api/analyze".into(),
        method: Some("POST".into()),
        status_code: Some(201),
        response_time_ms: Some(43),
        ip_address: Some("::1".parse().unwrap()),
        user_agent: Some("curl/8".into()),
        request_size: Some(10),
        response_size: Some(20),
        units: Some(3),
    };
    assert_eq!(read(line, mapping), Ok(expected));
}

#[test]
fn a_key_with_dots_goes_before_a_path() {
    let line = r#"{"u.r":"flat","u":{"r":"deep"},"time":0,"endpoint":"/"}"#;
    assert_eq!(read(line, "user=u.r").unwrap().user, "flat".parse().unwrap());
}

#[test]
fn times_come_in_three_forms() {
    let time = |value: &str| {
        let line = format!(r#"{{"user":"a","endpoint":"/","time":{value}}}"#);
        read(&line, "").map(|call| call.time.to_rfc3339())
    };
    assert_eq!(time("1700000000").unwrap(), "2023-11-14T22:13:20+00:00");
    assert_eq!(time("1700000000.25").unwrap(), "2023-11-14T22:13:20.250+00:00");
    assert_eq!(time("1700000000123").unwrap(), "2023-11-14T22:13:20.123+00:00");
    assert_eq!(time("\"1700000000.123\"").unwrap(), "2023-11-14T22:13:20.123+00:00");
    assert_eq!(time("\"2023-11-14T22:13:20Z\"").unwrap(), "2023-11-14T22:13:20+00:00");
    for bad in ["\"yesterday\"", "\"NaN\"", "1e300", "true", "\"2023-11-14\""] {
        let expected = "\"time\" (time) is not an RFC 3339 time, or seconds or milliseconds since 1970";
        assert_eq!(time(bad).unwrap_err().to_string(), expected, "{bad}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(says("[1]").split(" (").next(), Some("not a JSON object"));
    assert!(says("{").starts_with("not a JSON object (\"EOF"));
    assert_eq!(says(r#"{"time":1}"#), "nobody is named as the user (--user-from)");
    assert_eq!(says(r#"{"user":"a"}"#), "\"time\" (time) is missing");
    assert_eq!(says(r#"{"user":"a","time":1}"#), "\"endpoint\" (endpoint) is missing");
    assert_eq!(says(r#"{"user":"a","time":1,"endpoint":7}"#), "\"endpoint\" (endpoint) is not a string");
    let docker = r#"{"log":"192.0.2.1 - -","stream":"stdout","time":"2026-11-30T06:00:01Z","user":"a"}"#;
    assert!(says(docker).contains("json-file driver"), "{}", says(docker));
    let evil = says("\"\\u001b[31m\u{1b}[31m");
    assert!(!evil.contains('\u{1b}') && evil.len() < 200, "{evil}");
}

#[test]
fn a_duration_is_left_out_only_when_neither_field_tells_it() {
    let left_out = |field: &str| format!("{field}: left out, for it is not a number from 0");
    for (ms, s, millis, notes) in [
        ("\"x\"", "0.5", Some(500), vec![]),
        ("\"x\"", "0.0005", Some(1), vec!["response_time_s: a fraction was rounded half up".to_owned()]),
        ("7", "\"x\"", Some(7), vec![]),
        ("null", "\"x\"", None, vec![left_out("response_time_s")]),
        ("\"x\"", "\"x\"", None, vec![left_out("response_time_ms"), left_out("response_time_s")]),
        ("\"x\"", "null", None, vec![left_out("response_time_ms")]),
    ] {
        let (call, said) = with(&format!(r#""response_time_ms":{ms},"response_time_s":{s}"#), "");
        assert_eq!((call.response_time_ms, said), (millis, notes), "{ms} {s}");
    }
}

#[test]
fn a_list_of_addresses_or_a_socket_is_no_user() {
    for name in [
        "198.51.100.7, 10.0.0.1",
        "198.51.100.7,10.0.0.1",
        "unknown, 198.51.100.7",
        "198.51.100.7:4711, -",
        "[2001:db8::7]:80, 2001:db8::8",
        "198.51.100.7 10.0.0.1",
        "for=192.0.2.60;proto=http;by=203.0.113.43",
        "For=\\\"[2001:db8::1]:4711\\\"",
        "proto=https; for=192.0.2.60",
    ] {
        let line = format!(r#"{{"user":"{name}","time":1,"endpoint":"/"}}"#);
        assert!(says(&line).starts_with("a list of addresses"), "{name}: {}", says(&line));
    }
    for nobody in ["unix:", "unix:/run/app.sock", "unix:@app"] {
        let line = format!(r#"{{"user":"{nobody}","time":1,"endpoint":"/"}}"#);
        assert_eq!(says(&line), "nobody is named as the user (--user-from)", "{nobody}");
    }
    for name in ["Doe, John", "a,b", "unix:alice", "198.51.100.7x, b", "for", "host 198.51.100.7", "a;b"] {
        let line = format!(r#"{{"user":"{name}","time":1,"endpoint":"/"}}"#);
        assert_eq!(read(&line, "").unwrap().user, name.parse().unwrap(), "{name}");
    }
}

#[test]
fn what_stands_before_the_object_is_named() {
    for (line, expected) in [
        (r#"2026-11-30T06:00:01.1Z stdout F {"a":1}"#, "a container runtime's prefix"),
        (r#"Nov 30 06:00:01 web5 app: {"a":1}"#, "a syslog prefix"),
        (r#"web-1  | {"a":1}"#, "a prefix of docker compose"),
        (
            r#"192.0.2.1 - - [30/Nov/2026:06:00:01 +0000] "GET / HTTP/1.1" 200 1"#,
            "it is a line of an access log",
        ),
        ("hello", "not a JSON object"),
    ] {
        assert!(says(line).starts_with(expected), "{line}: {}", says(line));
    }
}

#[test]
fn an_optional_field_that_cannot_be_read_costs_that_field() {
    for (field, expected) in [
        (r#""status_code":-1"#, "status_code: left out, for it is not a number from 0"),
        (r#""status_code":700"#, "status_code: left out, for it is not a number from 100 to 599"),
        (r#""status_code":200.5"#, "status_code: left out, for it is not a number from 100 to 599"),
        (r#""method":1"#, "method: left out, for it is not a string"),
        (r#""method":"GE(T""#, "method: left out, for it is not an HTTP method's name"),
        (r#""ip_address":"x!""#, "ip_address: left out, for it is not an IP address"),
        (r#""ip_address":"192.0.2.1, 192.0.2.2""#, "ip_address: left out, for it is not an IP address"),
        (r#""ip_address":true"#, "ip_address: left out, for it is not a string"),
        (r#""response_time_s":"x""#, "response_time_s: left out, for it is not a number from 0"),
        (r#""response_time_ms":"0.1, 0.2""#, "response_time_ms: left out, for it is not a number from 0"),
        (
            r#""response_time_ms":1e12"#,
            "response_time_ms: left out, for it is not a time up to 2147483647 ms",
        ),
        (r#""user_agent":{}"#, "user_agent: left out, for it is not a string"),
        (r#""request_size":"many""#, "request_size: left out, for it is not a number from 0"),
        (r#""response_size":1e19"#, "response_size: left out, for it is not a size in 63 bits"),
        (r#""units":0"#, "units: left out, for it is not a number from 1 to 1000000"),
    ] {
        let (call, notes) = with(field, "");
        assert_eq!(notes, [expected], "{field}");
        let plain = Call { ..with(r#""more":1"#, "").0 };
        assert_eq!(call, plain, "{field}");
    }
}

#[test]
fn numbers_are_rounded_half_up_and_durations_have_units() {
    for (field, mapping, millis, notes) in [
        (r#""rt":"16.260""#, "response_time_ms=rt", Some(16), 1),
        (r#""rt":"0.859""#, "response_time_ms=rt", Some(1), 1),
        (r#""rt":11.920731000000046"#, "response_time_ms=rt", Some(12), 1),
        (r#""rt":1500000"#, "response_time_ms=rt:ns", Some(2), 1),
        (r#""rt":2000000"#, "response_time_ms=rt:ns", Some(2), 0),
        (r#""rt":"1500""#, "response_time_ms=rt:us", Some(2), 1),
        (r#""rt":"7""#, "response_time_ms=rt:ms", Some(7), 0),
        (r#""rt":0.0125"#, "response_time_ms=rt:s", Some(13), 1),
        (r#""rt":1.0005"#, "response_time_s=rt", Some(1_001), 1),
        (r#""rt":"""#, "response_time_s=rt", None, 0),
        (r#""rt":"-""#, "response_time_ms=rt", None, 0),
    ] {
        let (call, noted) = with(field, mapping);
        assert_eq!((call.response_time_ms, noted.len()), (millis, notes), "{field} {mapping}: {noted:?}");
    }
    assert_eq!(with(r#""units":1.5"#, "").0.units, Some(2));
    assert_eq!(with(r#""status_code":"200.0""#, "").0.status_code, Some(200));
    assert_eq!(with(r#""response_size":null"#, "").0.response_size, None);
}

#[test]
fn lists_give_their_first_value_and_paths_lead_into_them() {
    let agent = |field: &str, mapping: &str| {
        let (call, notes) = with(field, mapping);
        (call.user_agent, notes.len())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(agent(r#""user_agent":["a"]"#, ""), (some("a"), 0));
    assert_eq!(agent(r#""user_agent":["a","b"]"#, ""), (some("a"), 1));
    assert_eq!(agent(r#""user_agent":[]"#, ""), (None, 0));
    assert_eq!(agent(r#""user_agent":[null]"#, ""), (None, 0));
    assert_eq!(agent(r#""user_agent":[["a"]]"#, ""), (None, 1));
    let headers = r#""headers":{"X":["a","b"],"d.o.t":{"Y":["c"]},"list":[{"k":"d"}]}"#;
    for (path, expected, notes) in [
        ("headers.X", some("a"), 1),
        ("headers.X.0", some("a"), 0),
        ("headers.X.1", some("b"), 0),
        ("headers.X.2", None, 0),
        ("headers.X.a", None, 0),
        ("headers.list.0.k", some("d"), 0),
    ] {
        assert_eq!(agent(headers, &format!("user_agent={path}")), (expected, notes), "{path}");
    }
}

#[test]
fn only_one_user_is_charged_and_only_a_certain_one() {
    let user = |value: &str, mapping: &str| {
        read(&format!(r#"{{"user":{value},"time":1,"endpoint":"/"}}"#), mapping).map(|call| call.user)
    };
    let named = |name: &str| Ok(name.parse::<ledger::UserRef>().unwrap());
    assert_eq!(user(r#"["alice"]"#, ""), named("alice"));
    assert_eq!(user(r#"["alice","bob"]"#, "user=user.1"), named("bob"));
    assert!(matches!(user(r#"["alice","bob"]"#, ""), Err(LineError::SeveralUsers { .. })));
    for nobody in ["null", r#""""#, r#""-""#, r#""\"\"""#, "[]", "[null]"] {
        assert_eq!(user(nobody, ""), Err(LineError::NoUser), "{nobody}");
    }
    for odd in ["1.5", "-1", "true", "{}"] {
        assert!(matches!(user(odd, ""), Err(LineError::Member { .. })), "{odd}");
    }
    for mapped in ["::ffff:192.0.2.10", "192.0.2.10:4711", "[::ffff:192.0.2.10]:1"] {
        assert_eq!(user(&format!("\"{mapped}\""), ""), named("192.0.2.10"), "{mapped}");
    }
}

#[test]
fn clients_are_users_by_their_address() {
    let client = |value: &str| {
        let line = format!(r#"{{"ip_address":{value},"time":1,"endpoint":"/"}}"#);
        parse(line.as_bytes(), UserFrom::Ip, &Mapping::default()).map(|reading| reading.call.user)
    };
    for good in ["::ffff:192.0.2.10", "192.0.2.10:80", "192.0.2.10"] {
        assert_eq!(client(&format!("\"{good}\"")), Ok("192.0.2.10".parse().unwrap()), "{good}");
    }
    assert_eq!(client("\"192.0.2.1, 192.0.2.2\""), Err(LineError::Lookalike(Lookalike::Addresses)));
    assert_eq!(client("\"unix:\""), Err(LineError::NoUser));
    assert_eq!(client("\"<script>\""), Err(LineError::NoClient));
    assert_eq!(client("7"), Err(LineError::NoClient));
}

#[test]
fn bytes_that_are_not_utf8_are_replaced_but_in_the_users_name() {
    let line = |user: &[u8], agent: &[u8]| {
        let parts: [&[u8]; 5] =
            [br#"{"time":1,"endpoint":"/","user":""#, user, br#"","user_agent":""#, agent, br#""}"#];
        parse(&parts.concat(), UserFrom::Field, &Mapping::default())
    };
    let reading = line(b"cust-9", b"agent/\xff1").unwrap();
    assert_eq!(reading.call.user_agent.as_deref(), Some("agent/\u{fffd}1"));
    assert_eq!(reading.notes, [Note { field: "user_agent", remark: Remark::Replaced }]);
    assert_eq!(line(b"caf\xe9", b"a"), Err(LineError::UserNotUtf8));
    // A character that the client sent is its own.
    assert_eq!(line(b"cust-9", "a\u{fffd}".as_bytes()).unwrap().notes, []);
    assert!(line("a\u{fffd}".as_bytes(), b"a").is_ok());
}

proptest! {
    #[test]
    fn no_values_make_it_panic(
        key in "(user|time|endpoint|status_code|response_time_s|units)",
        value in "(-?[0-9]{1,30}(\\.[0-9]{1,5})?(e[0-9]{1,3})?|\"\\PC{0,20}\"|null|\\{\\}|\\[\\])"
    ) {
        let line = format!(r#"{{"{key}":{value},"user":"a","time":1,"endpoint":"/"}}"#);
        let _ = read(&line, "");
    }
}
