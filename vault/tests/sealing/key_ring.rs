//! Root keys by name: reading them, replacing them, and telling a changed one from the right one.

use crate::common::{TOKEN, Wrapped, root, secret, uuid, with_member, wrapped};
use vault::{
    DataKeyError, DekId, KeyCheck, KeyRing, KeyRingError, OsEntropy, RootKeyError, RootKeyId, TokenKind,
};

fn kid(name: &str) -> RootKeyId {
    name.parse().expect("a name")
}

fn hex(digit: &str) -> String {
    digit.repeat(64)
}

fn ring(config: (&str, &str, &str)) -> KeyRing {
    KeyRing::from_config(config.0, config.1, config.2).unwrap_or_else(|error| panic!("{error}"))
}

fn checks(ring: &KeyRing) -> Vec<(RootKeyId, KeyCheck)> {
    ring.checks().map(|(kid, check)| (kid.clone(), check)).collect()
}

#[test]
fn reads_the_current_key_and_the_previous_ones() {
    let ring = ring((&hex("a"), "k3", &format!("k1:{},k2:{}", hex("b"), hex("c"))));
    assert_eq!(ring.current(), &kid("k3"));
    assert_eq!(ring.checks().map(|(kid, _)| kid.as_str()).collect::<Vec<_>>(), ["k1", "k2", "k3"]);
}

#[test]
fn refuses_a_malformed_configuration_and_names_the_key() {
    let malformed = |source| KeyRingError::RootKey { kid: kid("k1"), source };
    let cases = [
        (String::new(), "k1", String::new(), malformed(RootKeyError::Missing)),
        ("a".repeat(63), "k1", String::new(), malformed(RootKeyError::Length { found: 63 })),
        ("x".repeat(64), "k1", String::new(), malformed(RootKeyError::NotHex)),
        (hex("a"), "k1", "k0".into(), KeyRingError::Previous { entry: 1 }),
        (hex("a"), "k1", format!("k0:{},", hex("b")), KeyRingError::Previous { entry: 2 }),
        (hex("a"), "k1", format!("k1:{}", hex("b")), KeyRingError::Duplicate { kid: kid("k1") }),
        (hex("a"), "k2", format!("k1:{}", "b".repeat(65)), malformed(RootKeyError::Length { found: 65 })),
        (hex("a"), "k2", "k1:".into(), malformed(RootKeyError::Missing)),
    ];
    for (key, name, previous, expected) in cases {
        assert_eq!(KeyRing::from_config(&key, name, &previous).err(), Some(expected), "{previous}");
    }
    for name in ["", "k 1", "k:1", "k,1", "ключ", &"k".repeat(33)] {
        assert!(matches!(KeyRing::from_config(&hex("a"), name, ""), Err(KeyRingError::Name(_))), "{name}");
    }
}

#[test]
fn the_check_value_depends_on_key_and_name_and_reads_back() {
    let one = checks(&ring((&hex("a"), "k1", "")))[0].1;
    assert_eq!(one.to_string().parse(), Ok(one));
    assert_eq!(one.to_string().len(), 16);
    assert_eq!(checks(&ring((&hex("A"), "k1", "")))[0].1, one);
    assert_ne!(checks(&ring((&hex("b"), "k1", "")))[0].1, one);
    assert_ne!(checks(&ring((&hex("a"), "k2", "")))[0].1, one);
    assert!("12".parse::<KeyCheck>().is_err());
}

#[test]
fn the_first_start_stores_the_check_value_and_the_next_one_holds_it() {
    let ring = ring((&hex("a"), "k1", ""));
    let first = ring.startup(&[], &[]).expect("nothing to contradict");
    assert_eq!(first.to_store, checks(&ring));
    let next = ring.startup(&first.to_store, &[(kid("k1"), 3)]).expect("the same key");
    assert!(next.to_store.is_empty() && next.missing.is_empty());
}

#[test]
fn a_changed_key_refuses_and_names_the_expected_one() {
    let right = ring((&hex("a"), "k1", ""));
    let wrong = ring((&hex("b"), "k1", ""));
    let error = wrong.startup(&checks(&right), &[]).expect_err("another key");
    let (expected, found) = (checks(&right)[0].1, checks(&wrong)[0].1);
    assert_eq!(error, KeyRingError::Changed { kid: kid("k1"), expected, found });
    assert!(error.to_string().contains("k1") && error.to_string().contains(&expected.to_string()));

    // A previous key is held to its check value too.
    let wrong_previous = ring((&hex("c"), "k2", &format!("k1:{}", hex("b"))));
    assert!(matches!(wrong_previous.startup(&checks(&right), &[]), Err(KeyRingError::Changed { .. })));

    // Another key under another name: nothing that is stored would open.
    let renamed = ring((&hex("b"), "k2", ""));
    let error = renamed.startup(&checks(&right), &[(kid("k1"), 7)]).expect_err("no key fits");
    assert_eq!(error, KeyRingError::Absent { kid: kid("k1"), data_keys: 7 });
    assert!(renamed.startup(&checks(&right), &[]).is_ok());
}

