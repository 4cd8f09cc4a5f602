//! Which keys of a document are taken, and the signatures of Project Wycheproof's `json_web_signature_test.json`.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode_header};
use serde_json::json;

use super::*;

const EC_X: &str = "04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY";
const EC_Y: &str = "UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw";
const RSA_N: &str = "kqGboBfAWttWPCA-0cGRgsY6SaYoIARt0B_PkaEcIq9HPYNdu9n6UuWHuuTHrjF_ZoQW97r5HaAorNvrMEGTGdxCHZdEtkHvNVVmrtxTBLiQ\
     CbCozXhFoIrVcr3qUBrdGnNn_M3jJi7Wg7p_-x62nS5gNG875oyheRkutHsQXikFZwsN3q_TsPNOVlCiHy8mxzaFTUQGm-X8UYexFyAivlDSjgDJLAZSWfxd\
     7k9Gxuwa3AUfQqQcVcegmgKGCaErQ3qQbh1x7WB6iopE3_-GZ8HMAVtR9AmrVscqYsnjhaCehfAI0iKKs8zXr8tISc0ORbaalrkk03H1ZrsEnDKEWQ";
/// `acceptsValid` of the groups es256 and rs256: head, payload, signature.
const VALID: [[&str; 3]; 2] = [
    [
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImtpZC1lYy1zaWduIn0",
        "Zm9v",
        "5cA0OHyMP7ezamUd5c9kV-FrGxdx4hbGXOdplQkutrqWrte5P-pAvsE3Ve6xSyU3YDQwUHjVVOtvcrEbbnZ8yA",
    ],
    [
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImtpZC1yc2Etc2lnbiJ9",
        "Zm9v",
        "HUwxI1-cZrZgcuOgBQ7G7NE-GrqK79l6GV1KT4DKXnSMFwC8pfZCzE7pmLE7mYpLCIvzC87yuOjuhT0uW5oe6aaAEtR978cm-q8dfly45flqMrd_\
         ifhi9GCsMlyi8dpQ42Ou1etZljFZuWjfyk8CN1c5DaHRwhqjScAPIFp6xmzKIRUJ_xdQfUSfSlujLaixtScU518EoNP4oo1v7E8RAz6ZO4g2N4Xq\
         s8OvSxYydcoTEg42QnLHe9JnXgI37Q5gSwinwaPsG3Ry56UYiLoL8mCUa74S51y02VsIgVmmGWgaXjM-i_lCiKQDBiBnvWlka4XhVuvd6ZWibM9c\
         bCPtPg",
    ],
];
/// `rejectsSymmetryConfusionAttacks` and `rejectsAttackerProvidedEmbeddedJwk`.
const ATTACKS: [&str; 2] = [
    "eyJhbGciOiJIUzI1NiIsImtpZCI6ImtpZC1lYy1zaWduIn0.Zm9v.TgWtz2FIRukBQ_mA5sgHa0Ybtgn7bl-YBPAi7Z0XdHU",
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImtpZC1lYy1zaWduIiwiandrIjp7Imt0eSI6IkVDIiwia2lkIjoia2lkLWVjLXNpZ24iLCJ1c2UiOiJzaWciLCJhbG\
     ciOiJFUzI1NiIsIngiOiJNZG5UWkRJaERKYmZBU2RGcWFtY3BPMkNoOUdOS0sybTBNUWxoNDAyU3BvIiwieSI6Ijdhdko0bHFfV3l4LW5MUERCUTJZcHl0\
     dUh5TWlvMDdCVXl2bDNqYUMtMVkiLCJjcnYiOiJQLTI1NiJ9fQ.Zm9v.4jmsollQD8ZxvySzXYnIEYA4fwaZi2ZbC0aI1J4LYmW2Bn31NhKdjms2N6o51D\
     ff5-InWXQF9m45VtTexl6yjg",
];

fn set(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
}

fn wycheproofs() -> KeySet {
    let ec = json!({"alg": "ES256", "use": "sig", "x": EC_X, "y": EC_Y, "crv": "P-256", "kid": "kid-ec-sign", "kty": "EC"});
    let rsa =
        json!({"alg": "RS256", "use": "sig", "n": RSA_N, "e": "AQAB", "kid": "kid-rsa-sign", "kty": "RSA"});
    set(&[ec, rsa]).unwrap()
}

/// Whether the signature is taken. The vectors' payload is no JSON, which is noticed only then.
fn is_signed(set: &KeySet, token: &str) -> bool {
    let Ok(header) = decode_header(token) else { return false };
    let Some(key) = set.find(header.kid.as_deref(), header.alg) else { return false };
    let decoded = jsonwebtoken::decode::<Value>(token, key, &Validation::new(header.alg));
    matches!(decoded.unwrap_err().kind(), ErrorKind::Json(_))
}

