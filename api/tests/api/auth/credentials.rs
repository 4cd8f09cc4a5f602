//! Bearer tokens: which are none, whose roles are believed, and for how long a replaced root key's are.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use testkit::{ENCRYPTION_KEY, JWT_SECRET, Role, Token, World};

use crate::answers::assert_problem;

const NIL: &str = "00000000-0000-0000-0000-000000000000";
const OTHER_ROOT: &str = "07e4000000000000000000000000000000000000000000000000000000000007";
/// A day, and the leeway of clocks.
const PREVIOUS_ROOT_S: i64 = 24 * 3600 + 30;

#[tokio::test]
async fn each_kind_of_invalid_token_is_refused_by_itself() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    for (what, token) in invalid_tokens(&world)? {
        let client = match token {
            Some(token) => world.anonymous()?.with_token(token),
            None => world.anonymous()?,
        };
        let answer = client.get("/api/usage/stats").send().await?;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn the_previous_secret_and_the_configured_claims_hold() -> Result<()> {
    let world = World::without_worker(&[
        ("JWT_SECRET_PREVIOUS", "another secret of tests, the one before"),
        ("JWT_ISSUER", "https://host.example"),
        ("JWT_AUDIENCE", "ledger"),
        ("JWT_SUBJECT_CLAIM", "uid"),
    ])
    .await?;
    let token = || {
        Token::new(&world.env.clock, "unused", Role::User)
            .claim("uid", json!("host-user"))
            .claim("iss", json!("https://host.example"))
            .claim("aud", json!(["other", "ledger"]))
    };
    let status = async |token: Token| -> Result<u16> {
        Ok(world.anonymous()?.with_token(token.mint()).get("/api/usage/stats").send().await?.status.as_u16())
    };
    assert_eq!(status(token()).await?, 200);
    assert_eq!(status(token().secret("another secret of tests, the one before")).await?, 200);
    assert_eq!(status(token().claim("iss", json!("usage-ledger"))).await?, 401);
    assert_eq!(status(token().claim("iss", json!("https://elsewhere.example"))).await?, 401);
    assert_eq!(status(token().claim("iss", Value::Null)).await?, 401);
    assert_eq!(status(token().claim("aud", json!("other"))).await?, 401);
    assert_eq!(status(token().claim("aud", Value::Null)).await?, 401);
    assert_eq!(status(token().claim("uid", Value::Null)).await?, 401);
    assert_eq!(status(token().claim("uid", json!(7))).await?, 401);
    Ok(())
}

#[tokio::test]
async fn a_token_that_this_server_mints_is_one() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let subject = "minted".parse()?;
    let mint = api::auth::Mint {
        subject: &subject,
        role: api::auth::Role::Service,
        scopes: None,
        ttl: std::time::Duration::from_mins(1),
        now: world.env.clock.now(),
    };
    let token = api::auth::mint(&world.env.api_config(&[])?.jwt, &world.api.handle.keys, &mint)?;
    let client = world.anonymous()?.with_token(secrecy::ExposeSecret::expose_secret(&token));
    client.put("/api/users/minted").json(&json!({})).send().await?.expect(200)?;
    // A cached token ends like any other: the ledger's clock decides.
    world.env.clock.set(world.env.clock.now() + chrono::TimeDelta::seconds(80));
    client.put("/api/users/minted").json(&json!({})).send().await?.expect(200)?;
    world.env.clock.set(world.env.clock.now() + chrono::TimeDelta::seconds(11));
    client.put("/api/users/minted").json(&json!({})).send().await?.expect(401)?;
    Ok(())
}

