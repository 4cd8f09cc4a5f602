//! Tokens that no identity provider signed, each wrong in one way: all are refused, with one body.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey};
use ledger::Clock;
use serde_json::{Value, json};
use testkit::World;

use super::signer::{ISSUER, Provider, Signer, claims};

/// A token whose head is taken word for word, and whose signature some key made by some algorithm.
fn forged(head: &Value, claims: &Value, key: &EncodingKey, algorithm: Algorithm) -> Result<String> {
    let message = format!("{}.{}", BASE64.encode(head.to_string()), BASE64.encode(claims.to_string()));
    Ok(format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm)?))
}

/// Heads and claims that are wrong under a signature of the provider's own key, or look right under none.
fn of_the_head(
    clock: &Clock,
    rsa: &Signer,
    ec: &Signer,
    attacker: &Signer,
    lure: &str,
) -> Result<Vec<(String, String)>> {
    let right = claims(clock, json!({}));
    let payload = BASE64.encode(right.to_string());
    let mut cases = Vec::new();
    for none in ["none", "None", "NONE", "nOnE"] {
        let head = BASE64.encode(json!({"alg": none, "kid": rsa.kid}).to_string());
        cases.push((format!("alg {none}"), format!("{head}.{payload}.")));
        cases.push((format!("alg {none}, no third part"), format!("{head}.{payload}")));
    }
    let modulus = BASE64.decode(rsa.public["n"].as_str().context("no modulus")?)?;
    let jwk = rsa.jwk(json!({"use": "sig", "alg": "RS256"})).to_string();
    for (what, public) in [("modulus", modulus.as_slice()), ("jwk", jwk.as_bytes())] {
        let key = EncodingKey::from_secret(public)?;
        for kid in [json!(rsa.kid), json!("k1"), Value::Null] {
            let head = json!({"alg": "HS256", "typ": "JWT", "kid": kid});
            let token = forged(&head, &right, &key, Algorithm::HS256)?;
            cases.push((format!("HS256 with the provider's {what}, kid {kid}"), token));
        }
    }
    let embedded = attacker.jwk(json!({"use": "sig", "kid": rsa.kid}));
    for (what, head) in [
        ("jwk", json!({"jwk": embedded})),
        ("jwk, no kid", json!({"jwk": embedded, "kid": null})),
        ("jku", json!({"jku": lure})),
        ("x5u", json!({"x5u": lure})),
        ("x5c", json!({"x5c": ["MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"]})),
    ] {
        let mut head = head;
        head["kid"] = head.get("kid").cloned().unwrap_or_else(|| json!(rsa.kid));
        cases.push((what.to_owned(), attacker.sign(head, &right)?));
    }
    for kid in ["../../../../dev/null", "' OR 1=1 --", "", "k1\u{0}", lure, &"k".repeat(4_000)] {
        cases.push((format!("kid {kid:.20}"), attacker.sign(json!({"kid": kid}), &right)?));
    }
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!("b64")] {
        let head = json!({"crit": crit, "b64": true});
        cases.push((format!("crit {crit}"), rsa.sign(head, &right)?));
    }
    cases.push(("b64 false".to_owned(), rsa.sign(json!({"b64": false, "crit": ["b64"]}), &right)?));
    cases.push(("the other key's name".to_owned(), rsa.sign(json!({"kid": ec.kid}), &right)?));
    cases.push(("a name that is a number".to_owned(), rsa.sign(json!({"kid": 7}), &right)?));
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS512] {
        let head = json!({"alg": algorithm, "kid": rsa.kid});
        cases.push((format!("{algorithm:?}"), forged(&head, &right, &rsa.key, algorithm)?));
    }
    Ok(cases)
}

