//! Values that were changed, cut or moved do not open, and nobody learns why.

use crate::common::{TOKEN, Wrapped, root, secret, uuid, with_member, wrapped};
use vault::a256cbc_hs512::{open, seal};
use vault::{DataKeyError, DekId, OpenError, OsEntropy, Sealed, TokenKind};

#[test]
fn any_one_flipped_bit_is_refused() {
    let Wrapped { key, token_id, .. } = wrapped();
    let sealed =
        key.seal_token(TokenKind::Github, token_id, &secret(TOKEN), &OsEntropy).expect("random bytes");
    assert!(key.open_token(TokenKind::Github, token_id, &sealed).is_ok());
    let json: serde_json::Value = serde_json::from_str(&sealed.to_json()).expect("JSON");
    let mut flipped = 0;
    for member in ["encrypted", "iv", "tag"] {
        let bytes = hex::decode(json[member].as_str().expect("text")).expect("hexadecimal");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut row = json.clone();
            row[member] = hex::encode(changed).into();
            let row = Sealed::from_json(&row.to_string()).expect("well-formed");
            assert_eq!(
                key.open_token(TokenKind::Github, token_id, &row).err(),
                Some(OpenError),
                "{member}, bit {bit}"
            );
            flipped += 1;
        }
    }
    assert_eq!(flipped, (48 + 16 + 32) * 8);
}

#[test]
fn the_codec_refuses_every_flipped_bit_and_every_other_length() {
    let (key, iv, aad, plaintext) = ([7; 64], [9; 16], b"whose", b"0123456789abcdef0123");
    let (ciphertext, tag) = seal(&key, &iv, aad, plaintext);
    // The first half of the key authenticates; the second half never comes apart from it.
    for bit in 0..32 * 8 {
        let mut other = key;
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&other, &iv, aad, &ciphertext, &tag), Err(OpenError), "key, bit {bit}");
    }
    for bit in 0..aad.len() * 8 {
        let mut other = *aad;
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&key, &iv, &other, &ciphertext, &tag), Err(OpenError), "aad, bit {bit}");
    }
    for length in 0..tag.len() {
        assert_eq!(
            open(&key, &iv, aad, &ciphertext, &tag[..length]),
            Err(OpenError),
            "tag of {length} bytes"
        );
    }
    let longer = [tag.as_slice(), &[0]].concat();
    assert_eq!(open(&key, &iv, aad, &ciphertext, &longer), Err(OpenError));
    for length in 0..ciphertext.len() {
        assert_eq!(
            open(&key, &iv, aad, &ciphertext[..length], &tag),
            Err(OpenError),
            "{length} bytes of ciphertext"
        );
    }
    // A byte moved from the associated data to the IV's side changes the AAD's length, which the tag covers.
    assert_eq!(open(&key, &iv, &aad[..4], &ciphertext, &tag), Err(OpenError));
}

#[test]
fn a_right_tag_over_a_wrong_padding_is_the_same_error() {
    use hmac::{Hmac, KeyInit, Mac};

    let (key, iv) = ([7; 64], [9; 16]);
    for ciphertext in [vec![], vec![1; 15], vec![1; 16], vec![1; 17]] {
        let mac = Hmac::<sha2::Sha512>::new_from_slice(&key[..32]).expect("any length");
        let full =
            mac.chain_update(iv).chain_update(&ciphertext).chain_update([0; 8]).finalize().into_bytes();
        assert_eq!(
            open(&key, &iv, b"", &ciphertext, &full[..32]),
            Err(OpenError),
            "{} bytes",
            ciphertext.len()
        );
    }
}

