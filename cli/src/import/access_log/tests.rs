//! Access logs, line by line.

use std::fmt::Write as _;
use std::net::IpAddr;

use chrono::{DateTime, FixedOffset, Utc};
use ledger::UserRef;
use proptest::prelude::*;

use super::{Call, Layout, LineError, Note, Remark, UserFrom};

const LINE: &str = concat!(
    r#"83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a/b.png?x=1 HTTP/1.1" 200 203023 "#,
    r#""http://semicomplete.com/" "Mozilla/5.0 (Macintosh)""#
);

fn parse(line: &[u8], user_from: UserFrom) -> Result<Call, LineError> {
    super::parse(line, Layout::Combined, user_from).map(|reading| reading.call)
}

fn notes(line: &str) -> Vec<Note> {
    super::parse(line.as_bytes(), Layout::Combined, UserFrom::Ip).unwrap().notes
}

fn by_ip(line: &str) -> Result<Call, LineError> {
    parse(line.as_bytes(), UserFrom::Ip)
}

/// [`LINE`] with a part replaced.
fn with(part: &str, other: &str) -> String {
    assert_eq!(LINE.matches(part).count(), 1, "{part}");
    LINE.replace(part, other)
}

#[test]
fn a_usual_line_is_read() {
    let call = by_ip(LINE).unwrap();
    let expected = Call {
        user: "83.149.9.216".parse().unwrap(),
        time: "2015-05-17T10:05:03Z".parse().unwrap(),
        endpoint: "/a/b.png?x=1".into(),
        method: Some("GET".into()),
        status_code: Some(200),
        response_time_ms: None,
        ip_address: Some("83.149.9.216".parse().unwrap()),
        user_agent: Some("Mozilla/5.0 (Macintosh)".into()),
        request_size: None,
        response_size: Some(203_023),
        units: None,
    };
    assert_eq!(call, expected);
}

#[test]
fn times_carry_their_zone() {
    let time =
        |text: &str| by_ip(&with("17/May/2015:10:05:03 +0000", text)).map(|call| call.time.to_rfc3339());
    assert_eq!(time("10/Oct/2000:13:55:36 -0700").unwrap(), "2000-10-10T20:55:36+00:00");
    assert_eq!(time("01/Jan/2016:00:30:00 +0545").unwrap(), "2015-12-31T18:45:00+00:00");
    assert_eq!(time("30/Jun/2015:23:59:60 +0000").unwrap(), "2015-06-30T23:59:59+00:00");
    for bad in [
        "31/Feb/2015:10:05:03 +0000",
        "17/Mai/2015:10:05:03 +0000",
        "17/May/2015:24:05:03 +0000",
        "17/May/2015:10:05:03",
        " 7/May/2015:10:05:03 +0000",
        "17/May/2015 10:05:03 +0000",
        "17/05/2015:10:05:03 +00000",
        "2015-05-17T10:05:03+00:00",
        "",
    ] {
        let expected = LineError::Field { field: "time", expected: "like [10/Oct/2000:13:55:36 -0700]" };
        assert_eq!(time(bad), Err(expected), "{bad}");
    }
}