/// Tokens that are none, each wrong in one way.
pub(super) fn invalid_tokens(world: &World) -> Result<Vec<(&'static str, Option<String>)>> {
    let clock = &world.env.clock;
    let now = clock.now().timestamp();
    let good = || Token::new(clock, "attacker", Role::Admin);
    let (head, rest) = {
        let token = good().mint();
        let (head, rest) = token.split_once('.').context("three parts")?;
        (head.to_owned(), rest.to_owned())
    };
    let (payload, signature) = rest.split_once('.').context("three parts")?;
    let none = |algorithm: &str| BASE64.encode(format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#));
    Ok(vec![
        ("no token", None),
        ("expired", Some(good().claim("exp", json!(now - 31)).mint())),
        ("without exp", Some(good().claim("exp", Value::Null).mint())),
        ("exp as text", Some(good().claim("exp", json!((now + 60).to_string())).mint())),
        ("not yet valid", Some(good().claim("nbf", json!(now + 60)).mint())),
        ("nbf as text", Some(good().claim("nbf", json!("0")).mint())),
        ("wrong signature", Some(good().secret("a secret that nobody configured, ever").mint())),
        ("alg none", Some(format!("{}.{payload}.", none("none")))),
        ("alg None, signed", Some(format!("{}.{payload}.{signature}", none("None")))),
        ("alg HS384", Some(good().mint_as(Algorithm::HS384))),
        ("alg HS384, a host's", Some(good().secret(JWT_SECRET).mint_as(Algorithm::HS384))),
        ("changed payload", Some(format!("{head}.{}.{signature}", BASE64.encode(r#"{"sub":"x"}"#)))),
        ("without signature", Some(format!("{head}.{payload}"))),
        ("no JWT", Some("aaaa.bbbb.cccc".to_owned())),
        ("without subject", Some(good().claim("sub", Value::Null).mint())),
        ("reserved subject", Some(good().claim("sub", json!("me")).mint())),
        ("subject with a control character", Some(good().claim("sub", json!("a\u{0}b")).mint())),
        ("subject that is the nil UUID", Some(good().claim("sub", json!(NIL)).mint())),
        ("subject that is a list", Some(good().claim("sub", json!(["attacker"])).mint())),
        ("unknown role", Some(good().claim("role", json!("root")).mint())),
        ("a role of nobody's", Some(good().claim("iss", Value::Null).mint())),
        ("a role of somebody else's", Some(good().claim("iss", json!("https://host.example")).mint())),
        ("a role of two issuers", Some(good().claim("iss", json!(["usage-ledger", "usage-ledger"])).mint())),
        ("a role under another root", Some(good().root("k1", OTHER_ROOT).mint())),
        ("a role under a root of another name", Some(good().root("k2", ENCRYPTION_KEY).mint())),
        ("a role under the root itself", Some(good().secret(ENCRYPTION_KEY).kid("k1").mint())),
        ("crit", Some(with_header(r#"{"alg":"HS256","typ":"JWT","crit":["b64"],"b64":false}"#, &good())?)),
    ])
}

#[tokio::test]
async fn whoever_holds_the_hosts_secret_mints_users_only() -> Result<()> {
    let previous = "another secret of tests, the one before";
    let world = World::without_worker(&[("JWT_SECRET_PREVIOUS", previous)]).await?;
    let forged = |role| Token::new(&world.env.clock, "attacker", role).secret(JWT_SECRET);
    for role in [Role::Service, Role::Admin] {
        for (what, token) in [
            ("our issuer", forged(role)),
            ("and our key's name", forged(role).kid("k1")),
            ("another issuer", forged(role).claim("iss", json!("https://host.example"))),
            ("no issuer", forged(role).claim("iss", Value::Null)),
            ("the previous secret", forged(role).secret(previous)),
            ("roles", forged(role).claim("roles", json!(["admin"])).claim("scope", json!("admin"))),
        ] {
            let client = world.anonymous()?.with_token(token.mint());
            client.get("/api/usage/stats").send().await?.expect(200)?;
            let refused = client.put("/api/users/attacker").json(&json!({})).send().await?;
            assert_problem(&refused, 403, "forbidden");
            let another = client.get("/api/usage/stats?user_id=somebody").send().await?;
            assert_eq!(another.status, 404, "{what}: {}", another.text());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_previous_roots_tokens_end_a_day_after_the_current_one_was_first_seen() -> Result<()> {
    let previous = format!("k1:{ENCRYPTION_KEY}");
    let rotated = [
        ("ENCRYPTION_KEY", OTHER_ROOT),
        ("ENCRYPTION_KEY_ID", "k2"),
        ("ENCRYPTION_KEY_PREVIOUS", previous.as_str()),
    ];
    let world = World::without_worker(&[]).await?;
    let week = |world: &World| {
        let exp = json!(world.env.clock.now().timestamp() + 7 * 24 * 3600);
        Token::new(&world.env.clock, "ada", Role::Admin).claim("exp", exp)
    };
    let old = world.anonymous()?.with_token(week(&world).mint());
    let put = async |client: &testkit::Client| client.put("/api/users/ada").json(&json!({})).send().await;
    put(&old).await?.expect(200)?;
    // The next root is made known first, so that no process lacks it; that is no change yet.
    let next = format!("k2:{OTHER_ROOT}");
    let world = world.restart_api(&[("ENCRYPTION_KEY_PREVIOUS", &next)]).await?;
    let old = world.anonymous()?.with_token(week(&world).mint());
    // The age of the keys themselves is nothing to their tokens.
    world.env.clock.set(world.env.clock.now() + chrono::TimeDelta::days(3));
    put(&old).await?.expect(200)?;

    let world = world.restart_api(&rotated).await?;
    let (clock, seen) = (world.env.clock.clone(), world.env.clock.now());
    let anonymous = world.anonymous()?;
    let exp = json!(seen.timestamp() + 7 * 24 * 3600);
    let token = |kid, root| Token::new(&clock, "ada", Role::Admin).claim("exp", exp.clone()).root(kid, root);
    let old = anonymous.with_token(token("k1", ENCRYPTION_KEY).mint());
    let new = anonymous.with_token(token("k2", OTHER_ROOT).mint());
    for client in [&old, &new] {
        put(client).await?.expect(200)?;
    }
    // A restart is no new sight of it, and the cache of verified tokens keeps none longer.
    let world = world.restart_api(&rotated).await?;
    let anonymous = world.anonymous()?;
    let old = anonymous.with_token(token("k1", ENCRYPTION_KEY).mint());
    let new = anonymous.with_token(token("k2", OTHER_ROOT).mint());
    world.env.clock.set(seen + chrono::TimeDelta::seconds(PREVIOUS_ROOT_S - 5));
    put(&old).await?.expect(200)?;
    world.env.clock.set(seen + chrono::TimeDelta::seconds(PREVIOUS_ROOT_S + 5));
    assert_problem(&put(&old).await?, 401, "unauthorized");
    put(&new).await?.expect(200)?;
    Ok(())
}

/// A token with another header, correctly signed.
fn with_header(header: &str, token: &Token) -> Result<String> {
    let minted = token.mint();
    let payload = minted.split('.').nth(1).context("three parts")?;
    let message = format!("{}.{payload}", BASE64.encode(header));
    let key = EncodingKey::from_secret(JWT_SECRET.as_bytes())?;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256)?;
    Ok(format!("{message}.{signature}"))
}
