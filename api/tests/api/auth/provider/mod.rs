//! Tokens that an identity provider signed: whose are taken, for how long, and what they may do.

mod forgeries;
mod signer;

use anyhow::{Context, Result};
use chrono::TimeDelta;
use serde_json::{Value, json};
use testkit::{Client, Role, Token, World};
use tokio::net::TcpListener;

use self::signer::{AUDIENCE, ISSUER, Provider, Signer, claims};
use crate::answers::assert_problem;

/// Status of a call with this token.
async fn status(client: &Client, token: &str) -> Result<u16> {
    Ok(client.with_token(token).get("/api/usage/stats").send().await?.status.as_u16())
}

#[tokio::test]
async fn the_documents_and_tokens_of_four_providers_are_understood() -> Result<()> {
    let (rsa, other, ec) = (Signer::rsa("k-1")?, Signer::rsa("k-2")?, Signer::ec("k-3")?);
    let certificate =
        json!({"x5t": "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", "x5c": ["MIIDBTCCAe2gAwIBAgIJ"]});
    let with = |mut members: Value| {
        members["x5t"] = certificate["x5t"].clone();
        members["x5c"] = certificate["x5c"].clone();
        members
    };
    let sig = json!({"use": "sig", "alg": "RS256"});
    let auth0 = vec![rsa.jwk(with(sig.clone())), other.jwk(with(sig.clone()))];
    let clerk = vec![rsa.jwk(sig.clone())];
    let keycloak = vec![other.jwk(with(json!({"use": "enc", "alg": "RSA-OAEP"}))), rsa.jwk(with(sig))];
    let supabase = vec![ec.jwk(json!({"alg": "ES256", "ext": true, "key_ops": ["verify"]}))];
    let uuid = "8d2f1c9e-6c1a-4b0e-9d58-0f2d7c1c7a11";
    let cases = [
        ("auth0", auth0, &rsa, json!({"sub": "auth0|5f7c8ec7", "aud": [AUDIENCE, "https://t/userinfo"]})),
        ("clerk", clerk, &rsa, json!({"sub": "user_2abcDEF", "azp": "https://app.example", "sid": "sess_1"})),
        ("keycloak", keycloak, &rsa, json!({"sub": uuid, "typ": "Bearer", "aud": ["account", AUDIENCE]})),
        ("supabase", supabase, &ec, json!({"sub": uuid, "role": "authenticated", "is_anonymous": false})),
    ];
    for (name, keys, signer, own) in cases {
        let provider = Provider::start().await?;
        provider.publish(&keys);
        let world = World::without_worker(&provider.settings()).await?;
        let subject = own["sub"].as_str().context("no subject")?.to_owned();
        let token = signer.sign(json!({"typ": "JWT"}), &claims(&world.env.clock, own))?;
        let user = world.anonymous()?.with_token(token);
        let export = user.get("/api/users/me/export").send().await?;
        assert!(export.status == 200 && export.text().contains(&subject), "{name}: {}", export.text());
        // The host's own tokens and those of roles go on.
        let host = Token::new(&world.env.clock, "hosts", Role::User);
        let host = host.claim("iss", json!(ISSUER)).claim("aud", json!(AUDIENCE)).mint();
        assert_eq!(status(&world.anonymous()?, &host).await?, 200, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn whatever_a_provider_claims_it_is_a_user() -> Result<()> {
    let provider = Provider::start().await?;
    let signer = Signer::ed("ed-1")?;
    provider.publish(&[signer.jwk(json!({"use": "sig", "alg": "EdDSA"}))]);
    let world = World::without_worker(&provider.settings()).await?;
    let own =
        json!({"role": "admin", "roles": ["admin"], "scope": "admin", "realm_access": {"roles": ["admin"]}});
    let user = world.anonymous()?.with_token(signer.sign(json!({}), &claims(&world.env.clock, own))?);
    user.get("/api/usage/stats").send().await?.expect(200)?;
    let refused = user.put("/api/users/attacker").json(&json!({})).send().await?;
    assert_problem(&refused, 403, "forbidden");
    assert_problem(&user.get("/api/usage/stats?user_id=bob").send().await?, 404, "not_found");
    Ok(())
}

#[tokio::test]
async fn a_new_key_is_asked_for_once_a_minute_and_a_removed_one_ends() -> Result<()> {
    let provider = Provider::start().await?;
    let (first, second) = (Signer::ec("first")?, Signer::ec("second")?);
    let jwk = |signer: &Signer| signer.jwk(json!({"use": "sig"}));
    provider.publish(&[jwk(&first)]);
    let world = World::without_worker(&provider.settings()).await?;
    let (clock, anonymous) = (world.env.clock.clone(), world.anonymous()?);
    let sign = |signer: &Signer| signer.sign(json!({}), &claims(&clock, json!({})));
    let (old, new) = (sign(&first)?, sign(&second)?);
    for _ in 0..3 {
        assert_eq!(status(&anonymous, &old).await?, 200);
    }
    assert_eq!(provider.requests(), 1);
    // Within the minute nobody is asked, whatever keys are named.
    provider.publish(&[jwk(&second)]);
    let invented = second.sign(json!({"kid": "invented"}), &claims(&clock, json!({})))?;
    assert_eq!((status(&anonymous, &new).await?, status(&anonymous, &invented).await?), (401, 401));
    assert_eq!(provider.requests(), 1);
    clock.set(clock.now() + TimeDelta::seconds(61));
    let asked = futures_util::future::join_all((0..8).map(|_| status(&anonymous, &new))).await;
    assert!(asked.iter().all(|status| matches!(status, Ok(200))), "{asked:?}");
    assert_eq!(provider.requests(), 2, "all wait for one answer");
    // The first key is gone with that document, and so is what it verified.
    assert_eq!(status(&anonymous, &old).await?, 401);
    // What is known is read anew, too: a key that was withdrawn ends within ten minutes, without a new one's help.
    provider.publish(&[jwk(&first)]);
    clock.set(clock.now() + TimeDelta::minutes(10));
    testkit::wait_until(testkit::PATIENCE, async || matches!(status(&anonymous, &new).await, Ok(401))).await;
    assert_eq!(provider.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn while_the_provider_is_away_known_keys_count_for_a_day() -> Result<()> {
    let provider = Provider::start().await?;
    let (known, unknown) = (Signer::ec("known")?, Signer::ec("unknown")?);
    let world = World::without_worker(&provider.settings()).await?;
    let (clock, anonymous) = (world.env.clock.clone(), world.anonymous()?);
    let sign = |signer: &Signer| signer.sign(json!({}), &claims(&clock, json!({"exp": 4_000_000_000_u64})));
    let (good, new) = (sign(&known)?, sign(&unknown)?);
    let stats = async |token: &str| anonymous.with_token(token).get("/api/usage/stats").send().await;
    for _ in 0..40 {
        let answer = stats(&good).await?;
        assert_problem(&answer, 503, "unavailable");
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(provider.requests(), 1, "not once a call");
    clock.set(clock.now() + TimeDelta::seconds(6));
    provider.publish_text(json!({"keys": "none"}));
    assert_eq!(status(&anonymous, &good).await?, 503, "what is no key set is none");
    clock.set(clock.now() + TimeDelta::seconds(6));
    provider.publish(&[known.jwk(json!({}))]);
    assert_eq!(status(&anonymous, &good).await?, 200);
    provider.fail();
    clock.set(clock.now() + TimeDelta::hours(23));
    assert_eq!(status(&anonymous, &good).await?, 200);
    testkit::wait_until(testkit::PATIENCE, async || provider.requests() == 4).await;
    assert_problem(&stats(&new).await?, 503, "unavailable");
    clock.set(clock.now() + TimeDelta::hours(1));
    assert_problem(&stats(&good).await?, 503, "unavailable");
    Ok(())
}

#[tokio::test]
async fn a_provider_that_is_silent_holds_up_nobody_whose_key_is_known() -> Result<()> {
    let provider = Provider::start().await?;
    let (known, unknown) = (Signer::ec("known")?, Signer::ec("unknown")?);
    provider.publish(&[known.jwk(json!({}))]);
    let world = World::without_worker(&provider.settings()).await?;
    let (clock, anonymous) = (world.env.clock.clone(), world.anonymous()?);
    let exp = json!({"exp": clock.now().timestamp() + 7200});
    let good = known.sign(json!({}), &claims(&clock, exp.clone()))?;
    assert_eq!(status(&anonymous, &good).await?, 200);
    // Its address accepts, and says nothing.
    let address =
        provider.url.strip_prefix("http://").and_then(|url| url.split('/').next()).context("no host")?;
    let address = address.to_owned();
    drop(provider);
    let _silent = listen_again(&address).await?;
    clock.set(clock.now() + TimeDelta::hours(1));
    let new = unknown.sign(json!({}), &claims(&clock, exp))?;
    let timed = async |token: &str| (status(&anonymous, token).await, std::time::Instant::now());
    let (slow, quick) = tokio::join!(timed(&new), timed(&good));
    assert_eq!((slow.0?, quick.0?), (503, 200));
    assert!(quick.1 < slow.1, "it waited for the provider");
    Ok(())
}

/// Listens where somebody else has just ceased to.
async fn listen_again(address: &str) -> Result<TcpListener> {
    let mut listener = TcpListener::bind(address).await;
    let deadline = std::time::Instant::now() + testkit::PATIENCE;
    while listener.is_err() && std::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
        listener = TcpListener::bind(address).await;
    }
    Ok(listener?)
}
