//! Which addresses are one, and which are none.

use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> Result<String, AddressError> {
    Address::parse(text).map(|address| address.canonical)
}

#[test]
fn an_address_has_one_canonical_form() {
    for (text, expected) in [
        ("alice@example.org", "alice@example.org"),
        ("Alice@Example.ORG", "alice@example.org"),
        ("ALICE@EXAMPLE.ORG", "alice@example.org"),
        // Other mailboxes elsewhere.
        ("a.l.i.c.e@example.org", "a.l.i.c.e@example.org"),
        ("alice+Ledger@example.org", "alice+ledger@example.org"),
        ("!#$%&'*+-/=?^_`{|}~@example.org", "!#$%&'*+-/=?^_`{|}~@example.org"),
        ("1@2.example", "1@2.example"),
        ("alice@localhost", "alice@localhost"),
        ("alice@a-b--c.example", "alice@a-b--c.example"),
        // Domains as DNS has them.
        ("alice@Bücher.example", "alice@xn--bcher-kva.example"),
        ("alice@bu\u{308}cher.example", "alice@xn--bcher-kva.example"),
        ("alice@XN--BCHER-KVA.example", "alice@xn--bcher-kva.example"),
        ("alice@faß.example", "alice@xn--fa-hia.example"),
        // Local parts in one case and one form.
        ("ÉLODIE@example.org", "élodie@example.org"),
        ("E\u{301}lodie@example.org", "élodie@example.org"),
        ("ΟΔΥΣΣΕΥΣ@example.org", "οδυσσευσ@example.org"),
        ("οδυσσευς@example.org", "οδυσσευσ@example.org"),
        ("用户@例子.example", "用户@xn--fsqu00a.example"),
        ("Почта@пример.example", "почта@xn--e1afmkfd.example"),
    ] {
        assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
        let address = Address::parse(text).unwrap();
        assert_eq!((address.written(), format!("{address:?}").as_str()), (text, "Address(…)"));
        assert_eq!(address, Address::parse(expected).unwrap());
    }
}

#[test]
fn what_looks_like_another_is_refused_or_stays_another() {
    use AddressError::{Domain, LookAlike};
    for (text, expected) in [
        // Long s, Kelvin, Ångström, ligature, full-width, circled, superscript, mathematical, Roman numeral.
        ("\u{17f}am@example.org", LookAlike),
        ("\u{212a}im@example.org", LookAlike),
        ("\u{212b}sa@example.org", LookAlike),
        ("\u{fb01}ona@example.org", LookAlike),
        ("\u{ff41}lice@example.org", LookAlike),
        ("\u{24d0}lice@example.org", LookAlike),
        ("alice\u{b2}@example.org", LookAlike),
        ("\u{1d41a}lice@example.org", LookAlike),
        ("\u{2170}an@example.org", LookAlike),
        ("alice\u{ff20}example.org@example.com", LookAlike),
        ("alice@example\u{ff0e}org", LookAlike),
        ("alice@example\u{3002}org", LookAlike),
        ("alice@\u{ff45}xample.org", LookAlike),
        ("alice@\u{212a}ernel.example", LookAlike),
        ("alice@\u{17f}ite.example", LookAlike),
        // Seen as nothing, or turning the text around.
        ("al\u{ad}ice@example.org", LookAlike),
        ("al\u{200b}ice@example.org", LookAlike),
        ("al\u{200d}ice@example.org", LookAlike),
        ("al\u{2060}ice@example.org", LookAlike),
        ("al\u{34f}ice@example.org", LookAlike),
        ("al\u{fe0f}ice@example.org", LookAlike),
        ("al\u{e0069}ice@example.org", LookAlike),
        ("\u{3164}@example.org", LookAlike),
        ("\u{feff}alice@example.org", LookAlike),
        ("\u{202e}alice@example.org", LookAlike),
        ("alice@exam\u{ad}ple.org", LookAlike),
        ("alice@exam\u{200d}ple.org", LookAlike),
        // Blanks, controls, pictures, no character at all.
        ("al\u{a0}ice@example.org", LookAlike),
        ("al\u{85}ice@example.org", LookAlike),
        ("\u{1f600}@example.org", LookAlike),
        ("\u{e000}@example.org", LookAlike),
        ("\u{378}@example.org", LookAlike),
        // A-labels that say ASCII, or another case.
        ("alice@xn--example-.org", Domain),
        ("alice@xn--a.org", Domain),
    ] {
        assert_eq!(canonical(text), Err(expected), "{}", text.escape_unicode());
    }
    for (one, other) in [
        // Dotless i, İ, Cyrillic а, and an accent: accounts of their own.
        ("al\u{131}ce@example.org", "alice@example.org"),
        ("AL\u{130}CE@example.org", "alice@example.org"),
        ("\u{430}lice@example.org", "alice@example.org"),
        ("alicé@example.org", "alice@example.org"),
        ("straße@example.org", "strasse@example.org"),
        ("alice@ex\u{430}mple.org", "alice@example.org"),
        ("alice@fass.example", "alice@faß.example"),
        ("alice@\u{131}ce.example", "alice@ice.example"),
    ] {
        assert_ne!(canonical(one).unwrap(), canonical(other).unwrap(), "{one} {other}");
    }
}