#[test]
fn escapes_of_both_servers_are_undone() {
    let agent = |text: &str| by_ip(&with("Mozilla/5.0 (Macintosh)", text)).unwrap().user_agent;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(agent(r#"say \"hi\" \\ there"#), some(r#"say "hi" \ there"#));
    assert_eq!(agent(r"say \x22hi\x22 \x5C there"), some(r#"say "hi" \ there"#));
    assert_eq!(agent(r"gr\xc3\xb6\xC3\x9Fe"), some("größe"));
    assert_eq!(agent(r"\xe4"), some("\u{fffd}"));
    assert_eq!(agent(r"a\tb\q\xzz\x4"), some("a\tb\\q\\xzz\\x4"));
    assert_eq!(agent("größe"), some("größe"));
    assert_eq!(agent("-"), None);
    assert_eq!(agent(""), None);
    assert_eq!(agent(r"-\x2d"), some("--"));
}

#[test]
fn request_lines_have_many_shapes() {
    let request = |text: &str| {
        by_ip(&with("GET /a/b.png?x=1 HTTP/1.1", text)).map(|call| (call.method.unwrap(), call.endpoint))
    };
    let read = |text| request(text).unwrap();
    let expect = |method: &str, target: &str| (method.to_owned(), target.to_owned());
    assert_eq!(read("GET /old"), expect("GET", "/old"));
    assert_eq!(read("GET / HTTP/2.0"), expect("GET", "/"));
    assert_eq!(read("OPTIONS * HTTP/1.0"), expect("OPTIONS", "*"));
    assert_eq!(read("GET /a b HTTP/1.1"), expect("GET", "/a b"));
    assert_eq!(read("GET /a b"), expect("GET", "/a b"));
    assert_eq!(read(r"GET /gr\xF6\xC3\x9F HTTP/1.1"), expect("GET", "/gr%F6%C3%9F"));
    assert_eq!(read("GET /ß HTTP/1.1"), expect("GET", "/%C3%9F"));
    assert_eq!(read("GET http://x/y HTTP/1.1"), expect("GET", "http://x/y"));
    for none in
        ["", "-", "GET", "GET ", " / HTTP/1.1", "GET HTTP/1.1", r"\x16\x03\x01\x02\x00", "GET  HTTP/1.1"]
    {
        assert!(matches!(request(none), Err(LineError::NoTarget(_))), "{none}: {:?}", request(none));
    }
}

#[test]
fn clients_are_addresses_or_names() {
    let client = |text: &str| by_ip(&with("83.149.9.216", text)).map(|call| (call.user, call.ip_address));
    let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let user = |text: &str| text.parse::<UserRef>().unwrap();
    assert_eq!(client("2001:DB8::1"), Ok((user("2001:db8::1"), address("2001:db8::1"))));
    assert_eq!(client("host.example.com"), Ok((user("host.example.com"), None)));
    assert_eq!(client("host.example.com."), Ok((user("host.example.com."), None)));
    for nobody in ["-", "\"\"", "unix:", "unix:/run/web.sock"] {
        assert_eq!(client(nobody), Err(LineError::NoUser), "{nobody}");
    }
    for bad in
        [&*"a".repeat(256), "010.1.1.1", "1.2.3", "fe80::1%eth0", "a..b", "häuser", "host/x", "host:80"]
    {
        assert!(matches!(client(bad), Err(LineError::Lookalike(_))), "{bad}: {:?}", client(bad));
    }
}

#[test]
fn ports_are_cut_and_mapped_addresses_are_their_ipv4() {
    let note = Note { field: "ip_address", remark: Remark::PortCut };
    for (text, expected, is_noted) in [
        ("192.0.2.10:61264", "192.0.2.10", true),
        ("[2001:db8::7]:61272", "2001:db8::7", true),
        ("[2001:db8::7]", "2001:db8::7", false),
        ("::ffff:192.0.2.10", "192.0.2.10", false),
        ("[::ffff:192.0.2.10]:80", "192.0.2.10", true),
        ("::ffff:192.0.2.10:4711", "192.0.2.10", true),
    ] {
        let line = with("83.149.9.216", text);
        let call = by_ip(&line).unwrap();
        assert_eq!(call.user, expected.parse().unwrap(), "{text}");
        assert_eq!(call.ip_address, Some(expected.parse().unwrap()), "{text}");
        assert_eq!(notes(&line), if is_noted { vec![note] } else { vec![] }, "{text}");
        let named = LINE.replacen(" - - [", &format!(" - {text} ["), 1);
        let user = parse(named.as_bytes(), UserFrom::User).map(|call| call.user);
        assert_eq!(user, Ok(expected.parse().unwrap()), "{text}");
    }
}

/// [`LINE`] with another beginning.
fn beginning(prefix: &str) -> String {
    LINE.replacen("83.149.9.216 - - [", &format!("{prefix} ["), 1)
}

#[test]
fn a_prefix_is_one_host_one_ident_and_the_user_or_nothing_is_charged() {
    let users = |prefix: &str, layout| {
        let user =
            |from| super::parse(beginning(prefix).as_bytes(), layout, from).map(|reading| reading.call.user);
        (user(UserFrom::Ip), user(UserFrom::User))
    };
    for (prefix, ip, user) in [
        ("192.0.2.10 - -", Some("192.0.2.10"), None),
        ("192.0.2.10 - \"\"", Some("192.0.2.10"), None),
        ("192.0.2.10 \"\" -", Some("192.0.2.10"), None),
        ("192.0.2.10 - ", Some("192.0.2.10"), None),
        ("192.0.2.10 - b.c.d@example.test", Some("192.0.2.10"), Some("b.c.d@example.test")),
        ("192.0.2.10 - Ada Lovelace", Some("192.0.2.10"), Some("Ada Lovelace")),
        ("192.0.2.10 frank ada", Some("192.0.2.10"), Some("ada")),
        ("host.example.test - ada", Some("host.example.test"), Some("ada")),
        ("- - ada", None, Some("ada")),
        ("unix: - ada", None, Some("ada")),
    ] {
        let expected = |name: Option<&str>| match name {
            Some(name) => Ok(name.parse::<UserRef>().unwrap()),
            None => Err(LineError::NoUser),
        };
        for (prefix, layout) in [
            (prefix.to_owned(), Layout::Combined),
            (prefix.to_owned(), Layout::Common),
            (format!("api.example.test:443 {prefix}"), Layout::VhostCombined),
            (format!("_ {prefix}"), Layout::VhostCombined),
            (format!("[2001:db8::1]:443 {prefix}"), Layout::VhostCombined),
        ] {
            assert_eq!(users(&prefix, layout), (expected(ip), expected(user)), "{prefix} as {layout:?}");
        }
    }
    for prefix in [
        "api.example.test:443 192.0.2.10 - -",
        "api.example.test:443 192.0.2.11:42918 - ada",
        "api.example.test 192.0.2.10 - -",
        "api.example.test client.example.test - -",
        "api.example.test 192.0.2.10 -",
        "192.0.2.44, 198.51.100.54, 127.0.0.1 - -",
        "192.0.2.44,198.51.100.54 - -",
        "192.0.2.44 198.51.100.54 - -",
        "unknown, 192.0.2.44 - -",
        "<133>Nov 30 06:00:01 web5 mds-acc 192.0.2.10 - -",
        "Nov 30 06:00:02 web5 nginx: 192.0.2.11 - -",
        "Nov 30 06:00:02 web5 nginx: 192.0.2.11 - ada",
        "2026-11-30T06:00:01.123456789Z stdout F 192.0.2.10 - -",
        "2026-11-30T06:00:01Z 192.0.2.10 - -",
        "web-1  | 192.0.2.10 - -",
        "[pod/web-1/nginx] 192.0.2.10 - -",
        "192.0.2.10 - - -",
        "192.0.2.10 - ada 192.0.2.11",
        "192.0.2.10 frank Ada Lovelace",
        "192.0.2.10 ada",
        "192.0.2.10",
        "",
    ] {
        for from in [UserFrom::Ip, UserFrom::User] {
            for layout in [Layout::Combined, Layout::Common] {
                let read = super::parse(beginning(prefix).as_bytes(), layout, from);
                assert!(matches!(read, Err(LineError::Lookalike(_))), "{prefix}: {read:?}");
            }
        }
    }
    for prefix in ["192.0.2.10 - -", "192.0.2.10 - alice b", "192.0.2.10 - -"] {
        let read = super::parse(beginning(prefix).as_bytes(), Layout::VhostCombined, UserFrom::User);
        assert_eq!(read, Err(LineError::Lookalike(super::Lookalike::NoVhost)), "{prefix}");
    }
}

#[test]
fn a_name_that_is_not_utf8_names_nobody_for_two_could_become_one() {
    for name in [&br"caf\xe9"[..], b"caf\xe9"] {
        let line = [&b"192.0.2.10 - "[..], name, &LINE.as_bytes()[LINE.find(" [").unwrap()..]].concat();
        assert_eq!(parse(&line, UserFrom::User), Err(LineError::UserNotUtf8));
        assert!(parse(&line, UserFrom::Ip).is_ok());
    }
}

#[test]
fn what_cannot_be_recorded_costs_its_field() {
    let left_out = |field, expected| Note { field, remark: Remark::LeftOut(expected) };
    let line = with("200 203023", "000 203023");
    assert_eq!(by_ip(&line).unwrap().status_code, None);
    assert_eq!(notes(&line), [left_out("status_code", "a number from 100 to 599")]);
    let line = with("203023", "99999999999999999999");
    assert_eq!(by_ip(&line).unwrap().response_size, None);
    assert_eq!(notes(&line), [left_out("response_size", "a number that fits 64 bits")]);
    let line = with("Mozilla/5.0 (Macintosh)", r"agent/\xff1");
    assert_eq!(by_ip(&line).unwrap().user_agent.as_deref(), Some("agent/\u{fffd}1"));
    assert_eq!(notes(&line), [Note { field: "user_agent", remark: Remark::Replaced }]);
    assert_eq!(notes(LINE), []);
}

#[test]
fn a_common_log_ends_with_its_bytes() {
    let common = LINE.split_once(" \"http").unwrap().0;
    let read =
        |line: &str| super::parse(line.as_bytes(), Layout::Common, UserFrom::Ip).map(|reading| reading.call);
    let expected = Call { user_agent: None, ..by_ip(LINE).unwrap() };
    assert_eq!(read(common), Ok(expected.clone()));
    assert_eq!(read(LINE), Ok(expected));
    assert_eq!(by_ip(common), Err(LineError::CutShort("referer")));
}

#[test]
fn remote_users_may_hold_anything_but_a_quote() {
    let named = |text: &str| {
        let line = LINE.replacen(" - - [", &format!(" - {text} ["), 1);
        parse(line.as_bytes(), UserFrom::User).map(|call| call.user)
    };
    let user = |text: &str| Ok(text.parse::<UserRef>().unwrap());
    assert_eq!(named("alice"), user("alice"));
    assert_eq!(named("alice b. [x]"), user("alice b. [x]"));
    assert_eq!(named("a [10/Oct/2000:13:55:36 -0700] GET"), user("a [10/Oct/2000:13:55:36 -0700] GET"));
    assert_eq!(named(r#"a\x22b\"c"#), user("a\"b\"c"));
    for nobody in ["-", "\"\"", ""] {
        assert_eq!(named(nobody), Err(LineError::NoUser), "{nobody}");
    }
    assert!(matches!(named("me"), Err(LineError::BadUser { .. })));
}

#[test]
fn dashes_and_numbers() {
    let numbers =
        |text: &str| by_ip(&with("200 203023", text)).map(|call| (call.status_code, call.response_size));
    assert_eq!(numbers("304 -"), Ok((Some(304), Some(0))));
    assert_eq!(numbers("- 5"), Ok((None, Some(5))));
    for bad in ["abc 5", "200 x", "+200 5", "200 -5", "200  5"] {
        assert!(numbers(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_cut_short_says_where() {
    let says = |line: &str| by_ip(line).unwrap_err().to_string();
    assert_eq!(says(&LINE[..LINE.len() - 1]), "the user agent has no closing quote");
    assert_eq!(says(LINE.split_once(" \"Mozilla").unwrap().0), "the line ends before its user agent");
    assert_eq!(says(LINE.split_once(" \"http").unwrap().0), "the line ends before its referer");
    assert_eq!(says(LINE.split_once(" 203023").unwrap().0), "the line ends before its number of bytes");
    assert_eq!(says(LINE.split_once(" HTTP/1.1").unwrap().0), "the request has no closing quote");
    assert_eq!(says("83.149.9.216 - - [17/May/2015:10:05:03 +0000]"), "the line ends before its request");
    assert_eq!(says("hello"), "the line ends before its client");
    assert_eq!(says(""), "the line ends before its client");
    for end in 0..LINE.len() {
        assert!(by_ip(&LINE[..end]).is_err(), "{}", &LINE[..end]);
    }
}

#[test]
fn fields_behind_the_user_agent_are_passed_over() {
    let expected = by_ip(LINE).unwrap();
    assert_eq!(by_ip(&format!("{LINE} \"10.0.0.1\" 0.012")).unwrap(), expected);
}

/// Writes a call as nginx does.
fn render(call: &Call, name: &str, zone: FixedOffset) -> String {
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |mut escaped, byte| {
            match byte {
                b'"' | b'\\' | 0..0x20 | 0x7f.. => write!(escaped, "\\x{byte:02X}").unwrap(),
                _ => escaped.push(char::from(byte)),
            }
            escaped
        })
    };
    let time = call.time.with_timezone(&zone).format("%d/%b/%Y:%H:%M:%S %z");
    format!(
        r#"{} - {} [{time}] "{} {} HTTP/1.1" {} {} "-" "{}""#,
        call.ip_address.unwrap(),
        escape(name),
        call.method.as_deref().unwrap(),
        escape(&call.endpoint),
        call.status_code.unwrap(),
        call.response_size.unwrap(),
        call.user_agent.as_deref().map_or("-".into(), escape),
    )
}

prop_compose! {
    fn any_call()(
        seconds in 946_684_800_i64..4_102_444_800,
        address in any::<IpAddr>(),
        endpoint in "/[!-~]{0,40}( [!-~]{0,9})?",
        method in "[A-Z]{1,10}",
        status in 100_u64..600,
        bytes in 0..=i64::MAX.unsigned_abs(),
        agent in proptest::option::of("\\PC{1,60}")
            .prop_filter("a dash is nothing", |agent| agent.as_deref() != Some("-")),
    ) -> Call {
        Call {
            user: address.to_canonical().to_string().parse().unwrap(),
            time: DateTime::<Utc>::from_timestamp(seconds, 0).unwrap(),
            endpoint,
            method: Some(method),
            status_code: Some(status),
            response_time_ms: None,
            ip_address: Some(address.to_canonical()),
            user_agent: agent,
            request_size: None,
            response_size: Some(bytes),
            units: None,
        }
    }
}

/// A user's name, but for those whose words could be more than a name.
fn any_name() -> impl Strategy<Value = String> {
    let is_plain = |word: &str| word != "-" && ledger::address::parse_client(word).is_none();
    "\\PC{1,30}".prop_filter("ambiguous", move |name| !name.contains(' ') || name.split(' ').all(is_plain))
}

proptest! {
    #[test]
    fn a_rendered_line_is_read_back(call in any_call(), name in any_name(), zone in -14 * 60..=14 * 60) {
        let zone = FixedOffset::east_opt(zone * 60).unwrap();
        let line = render(&call, &name, zone);
        prop_assert_eq!(parse(line.as_bytes(), UserFrom::Ip), Ok(call));
    }

    #[test]
    fn no_bytes_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        for layout in [Layout::Common, Layout::Combined, Layout::VhostCombined] {
            let _ = super::parse(&line, layout, UserFrom::User);
        }
    }

    #[test]
    fn no_beginning_makes_it_panic(prefix in "([-0-9a-f.:,\\[\\]\"<>|]{0,12} ?){0,6}") {
        for layout in [Layout::Common, Layout::Combined, Layout::VhostCombined] {
            let _ = super::parse(beginning(&prefix).as_bytes(), layout, UserFrom::User);
        }
    }

    #[test]
    fn no_edit_of_a_line_makes_it_panic(at in 0..LINE.len(), bytes in proptest::collection::vec(any::<u8>(), 0..4)) {
        let mut line = LINE.as_bytes().to_vec();
        line.splice(at..=at, bytes);
        let _ = parse(&line, UserFrom::Ip);
    }
}