#[test]
fn signatures_are_taken_and_refused_as_wycheproof_says() {
    let set = wycheproofs();
    for [head, payload, signature] in VALID {
        assert!(is_signed(&set, &[head, payload, signature].join(".")), "acceptsValid");
        let modified = |text: &str| format!("X{}", &text[1..]);
        let none = "eyJhbGciOiJub25lIiwia2lkIjoia2lkLWVjLXNpZ24ifQ";
        let serialized =
            json!({"payload": payload, "signatures": [{"protected": head, "signature": signature}]});
        for (comment, token) in [
            ("rejectsModifiedSignature", [head, payload, &modified(signature)].join(".")),
            ("rejectsMissingSignature", [head, payload, ""].join(".")),
            ("rejectsMissingSignatureAndSeparator", [head, payload].join(".")),
            ("rejectsModifiedPayload", [head, "WG9v", signature].join(".")),
            ("rejectsMissingPayload", [head, "", signature].join(".")),
            ("rejectsMissingPayloadAndSeparator", [head, signature].join(".")),
            ("rejectsModifiedHeader", [&modified(head), payload, signature].join(".")),
            ("rejectsMissingHeader", ["", payload, signature].join(".")),
            ("rejectsMissingHeaderAndSeparator", [payload, signature].join(".")),
            ("rejectsMissingHeaderAndSignature", ["", payload, ""].join(".")),
            ("rejectsMissingHeaderSignatureAndSeparators", payload.to_owned()),
            ("rejectsEmptyString", String::new()),
            ("rejectsExtraEmptyComponent", [head, payload, signature, ""].join(".")),
            ("rejectsExtraComponent", [head, payload, signature, "foo"].join(".")),
            ("rejectsNoneAlgorithmAndMissingSignature", [none, payload, ""].join(".")),
            ("rejectsValidJsonSerialization", serialized.to_string()),
        ] {
            assert!(!is_signed(&set, &token), "{comment}: {token}");
        }
    }
    for attack in ATTACKS {
        assert!(!is_signed(&set, attack), "{attack}");
    }
}

#[test]
fn a_key_verifies_by_one_algorithm_and_for_its_own_use() {
    let ec = |members: Value| {
        let mut key = json!({"kty": "EC", "crv": "P-256", "x": EC_X, "y": EC_Y, "kid": "k"});
        for (name, value) in members.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    };
    let taken = |key: Value| set(&[key]).is_ok_and(|set| set.find(Some("k"), Algorithm::ES256).is_some());
    for good in [
        json!({}),
        json!({"use": "sig"}),
        json!({"alg": "ES256"}),
        json!({"key_ops": ["verify"], "ext": true}),
        json!({"use": "sig", "key_ops": ["sign", "verify"], "unheard_of": [1]}),
    ] {
        assert!(taken(ec(good.clone())), "{good}");
    }
    for bad in [
        json!({"use": "enc"}),
        json!({"use": "tls"}),
        json!({"key_ops": ["encrypt"]}),
        json!({"key_ops": []}),
        json!({"alg": "ES384"}),
        json!({"alg": "RS256"}),
        json!({"alg": "none"}),
        json!({"crv": "P-384"}),
        json!({"crv": "secp256k1"}),
        json!({"kty": "oct", "k": "c2VjcmV0"}),
        json!({"kid": "other"}),
        json!({"kid": null}),
    ] {
        assert!(!taken(ec(bad.clone())), "{bad}");
    }
    let short = json!({"kty": "RSA", "kid": "k", "e": "AQAB", "n": &RSA_N[..170]});
    assert!(matches!(set(&[short]), Err(KeySetError::NoKeys)), "a key of 1,024 bits");
    let many = vec![ec(json!({})); MAX_KEYS + 1];
    assert!(matches!(set(&many), Err(KeySetError::TooMany)));
    assert!(matches!(KeySet::parse(b"<html>"), Err(KeySetError::NotASet(_))));
}

#[test]
fn without_a_name_a_token_is_verified_where_there_is_no_choice() {
    let set = wycheproofs();
    assert!(set.find(None, Algorithm::ES256).is_some());
    assert!(set.find(Some("kid-rsa-sign"), Algorithm::ES256).is_none());
    assert!(set.find(None, Algorithm::EdDSA).is_none());
    let two = ["a", "b"].map(|kid| json!({"kty": "EC", "crv": "P-256", "x": EC_X, "y": EC_Y, "kid": kid}));
    assert!(self::set(&two).unwrap().find(None, Algorithm::ES256).is_none());
}