#[test]
fn what_is_no_address_is_refused() {
    use AddressError::{Domain, Form, TooLong};
    let domain = format!("{0}.{0}.{0}.example", "d".repeat(63));
    for (text, expected) in [
        ("", Form),
        ("@", Domain),
        ("alice", Form),
        ("alice@", Domain),
        ("@example.org", Form),
        ("alice@@example.org", Form),
        ("alice@example.org@example.com", Form),
        (" alice@example.org", Form),
        ("alice@example.org ", Domain),
        ("al ice@example.org", Form),
        ("alice@exam ple.org", Domain),
        ("alice\n@example.org", Form),
        ("alice@example.org\r\nBcc: bob@example.org", Form),
        ("alice\0@example.org", Form),
        ("alice@example.org\0", Domain),
        ("al\u{7f}ice@example.org", Form),
        (".alice@example.org", Form),
        ("alice.@example.org", Form),
        ("al..ice@example.org", Form),
        ("alice@example..org", Domain),
        ("alice@.example.org", Domain),
        ("alice@example.org.", Domain),
        ("alice@-example.org", Domain),
        ("alice@example-.org", Domain),
        ("alice@ex_ample.org", Domain),
        ("alice@example.org:25", Domain),
        // Quoted, commented, named, by number.
        ("\"alice\"@example.org", Form),
        ("\"al ice\"@example.org", Form),
        ("alice.\"x\"@example.org", Form),
        ("alice(home)@example.org", Form),
        ("alice@(home)example.org", Domain),
        ("Alice <alice@example.org>", Domain),
        ("<alice@example.org>", Domain),
        ("mailto:alice@example.org", Form),
        ("alice,bob@example.org", Form),
        ("alice@[127.0.0.1]", Form),
        ("alice@[IPv6:::1]", Form),
        ("alice@127.0.0.1", Domain),
        ("alice@2130706433", Domain),
        ("alice@0x7f000001", Domain),
        ("alice@example.0x1", Domain),
        (&format!("{}@example.org", "a".repeat(65)), TooLong),
        (&format!("{}@example.org", "é".repeat(33)), TooLong),
        (&format!("{}@{domain}", "a".repeat(64)), TooLong),
        (&format!("a@{}.example", "d".repeat(64)), Domain),
        (&"a@".repeat(100_000), TooLong),
        // Short as it is written, long as DNS has it.
        (&format!("a@{}.example", "ü".repeat(60)), Domain),
    ] {
        assert_eq!(canonical(text), Err(expected), "{text:.80}");
    }
    let longest = format!("{}@{domain}", "a".repeat(MAX_ADDRESS_BYTES - domain.len() - 1));
    assert_eq!(longest.len(), MAX_ADDRESS_BYTES);
    assert_eq!(canonical(&longest), Ok(longest));
}

/// Over all characters that there are: what becomes ASCII was ASCII of the other case, wherever it stands.
#[test]
fn nothing_but_case_becomes_ascii() {
    let mut taken = 0;
    for letter in ('\u{80}'..=char::MAX).filter(|letter| is_plain(*letter)) {
        for text in [format!("a{letter}z@example.org"), format!("alice@a{letter}z.example")] {
            let Ok(address) = canonical(&text) else { continue };
            taken += 1;
            let (local, domain) = address.split_once('@').unwrap();
            assert!(!local.is_ascii() || domain.contains("xn--"), "{}", letter.escape_unicode());
            assert_eq!(canonical(&address).as_ref(), Ok(&address), "{}", letter.escape_unicode());
        }
    }
    assert!(taken > 100_000, "{taken}");
}

proptest! {
    #[test]
    fn the_canonical_form_is_its_own(local in "\\PC{1,12}", domain in "[a-zA-Zäß0-9-]{1,8}(\\.[a-zA-Zé]{2,6}){0,2}") {
        if let Ok(address) = Address::parse(&format!("{local}@{domain}")) {
            let again = Address::parse(address.canonical()).unwrap();
            prop_assert_eq!(again.canonical(), address.canonical());
            prop_assert!(address.canonical().len() <= MAX_ADDRESS_BYTES);
            prop_assert!(!address.canonical().contains(char::is_whitespace));
            prop_assert!(!address.canonical().contains(char::is_control));
            prop_assert_eq!(address.canonical().matches('@').count(), 1);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}@\\PC{0,40}") {
        let _ = Address::parse(&text);
    }

    #[test]
    fn case_makes_no_other_account(local in "[a-z]{1,8}", domain in "[a-z]{1,8}\\.[a-z]{2,4}") {
        let address = format!("{local}@{domain}");
        prop_assert_eq!(canonical(&address.to_uppercase()), Ok(address));
    }
}
