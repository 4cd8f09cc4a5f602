//! Properties of all tokens.

use std::collections::HashSet;

use crate::common::{TOKEN, Wrapped, root, secret, uuid, wrapped};
use proptest::prelude::*;
use vault::a256cbc_hs512::{open, seal};
use vault::{KeyRing, OsEntropy, Sealed, TokenKind, mask};

#[test]
fn ten_thousand_seals_of_one_token_repeat_no_iv_and_no_ciphertext() {
    let Wrapped { key, token_id, .. } = wrapped();
    let token = secret(TOKEN);
    let (mut ivs, mut ciphertexts) = (HashSet::new(), HashSet::new());
    for _ in 0..10_000 {
        let sealed = key.seal_token(TokenKind::Github, token_id, &token, &OsEntropy).expect("random bytes");
        let row: serde_json::Value = serde_json::from_str(&sealed.to_json()).expect("JSON");
        assert!(ivs.insert(row["iv"].to_string()));
        assert!(ciphertexts.insert(row["encrypted"].to_string()));
    }
}

#[test]
fn a_fingerprint_tells_a_users_tokens_apart_and_no_two_users_together() {
    let Wrapped { ring, key, .. } = wrapped();
    let one = key.fingerprint(TokenKind::Github, &secret(TOKEN));
    assert_eq!(key.fingerprint(TokenKind::Github, &secret(TOKEN)), one);
    assert_ne!(key.fingerprint(TokenKind::Openai, &secret(TOKEN)), one);
    assert_ne!(key.fingerprint(TokenKind::Github, &secret("another")), one);
    let (other, _) = ring.new_data_key(uuid(5), key.id().clone(), &OsEntropy).expect("random bytes");
    assert_ne!(other.fingerprint(TokenKind::Github, &secret(TOKEN)), one);
}

proptest! {
    #[test]
    fn the_codec_round_trips(
        key in proptest::array::uniform32(any::<u8>()),
        iv in proptest::array::uniform16(any::<u8>()),
        aad in proptest::collection::vec(any::<u8>(), 0..300),
        plaintext in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut full = [0; 64];
        full[..32].copy_from_slice(&key);
        full[32..].copy_from_slice(&iv.repeat(2));
        let (ciphertext, tag) = seal(&full, &iv, &aad, &plaintext);
        prop_assert_eq!(ciphertext.len(), (plaintext.len() / 16 + 1) * 16);
        let opened = open(&full, &iv, &aad, &ciphertext, &tag).expect("opens");
        prop_assert_eq!(opened.as_slice(), plaintext.as_slice());
    }

    #[test]
    fn a_token_round_trips_through_its_json(text in "\\PC{1,200}", kind in 0..4_usize, user: u128, id: u128) {
        let ring = KeyRing::new("k1".parse().expect("a name"), &root("c"));
        let dek = "d1".parse().expect("a name");
        let (user, id) = (uuid::Uuid::from_u128(user), uuid::Uuid::from_u128(id));
        let (key, sealed_key) = ring.new_data_key(user, dek, &OsEntropy).expect("random bytes");
        let kind = TokenKind::ALL[kind];
        let sealed = key.seal_token(kind, id, &secret(&text), &OsEntropy).expect("random bytes");
        let read = Sealed::from_json(&sealed.to_json()).expect("well-formed");
        let again = ring.open_data_key(user, key.id(), &sealed_key).expect("opens");
        let opened = again.open_token(kind, id, &read).expect("opens");
        prop_assert_eq!(opened.expose(), &text);
    }

    #[test]
    fn a_mask_shows_at_most_a_known_prefix_and_four_characters(text in "\\PC{0,80}") {
        let masked = mask(&secret(&text));
        if masked != "••••••••" {
            let (prefix, shown) = masked.split_once('…').expect("an ellipsis");
            prop_assert!(text.starts_with(prefix) && text.ends_with(shown));
            prop_assert!(shown.chars().count() <= 4 || text.contains('…'));
            prop_assert!(text.chars().count() >= prefix.chars().count() + 16);
        }
    }

    #[test]
    fn nothing_hostile_panics(json in "\\PC{0,200}") {
        let _ = Sealed::from_json(&json);
        let _ = vault::legacy::open_for_import(&root("d"), &json);
        for kind in TokenKind::ALL {
            let _ = kind.check(&secret(&json));
        }
    }
}
