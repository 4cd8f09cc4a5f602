//! Codes of RFC 6238, and the picture that an app reads.

use proptest::prelude::*;
use rqrr::PreparedImage;

use super::*;

/// The secret of RFC 6238, appendix B.
const SECRET: [u8; TOTP_SECRET_BYTES] = *b"12345678901234567890";
/// Before the first step that there is.
const NONE: i64 = -1;

fn totp() -> Totp {
    Totp::new(SECRET)
}

fn code(at: i64) -> String {
    totp().0.generate(u64::try_from(at).unwrap()).to_string()
}

/// The appendix gives eight digits: six are their last ones.
#[test]
fn the_codes_are_those_of_rfc_6238() {
    for (now, digits, step) in [
        (59, "94287082", 0x1),
        (1_111_111_109, "07081804", 0x0235_23ec),
        (1_111_111_111, "14050471", 0x0235_23ed),
        (1_234_567_890, "89005924", 0x0273_ef07),
        (2_000_000_000, "69279037", 0x03f9_40aa),
        (20_000_000_000, "65353130", 0x27bc_86aa),
    ] {
        assert_eq!(totp().matched_step(&digits[2..], now, NONE), Some(step), "{now}");
    }
}

#[test]
fn a_code_is_taken_for_two_steps_and_once() {
    const NOW: i64 = 1_111_111_111;
    let step = NOW / 30;
    let begin = step * 30;
    for (at, now, last, expected) in [
        (begin, begin, NONE, Some(step)),
        (begin, begin + 29, step - 1, Some(step)),
        (begin, begin + 30, step - 1, Some(step)),
        (begin, begin + 59, step - 1, Some(step)),
        // Too late, and too early.
        (begin, begin + 60, step - 1, None),
        (begin, begin - 1, NONE, None),
        // Taken already, or one after it was.
        (begin, begin, step, None),
        (begin, begin + 30, step, None),
        (begin, begin, step + 1, None),
        (begin, begin, i64::MAX, None),
        // The next one is another.
        (begin + 30, begin + 30, step, Some(step + 1)),
    ] {
        assert_eq!(totp().matched_step(&code(at), now, last), expected, "{at} {now} {last}");
    }
}

#[test]
fn time_has_ends() {
    assert_eq!(totp().matched_step(&code(0), 0, NONE), Some(0));
    assert_eq!(totp().matched_step(&code(0), 29, NONE), Some(0));
    assert_eq!(totp().matched_step(&code(0), -1, NONE), None);
    assert_eq!(totp().matched_step(&code(0), i64::MIN, i64::MIN), None);
    assert_eq!(totp().matched_step(&code(i64::MAX), i64::MAX, NONE), Some(i64::MAX / 30));
}

#[test]
fn what_is_no_code_is_none() {
    let good = code(59);
    for bad in [
        String::new(),
        good[1..].to_owned(),
        format!("{good}0"),
        format!(" {good}"),
        format!("+{}", &good[1..]),
        format!("{} {}", &good[..3], &good[3..]),
        "２８７０８２".to_owned(),
        "9".repeat(100_000),
    ] {
        assert_eq!(totp().matched_step(&bad, 59, NONE), None, "{bad:.20}");
    }
    assert_eq!(totp().matched_step(&good, 59, NONE), Some(1));
}

#[test]
fn an_app_finds_what_it_needs() {
    let url = totp().otpauth_url("usage-ledger", "alice+x@example.org");
    let (path, query) = url.split_once('?').unwrap();
    assert!(path.starts_with("otpauth://totp/usage-ledger:alice"), "{path}");
    assert!(!query.contains('/'), "{query}");
    let read = totp_rs::Totp::from_url(&url).unwrap();
    assert_eq!(read.secret().as_bytes(), SECRET);
    assert_eq!((read.issuer(), read.account_name()), (Some("usage-ledger"), "alice+x@example.org"));
    assert_eq!((read.digits(), read.step(), read.algorithm()), (6, 30, Algorithm::SHA1));
    assert!(url.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"), "{url}");
    assert_eq!(format!("{:?}", totp()), "Totp(…)");
}

/// Pixels of a module's side, for the picture to be read again.
const SCALE: usize = 4;

/// The picture, read again by another library.
fn read_back(svg: &str) -> String {
    let side: usize = svg.split("viewBox=\"0 0 ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let mut dark = vec![false; side * side];
    let path = svg.split("fill=\"#000\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    for run in path.split('M').skip(1) {
        let (x, rest) = run.split_once(' ').unwrap();
        let (y, rest) = rest.split_once('h').unwrap();
        let (length, _) = rest.split_once('v').unwrap();
        let [x, y, length] = [x, y, length].map(|number| number.parse::<usize>().unwrap());
        assert!(x >= QUIET && y >= QUIET && x + length + QUIET <= side && y + QUIET < side);
        dark[y * side + x..][..length].fill(true);
    }
    let mut image = PreparedImage::prepare_from_greyscale(side * SCALE, side * SCALE, |x, y| {
        if dark[y / SCALE * side + x / SCALE] { 0 } else { 255 }
    });
    let grids = image.detect_grids();
    grids.first().unwrap().decode().unwrap().1
}

#[test]
fn the_picture_holds_the_text_and_nothing_that_runs() {
    let longest = totp().otpauth_url(&"ü".repeat(1000), &"語".repeat(1000));
    for text in ["a", &totp().otpauth_url("usage-ledger", "alice@example.org"), &longest] {
        let svg = qr_svg(text).unwrap();
        assert_eq!(read_back(&svg), *text);
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>"));
        for never in ["script", "style", "href", "<image", "&", " width=", "on"] {
            assert!(!svg.contains(never), "{never}: {svg:.200}");
        }
    }
    assert_eq!(qr_svg(&"a".repeat(3000)), Err(TooLongForQr));
}

proptest! {
    #[test]
    fn names_do_not_leave_their_place(issuer in ".{0,120}", account in ".{0,120}") {
        let url = totp().otpauth_url(&issuer, &account);
        prop_assert!(url.is_ascii());
        prop_assert!(qr_svg(&url).is_ok());
        let read = totp_rs::Totp::from_url_unchecked(&url).unwrap();
        prop_assert_eq!(read.secret().as_bytes(), SECRET);
        prop_assert_eq!((read.digits(), read.step()), (6, 30));
    }

    #[test]
    fn no_step_is_taken_twice(start in 0_i64..4_000_000_000, waits in prop::collection::vec(0_i64..70, 1..20)) {
        let (mut now, mut last) = (start, NONE);
        for wait in waits {
            now += wait;
            if let Some(step) = totp().matched_step(&code(now), now, last) {
                prop_assert!(step > last && step == now / 30);
                last = step;
            }
            prop_assert_eq!(totp().matched_step(&code(now), now, last), None);
        }
    }
}
