//! Passwords as they are read, hashed and judged.

use proptest::prelude::*;

use super::*;

/// As cheap as it gets, which takes a test long enough.
fn cheap() -> Parameters {
    Parameters::new(8192, 1, 1).unwrap()
}

fn password(text: &str) -> Password {
    Password::new(text).unwrap()
}

const SALT: &[u8; SALT_BYTES] = b"0123456789abcdef";
const YES: Verified = Verified::Yes { rehash: false };

#[test]
fn a_hash_is_verified_and_names_its_parameters() {
    let made = hash(&password("correct horse"), SALT, &cheap()).unwrap();
    assert!(made.starts_with("$argon2id$v=19$m=8192,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$"), "{made}");
    let verified = |text: &str, today: &Parameters| verify(&password(text), &made, today).unwrap();
    assert_eq!(verified("correct horse", &cheap()), YES);
    assert_eq!(verified("correct horse", &Parameters::default()), Verified::Yes { rehash: true });
    for wrong in ["", "correct hors", "correct horse ", "Correct horse", "correct horse\0"] {
        assert_eq!(verified(wrong, &cheap()), Verified::No, "{wrong}");
    }
    let other = hash(&password("correct horse"), b"fedcba9876543210", &cheap()).unwrap();
    assert_ne!(made, other);
}

/// Made by OpenSSL's Argon2id, through Python's `cryptography`.
#[test]
fn a_hash_of_others_is_verified() {
    let phc =
        "$argon2id$v=19$m=9000,t=2,p=3$MDEyMzQ1Njc4OWFiY2RlZg$euaolOmpNATBIGLL5I3w+xS3qknrFwbg8YakYF5e4AQ";
    let today = "m=9000,t=2,p=3".parse().unwrap();
    assert_eq!(verify(&password("pässword"), phc, &today), Ok(YES));
    assert_eq!(verify(&password("password"), phc, &today), Ok(Verified::No));
}

#[test]
fn a_decoy_costs_the_same_and_is_nobody_s() {
    let decoy = decoy(&cheap());
    let real = hash(&password("correct horse"), SALT, &cheap()).unwrap();
    assert_eq!(decoy.len(), real.len());
    let parameters = |phc: &str| phc.split('$').take(4).collect::<Vec<_>>().join("$");
    assert_eq!(parameters(&decoy), parameters(&real));
    assert_eq!(verify(&password("correct horse"), &decoy, &cheap()), Ok(Verified::No));
    let usual = super::decoy(&Parameters::default());
    assert_eq!(Parameters::of(&PasswordHash::new(&usual).unwrap()), Some(Parameters::default()));
}

#[test]
fn what_is_no_hash_of_ours_is_an_error() {
    let made = hash(&password("correct horse"), SALT, &cheap()).unwrap();
    let short = made.rsplit_once('$').unwrap().0.to_owned();
    for bad in [
        String::new(),
        "correct horse".to_owned(),
        short.clone(),
        format!("{short}$AAAAAAAAAAAAAAAAAAAAAA"),
        made.replace("argon2id", "argon2i"),
        made.replace("v=19", "v=16"),
        made.replace("$v=19", ""),
        // More than we may give, less than protects.
        made.replace("m=8192", "m=4294967295"),
        made.replace("m=8192", "m=1024"),
        made.replace("t=1", "t=4294967295"),
        made.replace("p=1", "p=255"),
        made.replace("p=1", "p=1,q=1"),
    ] {
        assert_eq!(verify(&password("correct horse"), &bad, &cheap()), Err(HashError::Stored), "{bad}");
    }
}

#[test]
fn a_password_is_the_same_on_every_keyboard() {
    for (one, other) in [
        ("caf\u{e9} caf\u{e9}", "cafe\u{301} cafe\u{301}"),
        ("\u{ff50}assword", "password"),
        ("\u{212b}ngström", "\u{c5}ngström"),
        ("two\u{a0}words", "two words"),
    ] {
        assert_eq!(password(one).expose(), password(other).expose());
    }
    assert_ne!(password(" x").expose(), password("x").expose());
    assert_eq!(format!("{:?}", password("correct horse")), "Password(…)");
}