#[test]
fn a_dropped_key_is_missed_by_name_while_others_still_open() {
    let later = ring((&hex("b"), "k2", ""));
    let startup = later.startup(&[], &[(kid("k1"), 1), (kid("k2"), 9)]).expect("most of them open");
    assert_eq!(startup.missing, [(kid("k1"), 1)]);

    let Wrapped { user, sealed_key, .. } = wrapped();
    let error = later.open_data_key(user, &DekId::first(), &sealed_key).err().expect("its key is not here");
    assert_eq!(error, DataKeyError::UnknownKey { kid: kid("k1") });
    assert_eq!(error.to_string(), "the encryption key k1 is not configured");
}

#[test]
fn rotation_wraps_anew_and_leaves_what_is_sealed_alone() {
    let Wrapped { user, token_id, key, sealed_key, .. } = wrapped();
    let dek = DekId::first();
    let token =
        key.seal_token(TokenKind::Github, token_id, &secret(TOKEN), &OsEntropy).expect("random bytes");
    let both = ring((&hex("b"), "k2", &format!("k1:{}", hex("a"))));

    let anew = both.rewrap(user, &dek, &sealed_key, &OsEntropy).expect("opens").expect("was under k1");
    assert_eq!((anew.kid().as_str(), anew.dek().as_str()), ("k2", "d1"));
    assert!(both.rewrap(user, &dek, &anew, &OsEntropy).expect("opens").is_none());
    assert!(both.rewrap(uuid(9), &dek, &sealed_key, &OsEntropy).is_err());

    // Meanwhile either row opens; afterwards the old key is not needed.
    let new_only = ring((&hex("b"), "k2", ""));
    for key in [
        both.open_data_key(user, &dek, &sealed_key).expect("old row"),
        both.open_data_key(user, &dek, &anew).expect("new row"),
        new_only.open_data_key(user, &dek, &anew).expect("new row"),
    ] {
        assert_eq!(key.open_token(TokenKind::Github, token_id, &token).expect("opens").expose(), TOKEN);
        assert_eq!(key.fingerprint(TokenKind::Github, &secret(TOKEN)), {
            let again = both.open_data_key(user, &dek, &anew).expect("new row");
            again.fingerprint(TokenKind::Github, &secret(TOKEN))
        });
    }
}

#[test]
fn a_root_key_of_another_name_derives_another_key() {
    let Wrapped { user, sealed_key, .. } = wrapped();
    // The same 64 digits under the name k2, and a row whose kid was rewritten to match.
    let renamed = with_member(&sealed_key, "kid", "k2");
    let ring = KeyRing::new(kid("k2"), &root("a"));
    assert!(matches!(ring.open_data_key(user, &DekId::first(), &renamed), Err(DataKeyError::Open(_))));
}

#[test]
fn the_ledgers_own_key_is_no_users_whatever_the_user() {
    let ring = ring((&hex("a"), "k1", ""));
    let dek = DekId::first();
    let nil = uuid::Uuid::nil();
    let (ledgers, of_ledger) = ring.new_ledger_key(&dek, &OsEntropy).expect("random bytes");
    let (_, of_nil) = ring.new_data_key(nil, dek.clone(), &OsEntropy).expect("random bytes");
    assert!(matches!(ring.open_data_key(nil, &dek, &of_ledger), Err(DataKeyError::Open(_))));
    assert!(matches!(ring.open_ledger_key(&dek, &of_nil), Err(DataKeyError::Open(_))));

    // An earlier build wrapped it as the nil UUID's: wrapped anew it is the ledger's, and hashes as before.
    let anew = ring.rewrap_ledger_key(&dek, &of_nil, &OsEntropy).expect("it is taken");
    let again = ring.rewrap_ledger_key(&dek, &anew, &OsEntropy).expect("it is the ledger's");
    let hash = |sealed| ring.open_ledger_key(&dek, sealed).expect("it opens").external_id_hash("customer");
    assert_eq!(hash(&anew), hash(&again));
    assert_ne!(hash(&anew), ledgers.external_id_hash("customer"));
    let of_user = ring.new_data_key(uuid(1), dek.clone(), &OsEntropy).expect("random bytes").1;
    assert!(ring.rewrap_ledger_key(&dek, &of_user, &OsEntropy).is_err(), "a user's is not");
}

#[test]
fn a_role_key_is_of_its_root_and_name_alone() {
    let key = |root: &str, name: &str| {
        let ring = ring((&hex(root), name, ""));
        ring.current_role_key().expose().to_vec()
    };
    assert_eq!(key("a", "k1"), key("a", "k1"));
    assert_ne!(key("a", "k1"), key("b", "k1"));
    assert_ne!(key("a", "k1"), key("a", "k2"));
    let both = ring((&hex("b"), "k2", &format!("k1:{}", hex("a"))));
    let names: Vec<&str> = both.role_keys().map(|(kid, _)| kid.as_str()).collect();
    assert_eq!(names, ["k1", "k2"]);
    assert_eq!(both.current_role_key().expose(), key("b", "k2"));
}
