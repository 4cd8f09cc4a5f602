//! Other programs: what Node and openssl made opens here, and what this crate seals they open.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::common::secret;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;
use vault::a256cbc_hs512::seal;
use vault::{DekId, KeyRing, OsEntropy, RootKey, Sealed, TokenKind};

/// One user's sealed things, as `reference.mjs` writes and reads them.
#[derive(Serialize, Deserialize)]
struct Document {
    root_key: String,
    kid: String,
    user: Uuid,
    dek_id: String,
    key_check: String,
    role_key: String,
    external_id: String,
    external_id_hash: String,
    wrapped_ledger_dek: Sealed,
    wrapped_dek: Sealed,
    tokens: Vec<TokenRow>,
    personal: Vec<PersonalRow>,
    #[serde(skip_serializing)]
    legacy: Vec<LegacyRow>,
}

#[derive(Serialize, Deserialize)]
struct TokenRow {
    token_type: TokenKind,
    token: String,
    token_id: Uuid,
    fingerprint: String,
    sealed: Sealed,
}

#[derive(Serialize, Deserialize)]
struct PersonalRow {
    event_id: String,
    plaintext: String,
    sealed: Sealed,
}

#[derive(Deserialize)]
struct LegacyRow {
    token: String,
    row: Box<RawValue>,
}

/// Answer of `reference.mjs open`.
#[derive(Deserialize)]
struct Opened {
    key_check: String,
    role_key: String,
    external_id_hash: String,
    tokens: Vec<OpenedToken>,
    personal: Vec<String>,
}

#[derive(Deserialize)]
struct OpenedToken {
    token: String,
    fingerprint: String,
}

#[derive(Deserialize)]
struct CbcCase {
    by: String,
    key: String,
    iv: String,
    plaintext: String,
    ciphertext: String,
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(fixtures().join(name)).expect("a committed fixture")
}

fn document() -> Document {
    serde_json::from_str(&fixture("sealed.json")).expect("a document")
}

/// The program's output, or `None`, said aloud, where there is no such program.
fn run(program: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let started = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: {program} does not run here: {error}");
            return None;
        }
    };
    let mut stdin = child.stdin.take().expect("a pipe");
    // Both programs read their input to its end before they answer, so this cannot block on a full pipe.
    stdin.write_all(input).expect("the program reads its input");
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the program ends");
    assert!(status.success(), "{program}: {}", String::from_utf8_lossy(&stderr));
    Some(stdout)
}

fn node(args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let script = fixtures().join("reference.mjs");
    let all: Vec<&str> =
        std::iter::once(script.to_str().expect("UTF-8")).chain(args.iter().copied()).collect();
    run("node", &all, input)
}

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).expect("hexadecimal").try_into().expect("the right length")
}

#[test]
fn opens_what_node_sealed() {
    let doc = document();
    let ring = KeyRing::from_config(&doc.root_key, &doc.kid, "").expect("a key");
    let (_, check) = ring.checks().next().expect("one key");
    assert_eq!(check.to_string(), doc.key_check);
    let dek: DekId = doc.dek_id.parse().expect("a name");
    let key = ring.open_data_key(doc.user, &dek, &doc.wrapped_dek).expect("the data key opens");
    let ledger_key = ring.open_ledger_key(&dek, &doc.wrapped_ledger_dek).expect("the ledger's opens");
    assert_eq!(hex::encode(ledger_key.external_id_hash(&doc.external_id)), doc.external_id_hash);
    assert_eq!(hex::encode(ring.current_role_key().expose()), doc.role_key);
    assert_eq!((doc.tokens.len(), doc.personal.len()), (5, 2));
    for row in &doc.tokens {
        let token = key.open_token(row.token_type, row.token_id, &row.sealed).expect("the token opens");
        assert_eq!(token.expose(), row.token);
        assert_eq!(key.fingerprint(row.token_type, &token).to_string(), row.fingerprint);
    }
    for row in &doc.personal {
        let plaintext = key.open_personal(&row.event_id, &row.sealed).expect("the personal fields open");
        assert_eq!(plaintext.as_slice(), row.plaintext.as_bytes());
    }
}