fn of_the_claims(clock: &Clock, rsa: &Signer, attacker: &Signer) -> Result<Vec<(String, String)>> {
    let now = clock.now().timestamp();
    let mut cases = Vec::new();
    for changed in [
        json!({"exp": null}),
        json!({"exp": (now + 3600).to_string()}),
        json!({"exp": now - 31}),
        json!({"exp": [now + 3600]}),
        json!({"nbf": "0"}),
        json!({"nbf": now + 60}),
        json!({"iss": null}),
        json!({"iss": "https://elsewhere.example"}),
        json!({"iss": "usage-ledger"}),
        json!({"iss": format!("{ISSUER}/")}),
        json!({"iss": [ISSUER, "https://elsewhere.example"]}),
        json!({"aud": null}),
        json!({"aud": "another"}),
        json!({"aud": []}),
        json!({"aud": ["another", "Ledger"]}),
        json!({"sub": null}),
        json!({"sub": 7}),
        json!({"sub": "me"}),
    ] {
        cases.push((changed.to_string(), rsa.sign(json!({}), &claims(clock, changed))?));
    }
    let good = rsa.sign(json!({}), &claims(clock, json!({})))?;
    let (message, signature) = good.rsplit_once('.').context("three parts")?;
    let theirs = attacker.sign(json!({"kid": rsa.kid}), &claims(clock, json!({})))?;
    cases.push(("another's signature".to_owned(), theirs));
    cases.push(("an empty signature".to_owned(), format!("{message}.")));
    cases.push(("no signature".to_owned(), message.to_owned()));
    cases.push(("a short signature".to_owned(), format!("{message}.{}", &signature[..signature.len() - 4])));
    cases.push(("a fourth part".to_owned(), format!("{good}.{signature}")));
    cases.push(("the signature of zeros".to_owned(), format!("{message}.{}", BASE64.encode([0; 256]))));
    Ok(cases)
}

#[tokio::test]
async fn no_forgery_is_taken_and_all_are_refused_alike() -> Result<()> {
    let (provider, lure) = (Provider::start().await?, Provider::start().await?);
    let (rsa, ec, attacker) = (Signer::rsa("rsa")?, Signer::ec("ec")?, Signer::rsa("attacker")?);
    // A key that everybody knows is none, whoever publishes it.
    let shared = json!({"kty": "oct", "kid": "shared", "k": BASE64.encode([7; 32]), "alg": "HS256"});
    provider.publish(&[rsa.jwk(json!({"use": "sig", "alg": "RS256"})), ec.jwk(json!({})), shared]);
    lure.publish(&[attacker.jwk(json!({"use": "sig", "kid": rsa.kid}))]);
    let world = World::without_worker(&provider.settings()).await?;
    let clock = &world.env.clock;
    let mut cases = of_the_head(clock, &rsa, &ec, &attacker, &lure.url)?;
    cases.extend(of_the_claims(clock, &rsa, &attacker)?);
    let head = json!({"alg": "HS256", "kid": "shared"});
    let key = EncodingKey::from_secret(&[7; 32])?;
    cases.push((
        "a published secret".into(),
        forged(&head, &claims(clock, json!({})), &key, Algorithm::HS256)?,
    ));
    let good = rsa.sign(json!({}), &claims(clock, json!({})))?;
    let mut bodies = Vec::new();
    for (index, (what, token)) in cases.iter().enumerate() {
        let client = world.anonymous()?.with_token(token);
        // Each from an address of its own: thirty failures would be one too many.
        let address = format!("2001:db8:{index:x}::1");
        let answer = client.get("/api/usage/stats").header("X-Forwarded-For", &address).send().await?;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        let mut body = answer.json()?;
        body["request_id"] = Value::Null;
        bodies.push(body);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "bodies differ: {bodies:?}");
    world.anonymous()?.with_token(&good).get("/api/usage/stats").send().await?.expect(200)?;
    assert_eq!(lure.requests(), 0, "nobody is asked for a key on a token's word");
    Ok(())
}

#[tokio::test]
async fn a_credential_that_is_too_long_is_refused_before_it_is_read() -> Result<()> {
    let provider = Provider::start().await?;
    let world = World::without_worker(&provider.settings()).await?;
    let long = |bytes: usize| world.anonymous().map(|client| client.with_token("x".repeat(bytes)));
    assert_eq!(long(9_000)?.get("/api/usage/stats").send().await?.status, 401);
    assert_eq!(long(80_000)?.get("/api/usage/stats").send().await?.status, 431);
    Ok(())
}

#[tokio::test]
async fn keys_from_elsewhere_need_an_issuer_and_an_audience() -> Result<()> {
    let env = testkit::Env::start().await?;
    let whole = [
        ("JWT_JWKS_URL", "https://id.example/keys"),
        ("JWT_ISSUER", "https://id.example"),
        ("JWT_AUDIENCE", "ledger"),
    ];
    assert!(env.api_config(&whole).is_ok());
    for missing in ["JWT_ISSUER", "JWT_AUDIENCE"] {
        let settings: Vec<_> = whole.into_iter().filter(|(name, _)| *name != missing).collect();
        let error = env.api_config(&settings).err().context("taken")?.to_string();
        assert!(error.contains("JWT_JWKS_URL") && error.contains(missing), "{error}");
    }
    let clear = [("JWT_JWKS_URL", "http://id.example/keys"), whole[1], whole[2]];
    let error = env.api_config(&clear).err().context("taken")?.to_string();
    assert!(error.contains("use https"), "{error}");
    Ok(())
}