#[test]
fn a_password_is_bounded_after_it_is_normalised() {
    let most = "a".repeat(MAX_PASSWORD_BYTES);
    assert_eq!(password(&most).expose(), most);
    assert_eq!(password(&"\u{1d41a}".repeat(MAX_PASSWORD_BYTES)).expose(), most);
    for long in [
        format!("{most}a"),
        "\u{1d41a}".repeat(MAX_PASSWORD_BYTES + 1),
        // One letter that becomes 18.
        "\u{fdfa}".repeat(100),
        format!("a{}", "\u{301}".repeat(MAX_PASSWORD_BYTES)),
    ] {
        assert_eq!(Password::new(&long).err(), Some(TooLong), "{long:.20}");
    }
}

fn judge(text: &str, words: &[&str]) -> Option<Weak> {
    Policy::default().check(&password(text), words).err()
}

#[test]
fn strong_passwords_are_taken_whatever_they_are_made_of() {
    for good in [
        "correct horse battery staple",
        "krzxq pvbnw tmlgd",
        "9f86d081884c7d65",
        "пятьдесят зелёных крокодилов",
        "鯨は窓を食べないと言う人",
        &"many words go on and on ".repeat(40),
    ] {
        assert_eq!(judge(good, &["alice@example.org", "Alice Liddell"]), None, "{good}");
    }
}

#[test]
fn weak_passwords_are_refused_with_a_reason() {
    for (bad, expected) in [
        ("", Weak::Short),
        ("x9$Kq2z", Weak::Short),
        // Four characters of two halves each.
        ("e\u{301}e\u{301}e\u{301}e\u{301}", Weak::Short),
        ("password", Weak::WellKnown),
        ("Password1", Weak::WellKnown),
        ("12345678", Weak::WellKnown),
        ("iloveyou", Weak::WellKnown),
        ("P@ssw0rd", Weak::WellKnown),
        ("zaq12wsx", Weak::WellKnown),
        ("aaaaaaaaaaaa", Weak::Pattern),
        ("abcdefghijkl", Weak::Pattern),
        ("asdfghjkl;'", Weak::Pattern),
        ("24.12.1987", Weak::Date),
        ("encyclopaedia", Weak::Word),
    ] {
        assert_eq!(judge(bad, &[]), Some(expected), "{bad}");
    }
    assert!(judge(&"a".repeat(1000), &[]).is_some());
    assert!(judge("        ", &[]).is_some());
}

#[test]
fn what_a_user_is_called_is_no_password() {
    let words = ["jabberwock.outgrabe@brillig-toves.example", "Mome Rathsworth"];
    for bad in [
        "jabberwock.outgrabe@brillig-toves.example",
        "Jabberwock",
        "outgrabe1",
        "brillig-toves",
        "rathsworth",
    ] {
        assert!(judge(bad, &words).is_some(), "{bad}");
    }
    assert_eq!(judge("jabberwock.outgrabe", &[]), None);
    assert_eq!(judge("jabberwock.outgrabe", &words), Some(Weak::Personal));
    // Of many words, however long, some are looked for.
    let long = "x".repeat(100_000);
    let many: Vec<&str> = (0..1000).map(|_| long.as_str()).collect();
    assert_eq!(judge("correct horse battery staple", &many), None);
}

#[test]
fn a_reason_is_a_sentence_without_the_password() {
    for weak in
        [Weak::Short, Weak::WellKnown, Weak::Personal, Weak::Word, Weak::Pattern, Weak::Date, Weak::Guessable]
    {
        let text = weak.to_string();
        assert!(text.ends_with('.') && text.starts_with(char::is_uppercase), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_password_is_normalised_once(text in "\\PC{0,40}") {
        let once = password(&text);
        let again = password(once.expose());
        prop_assert_eq!(once.expose(), again.expose());
    }

    #[test]
    fn any_text_is_judged(text in "\\PC{0,300}", word in "\\PC{0,300}") {
        // Four bytes of a character at most: this is never too long.
        if let Ok(password) = Password::new(&text) {
            let _ = Policy::default().check(&password, &[&word]);
        }
    }
}
