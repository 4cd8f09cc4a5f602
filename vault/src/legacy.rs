//! Rows of the older form `{"encrypted","iv"}`: plain AES-256-CBC under `ENCRYPTION_KEY`, hexadecimal, as a Node
//! `createCipheriv('aes-256-cbc')` writes them.
//!
//! That form proves nothing about its content: any change of a bit, or of the row's owner, goes unnoticed. So the
//! service never opens it. This is for `usage-ledger keys import-legacy` alone, which re-seals what it finds; it needs
//! the root key itself, which a [`KeyRing`](crate::KeyRing) does not hold.

use aes::Aes256Dec;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use crate::a256cbc_hs512::OpenError;
use crate::lower_hex;
use crate::root_key::RootKey;
use crate::secret::SecretText;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    encrypted: String,
    iv: String,
}

/// Opens a row of the older form, for the import command only.
///
/// A wrong key yields well-formed padding once in 256, so what comes out must also look like a token: not empty,
/// UTF-8, without white space or control characters. A sealed value whose tag and version were stripped is no such
/// row either: under the root key itself it opens to nothing.
pub fn open_for_import(root: &RootKey, json: &str) -> Result<SecretText, OpenError> {
    let row: Row = serde_json::from_str(json).map_err(|_| OpenError)?;
    let mut iv = [0; 16];
    lower_hex::decode(row.iv.as_bytes(), &mut iv)?;
    let mut plaintext = Zeroizing::new(vec![0; row.encrypted.len() / 2]);
    lower_hex::decode(row.encrypted.as_bytes(), &mut plaintext)?;
    let length = cbc::Decryptor::<Aes256Dec>::new(root.bytes().into(), (&iv).into())
        .decrypt_padded::<Pkcs7>(&mut plaintext)
        .map_err(|_| OpenError)?
        .len();
    plaintext.truncate(length);
    let text = String::from_utf8(std::mem::take(&mut *plaintext)).map_err(|error| {
        error.into_bytes().zeroize();
        OpenError
    })?;
    let token = SecretText::new(text);
    if crate::token::check_text(&token).is_err() {
        return Err(OpenError);
    }
    Ok(token)
}