#[test]
fn a_row_moved_to_another_user_kind_id_or_key_is_refused() {
    let Wrapped { ring, key, user, token_id, sealed_key } = wrapped();
    let sealed =
        key.seal_token(TokenKind::Github, token_id, &secret(TOKEN), &OsEntropy).expect("random bytes");
    assert!(key.open_token(TokenKind::Github, token_id, &sealed).is_ok());
    for kind in [TokenKind::Openai, TokenKind::Anthropic, TokenKind::Gemini] {
        assert_eq!(key.open_token(kind, token_id, &sealed).err(), Some(OpenError));
    }
    let other_id = uuid(3);
    assert_eq!(key.open_token(TokenKind::Github, other_id, &sealed).err(), Some(OpenError));

    // Another user's data key, and another of the same user.
    let other_user = uuid(4);
    let second: DekId = "d2".parse().expect("a name");
    for (user, dek) in [(other_user, DekId::first()), (user, DekId::first()), (user, second.clone())] {
        let (other, _) = ring.new_data_key(user, dek, &OsEntropy).expect("random bytes");
        assert_eq!(other.open_token(TokenKind::Github, token_id, &sealed).err(), Some(OpenError));
    }

    // The wrapped data key itself is bound to its user, its name and its root key.
    assert!(ring.open_data_key(user, &DekId::first(), &sealed_key).is_ok());
    let refused = Some(DataKeyError::Open(OpenError));
    assert_eq!(ring.open_data_key(other_user, &DekId::first(), &sealed_key).err(), refused);
    assert_eq!(ring.open_data_key(user, &second, &sealed_key).err(), refused);
    let renamed = with_member(&sealed_key, "dek", "d2");
    assert_eq!(ring.open_data_key(user, &second, &renamed).err(), refused);
    assert_eq!(ring.open_data_key(user, &DekId::first(), &renamed).err(), refused);

    // A token's row that names another data key than the one at hand, and a token passed off as a data key.
    let renamed = with_member(&sealed, "dek", "d2");
    assert_eq!(key.open_token(TokenKind::Github, token_id, &renamed).err(), Some(OpenError));
    assert_eq!(ring.open_data_key(user, &DekId::first(), &sealed).err(), refused);
}

#[test]
fn one_purpose_does_not_open_as_another() {
    let Wrapped { key, token_id, .. } = wrapped();
    let token =
        key.seal_token(TokenKind::Github, token_id, &secret(TOKEN), &OsEntropy).expect("random bytes");
    let personal = key.seal_personal(&token_id.to_string(), b"{}", &OsEntropy).expect("random bytes");
    assert_eq!(key.open_personal(&token_id.to_string(), &token).err(), Some(OpenError));
    assert_eq!(key.open_token(TokenKind::Github, token_id, &personal).err(), Some(OpenError));
    let factor = key.seal_factor(token_id, b"secret", &OsEntropy).expect("random bytes");
    for other in [&token, &personal] {
        assert_eq!(key.open_factor(token_id, other).err(), Some(OpenError));
    }
    assert_eq!(key.open_personal(&token_id.to_string(), &factor).err(), Some(OpenError));
    assert_eq!(key.open_factor(uuid(9), &factor).err(), Some(OpenError));
    assert_eq!(key.open_factor(token_id, &factor).expect("opens").as_slice(), b"secret");
    assert_eq!(key.open_personal("another event", &personal).err(), Some(OpenError));
    assert_eq!(key.open_personal(&token_id.to_string(), &personal).expect("opens").as_slice(), b"{}");
}

#[test]
fn a_stripped_row_is_no_older_form() {
    let root_key = root("a");
    let Wrapped { key, token_id, .. } = wrapped();
    let sealed =
        key.seal_token(TokenKind::Github, token_id, &secret(TOKEN), &OsEntropy).expect("random bytes");
    let row: serde_json::Value = serde_json::from_str(&sealed.to_json()).expect("JSON");
    let older = serde_json::json!({"encrypted": row["encrypted"], "iv": row["iv"]}).to_string();
    assert_eq!(Sealed::from_json(&older), Err(OpenError));
    assert_eq!(vault::legacy::open_for_import(&root_key, &older).err(), Some(OpenError));
    assert_eq!(vault::legacy::open_for_import(&root_key, &sealed.to_json()).err(), Some(OpenError));
}