#[test]
fn node_opens_what_is_sealed_here() {
    let mut doc = document();
    doc.root_key = RootKey::generate(&OsEntropy).expect("random bytes").to_hex().to_string();
    doc.kid = "2026-11.k_2".to_owned();
    let ring = KeyRing::from_config(&doc.root_key, &doc.kid, "").expect("a key");
    let dek: DekId = doc.dek_id.parse().expect("a name");
    let (ledger_key, wrapped) = ring.new_ledger_key(&dek, &OsEntropy).expect("random bytes");
    doc.wrapped_ledger_dek = wrapped;
    let (key, wrapped) = ring.new_data_key(doc.user, dek, &OsEntropy).expect("random bytes");
    doc.wrapped_dek = wrapped;
    for row in &mut doc.tokens {
        let token = secret(&row.token);
        row.sealed = key.seal_token(row.token_type, row.token_id, &token, &OsEntropy).expect("random bytes");
        row.fingerprint = key.fingerprint(row.token_type, &token).to_string();
    }
    for row in &mut doc.personal {
        row.sealed =
            key.seal_personal(&row.event_id, row.plaintext.as_bytes(), &OsEntropy).expect("random bytes");
    }
    let Some(answer) = node(&["open"], &serde_json::to_vec(&doc).expect("serialises")) else { return };
    let opened: Opened = serde_json::from_slice(&answer).expect("an answer");
    let (kid, check) = ring.checks().next().expect("one key");
    assert_eq!((kid.as_str(), check.to_string()), (doc.kid.as_str(), opened.key_check));
    assert_eq!(hex::encode(ring.current_role_key().expose()), opened.role_key);
    assert_eq!(hex::encode(ledger_key.external_id_hash(&doc.external_id)), opened.external_id_hash);
    assert_eq!((opened.tokens.len(), opened.personal.len()), (doc.tokens.len(), doc.personal.len()));
    for (row, opened) in doc.tokens.iter().zip(opened.tokens) {
        assert_eq!((&row.token, &row.fingerprint), (&opened.token, &opened.fingerprint));
    }
    for (row, opened) in doc.personal.iter().zip(opened.personal) {
        assert_eq!(row.plaintext, opened);
    }
}

#[test]
fn the_committed_fixtures_are_what_the_script_makes() {
    let Some(made) = node(&["print", "sealed.json"], b"") else { return };
    assert_eq!(String::from_utf8(made).expect("UTF-8"), fixture("sealed.json"));
}

#[test]
fn the_inner_cipher_equals_openssl_and_node() {
    let cases: Vec<CbcCase> = serde_json::from_str(&fixture("aes256cbc.json")).expect("cases");
    assert_eq!(cases.len(), 18);
    for case in cases {
        let mut key = [0; 64];
        key[32..].copy_from_slice(&bytes::<32>(&case.key));
        let plaintext = hex::decode(&case.plaintext).expect("hexadecimal");
        let (ciphertext, tag) = seal(&key, &bytes(&case.iv), b"", &plaintext);
        assert_eq!(hex::encode(&ciphertext), case.ciphertext, "{}, {} bytes", case.by, plaintext.len());
        let theirs = hex::decode(&case.ciphertext).expect("hexadecimal");
        let opened = vault::a256cbc_hs512::open(&key, &bytes(&case.iv), b"", &theirs, &tag).expect("opens");
        assert_eq!(opened.as_slice(), plaintext, "{}", case.by);
    }
}

#[test]
fn openssl_decrypts_the_inner_cipher() {
    let mut key = [0; 64];
    vault::Entropy::fill(&OsEntropy, &mut key).expect("random bytes");
    let iv = [0x5a; 16];
    for length in [0, 1, 16, 100] {
        let plaintext = vec![b'x'; length];
        let (ciphertext, _) = seal(&key, &iv, b"whose", &plaintext);
        let (key, iv) = (hex::encode(&key[32..]), hex::encode(iv));
        let args = ["enc", "-d", "-aes-256-cbc", "-K", &key, "-iv", &iv];
        let Some(opened) = run("openssl", &args, &ciphertext) else { return };
        assert_eq!(opened, plaintext);
    }
}

#[test]
fn rows_of_the_older_form_open_for_the_import_alone() {
    let doc = document();
    let root = RootKey::parse(&doc.root_key).expect("a key");
    assert_eq!(doc.legacy.len(), 2);
    for LegacyRow { token, row } in &doc.legacy {
        assert_eq!(vault::legacy::open_for_import(&root, row.get()).expect("opens").expose(), token);
        // What reads sealed values takes no such row.
        assert!(Sealed::from_json(row.get()).is_err());
        for changed in
            [row.get().replace("iv", "IV"), row.get().to_uppercase(), row.get().replace('{', "{\"v\":2,")]
        {
            assert!(vault::legacy::open_for_import(&root, &changed).is_err(), "{changed}");
        }
    }
    let wrong = RootKey::parse(&"1".repeat(64)).expect("a key");
    for LegacyRow { row, .. } in &doc.legacy {
        assert!(vault::legacy::open_for_import(&wrong, row.get()).is_err());
    }
}
