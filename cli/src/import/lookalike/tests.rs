//! Refusals name what a line looks like, and what they advise works.

use crate::import::access_log::Layout;
use crate::import::call::{LineError, UserFrom};
use crate::import::read::{Format, Manner};

use super::Lookalike;

const REST: &str = r#" - - [30/Nov/2026:06:00:01 +0000] "GET /api/analyze HTTP/1.1" 200 8 "-" "node""#;

fn manner(layout: Layout, skip_prefix: Option<&str>) -> Manner {
    let skip_prefix = skip_prefix.map(|text| regex::bytes::Regex::new(text).unwrap());
    Manner { format: Format::AccessLog(layout), user_from: UserFrom::Ip, skip_prefix, take_last_line: false }
}

#[test]
fn a_line_of_another_form_is_named_and_the_advice_reads_it() {
    for (prefix, form) in [
        ("api.example.test:443 192.0.2.10", Lookalike::Vhost),
        ("api.example.test:443 192.0.2.10:4711", Lookalike::Vhost),
        ("api.example.test 192.0.2.10", Lookalike::Vhost),
        ("_ 192.0.2.10", Lookalike::Vhost),
        ("192.0.2.44, 198.51.100.54, 127.0.0.1", Lookalike::Addresses),
        ("192.0.2.44,127.0.0.1", Lookalike::Addresses),
        ("192.0.2.44 127.0.0.1", Lookalike::Addresses),
        ("[2001:db8::7]:80 127.0.0.1", Lookalike::Addresses),
        ("2001:db8::7, 127.0.0.1", Lookalike::Addresses),
        ("unknown, 127.0.0.1", Lookalike::Addresses),
        ("<133>Nov 30 06:00:01 web5 mds-acc 192.0.2.10", Lookalike::Syslog),
        ("Nov 30 06:00:02 web5 nginx: 192.0.2.10", Lookalike::Syslog),
        ("Nov  3 06:00:02 web5 nginx[12]: 192.0.2.10", Lookalike::Syslog),
        ("2026-11-30T06:00:01+00:00 web5 nginx[12]: 192.0.2.10", Lookalike::SyslogIso),
        ("<133>2026-11-30T06:00:01.123Z web5 nginx: 192.0.2.10", Lookalike::SyslogIso),
        ("<165>1 2026-11-30T06:00:01Z web5 nginx 12 access - 192.0.2.10", Lookalike::SyslogNew),
        ("<165>1 2026-11-30T06:00:01Z web5 nginx - - [a@1 b=\"c d\"] 192.0.2.10", Lookalike::SyslogNew),
        ("2026-11-30T06:00:01.123456789Z stdout F 192.0.2.10", Lookalike::Cri),
        ("2026-11-30T06:00:01.123456789+01:00 stderr P 192.0.2.10", Lookalike::Cri),
        ("2026-11-30T06:00:01.123456789Z 192.0.2.10", Lookalike::Timestamp),
        ("web-1  | 192.0.2.10", Lookalike::Compose),
        ("[pod/web-1/nginx] 192.0.2.10", Lookalike::Pod),
    ] {
        let line = format!("{prefix}{REST}");
        let error = manner(Layout::Combined, None).parse(line.as_bytes()).unwrap_err();
        assert_eq!(error, LineError::Lookalike(form), "{line}");
        let Some(advice) = form.skipped_by() else { continue };
        assert!(error.to_string().contains(advice), "{error}");
        let read = manner(Layout::Combined, Some(advice)).parse(line.as_bytes());
        let user = read.map(|reading| reading.call.user);
        assert_eq!(user, Ok("192.0.2.10".parse().unwrap()), "{line} without {advice}");
        if form == Lookalike::Vhost {
            let read = manner(Layout::VhostCombined, None).parse(line.as_bytes());
            assert_eq!(read.map(|reading| reading.call.user), Ok("192.0.2.10".parse().unwrap()), "{line}");
        }
        // Where a line has no such prefix, nothing of it is cut.
        let plain = format!("192.0.2.10{REST}");
        let plain = manner(Layout::Combined, Some(advice)).parse(plain.as_bytes());
        assert_eq!(plain.is_ok(), form != Lookalike::Vhost, "{plain:?}");
    }
}

#[test]
fn other_lines_are_named_too() {
    for (line, form) in [
        (
            r#"{"log":"192.0.2.10 - - \n","stream":"stdout","time":"2026-11-30T06:00:01Z"}"#,
            Lookalike::DockerJson,
        ),
        (r#"{"time":"2026-11-30T06:00:01Z"}"#, Lookalike::Json),
        ("#Fields: date time c-ip", Lookalike::W3c),
        ("2026/11/30 06:00:01 [error] 7#7: *1 open() failed", Lookalike::ErrorLog),
        ("[Mon Nov 30 06:00:01.123 2026] [core:error] x", Lookalike::ErrorLog),
    ] {
        let error = manner(Layout::Combined, None).parse(line.as_bytes()).unwrap_err();
        assert_eq!(error, LineError::Lookalike(form), "{line}");
    }
    assert_eq!(Lookalike::known(b"hello"), None);
    assert_eq!(Lookalike::known(b"api.example.test 2001:db8::1 - - ["), Some(Lookalike::Vhost));
    assert_eq!(Lookalike::known(format!("192.0.2.10{REST}").as_bytes()), None);
}
