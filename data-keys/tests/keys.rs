//! Data keys against a real PostgreSQL: who may start with which root key, one key a user, rotation.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use data_keys::{KeyConfig, Keys, KeysError};
use ledger::UserId;
use sqlx::PgConnection;
use testkit::{Env, wait_until};
use tokio_util::sync::CancellationToken;
use vault::{DataKeyError, KeyRingError, OsEntropy, SecretText, TokenKind};

/// Longer than it takes to connect again.
const BOUND: Duration = Duration::from_secs(20);
const K1: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const K2: &str = "2222222222222222222222222222222222222222222222222222222222222222";

fn config(kid: &str, key: &str, previous: &str) -> KeyConfig {
    KeyConfig { key: key.to_owned().into(), kid: kid.to_owned(), previous: previous.to_owned().into() }
}

async fn start(env: &Env, config: KeyConfig) -> Result<Keys, KeysError> {
    Keys::start(env.database_url(), &config, &env.clock).await
}

async fn user(env: &Env) -> Result<UserId> {
    let id = env.ids.random_id();
    let new = vec![store::identity::users::NewUser::unnamed(id)];
    store::identity::users::provision(&mut *env.pool().acquire().await?, new, env.clock.now()).await?;
    Ok(UserId::new(id))
}

async fn connection(env: &Env) -> Result<PgConnection> {
    Ok(store::connect(env.database_url(), store::Schema::Live).await?)
}

/// Changes the user's stored key so that it opens under no root key.
async fn damage(conn: &mut PgConnection, user: UserId) -> Result<()> {
    let set = "sealed = jsonb_set(sealed::jsonb, '{tag}', to_jsonb(repeat('0', 64)))::json";
    let query = format!("UPDATE public.user_data_keys SET {set} WHERE user_id = $1");
    assert_eq!(sqlx::query(&query).bind(user.get()).execute(conn).await?.rows_affected(), 1);
    Ok(())
}

/// Says that the user's stored key is wrapped under `kid`.
async fn attribute(conn: &mut PgConnection, user: UserId, kid: &str) -> Result<()> {
    let set = "kid = $2, sealed = jsonb_set(sealed::jsonb, '{kid}', to_jsonb($2))::json";
    let query = format!("UPDATE public.user_data_keys SET {set} WHERE user_id = $1");
    assert_eq!(sqlx::query(&query).bind(user.get()).bind(kid).execute(conn).await?.rows_affected(), 1);
    Ok(())
}

fn says(error: KeysError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

#[tokio::test]
async fn only_the_key_of_a_database_starts_on_it() -> Result<()> {
    let env = Env::start().await?;
    let missing = says(start(&env, config("k1", "", "")).await.err().expect("no key"));
    assert!(missing.contains("ENCRYPTION_KEY cannot be used: the encryption key k1"), "{missing}");

    let keys = start(&env, config("k1", K1, "")).await?;
    keys.get_or_make(&mut connection(&env).await?, user(&env).await?).await?;
    start(&env, config("k1", K1, "")).await?;

    let check = data_keys::in_use(&mut connection(&env).await?).await?[0].check.expect("it is stored");
    let expects = format!("this database expects the key k1, check value {check}");
    for (what, wrong) in [
        ("missing", config("k1", "", "")),
        ("short", config("k1", &K1[1..], "")),
        ("changed", config("k1", K2, "")),
        ("renamed", config("k9", K1, "")),
        ("another one", config("k2", K2, "")),
    ] {
        let error = says(start(&env, wrong).await.err().unwrap_or_else(|| panic!("{what} started")));
        assert!(
            error.contains(&expects) && !error.contains("1111") && !error.contains("2222"),
            "{what}: {error}"
        );
    }
    // The right one beside a new one starts.
    start(&env, config("k2", K2, &format!("k1:{K1}"))).await?;
    Ok(())
}

#[tokio::test]
async fn of_two_first_starts_with_two_keys_one_wins() -> Result<()> {
    let env = Env::start().await?;
    let (first, second) = tokio::join!(start(&env, config("k1", K1, "")), start(&env, config("k1", K2, "")));
    let lost = match (first, second) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        (Ok(_), Ok(_)) => panic!("both started"),
        (Err(first), Err(second)) => panic!("none started: {first}, {second}"),
    };
    assert!(matches!(lost, KeysError::Ring { source: KeyRingError::Changed { .. }, .. }), "{lost}");
    Ok(())
}

#[tokio::test]
async fn processes_that_make_a_key_at_once_share_the_one_that_is_stored() -> Result<()> {
    let env = Env::start().await?;
    for _ in 0..20 {
        let owner = user(&env).await?;
        let (a, b) = (start(&env, config("k1", K1, "")).await?, start(&env, config("k1", K1, "")).await?);
        let (mut conn_a, mut conn_b) = (connection(&env).await?, connection(&env).await?);
        let (a, b) = tokio::join!(a.get_or_make(&mut conn_a, owner), b.get_or_make(&mut conn_b, owner));
        let (a, b) = (a?, b?);
        let sealed = a.seal_personal("e1", b"{}", &OsEntropy)?;
        assert_eq!(*b.open_personal("e1", &sealed).expect("the same key"), b"{}");
        assert_eq!(store::identity::wrapped_keys::of_users(&mut conn_a, &[owner]).await?.len(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn nobody_without_an_account_gets_a_key_and_a_forgotten_one_is_read_anew() -> Result<()> {
    let env = Env::start().await?;
    let keys = start(&env, config("k1", K1, "")).await?;
    let mut conn = connection(&env).await?;
    let stranger = UserId::new(env.ids.random_id());
    assert!(matches!(keys.get_or_make(&mut conn, stranger).await, Err(KeysError::NoAccount)));
    assert!(keys.find(&mut conn, stranger).await?.is_none());

    let owner = user(&env).await?;
    assert!(keys.find(&mut conn, owner).await?.is_none(), "finding makes none");
    let made = keys.get_or_make(&mut conn, owner).await?;
    assert!(Arc::ptr_eq(&made, &keys.cached(owner).expect("remembered")));
    keys.forget(&[owner]);
    assert!(keys.cached(owner).is_none());
    sqlx::query("DELETE FROM public.user_data_keys").execute(&mut conn).await?;
    assert!(keys.find(&mut conn, owner).await?.is_none(), "a destroyed key is gone");
    Ok(())
}

#[tokio::test]
async fn a_destroyed_key_is_forgotten_when_it_is_announced_or_may_have_been() -> Result<()> {
    let env = Env::start().await?;
    let keys = start(&env, config("k1", K1, "")).await?;
    let mut conn = connection(&env).await?;
    let (owner, other) = (user(&env).await?, user(&env).await?);
    keys.get_or_make_many(&mut conn, &[owner, other]).await?;
    let shutdown = CancellationToken::new();
    let following = tokio::spawn({
        let (keys, pool, shutdown) = (keys.clone(), env.pool().clone(), shutdown.clone());
        async move { keys.follow(&pool, &shutdown).await }
    });
    let is_forgotten = |user| {
        let keys = &keys;
        wait_until(BOUND, move || async move { keys.cached(user).is_none() })
    };
    // By now something may have been missed.
    is_forgotten(owner).await;

    keys.get_or_make_many(&mut conn, &[owner, other]).await?;
    sqlx::query("DELETE FROM public.user_data_keys WHERE user_id = $1")
        .bind(owner.get())
        .execute(&mut conn)
        .await?;
    sqlx::query("SELECT pg_notify('ledger_users', $1)").bind(owner.to_string()).execute(&mut conn).await?;
    is_forgotten(owner).await;
    assert!(keys.find(&mut conn, owner).await?.is_none());
    assert!(keys.cached(other).is_some(), "nobody else is concerned");

    // The connection breaks, so that something may have been missed again.
    let broken = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')";
    sqlx::query(broken).execute(&mut conn).await?;
    is_forgotten(other).await;
    shutdown.cancel();
    following.await?;
    Ok(())
}

#[tokio::test]
async fn a_key_that_does_not_open_is_no_other_users_concern_and_is_not_replaced() -> Result<()> {
    let env = Env::start().await?;
    let mut conn = connection(&env).await?;
    let owners = [user(&env).await?, user(&env).await?, user(&env).await?, user(&env).await?];
    let [good, damaged, foreign, new] = owners;
    let made = start(&env, config("k1", K1, "")).await?;
    made.get_or_make_many(&mut conn, &[good, damaged, foreign]).await?;
    damage(&mut conn, damaged).await?;
    attribute(&mut conn, foreign, "k0").await?;
    let stored = store::identity::wrapped_keys::of_users(&mut conn, &owners).await?;

    let keys = start(&env, config("k1", K1, "")).await?;
    let stranger = UserId::new(env.ids.random_id());
    let found = keys.get_or_make_many(&mut conn, &[good, damaged, foreign, new, stranger]).await?;
    assert_eq!(found.len(), 4);
    assert!(found[&good].is_ok() && found[&new].is_ok());
    assert!(matches!(found[&damaged], Err(DataKeyError::Open(_))));
    assert!(matches!(&found[&foreign], Err(DataKeyError::UnknownKey { kid }) if kid.as_str() == "k0"));
    for refused in [damaged, foreign] {
        assert!(keys.cached(refused).is_none());
        assert!(matches!(keys.get_or_make(&mut conn, refused).await, Err(KeysError::DataKey(_))));
        assert!(matches!(keys.find(&mut conn, refused).await, Err(KeysError::DataKey(_))));
    }
    let now = store::identity::wrapped_keys::of_users(&mut conn, &[good, damaged, foreign]).await?;
    assert_eq!(now, stored);
    // What was changed by hand and is put right opens again.
    attribute(&mut conn, foreign, "k1").await?;
    assert!(keys.find_many(&mut conn, &owners).await?[&foreign].is_ok());
    Ok(())
}

#[tokio::test]
async fn after_a_rotation_the_old_root_key_is_not_needed_and_a_row_left_under_it_names_it() -> Result<()> {
    let env = Env::start().await?;
    let mut conn = connection(&env).await?;
    let old = start(&env, config("k1", K1, "")).await?;
    let (mut owners, mut sealed) = (Vec::new(), Vec::new());
    let token = SecretText::new("ghp_0123456789".to_owned());
    for _ in 0..7 {
        let owner = user(&env).await?;
        let key = old.get_or_make(&mut conn, owner).await?;
        sealed.push(key.seal_token(TokenKind::Github, owner.get(), &token, &OsEntropy)?);
        owners.push(owner);
    }
    // One that was written by hand does not open, and is named.
    let (broken, left) = (owners[2], owners[5]);
    damage(&mut conn, broken).await?;
    let both = config("k2", K2, &format!("k1:{K1}"));
    let rotating = start(&env, both.clone()).await?;
    let ring = data_keys::ring(&mut conn, &both, env.clock.now()).await?;
    let page = data_keys::rewrap_page(&mut conn, &ring, None).await?;
    assert_eq!((page.rewrapped, page.refused.len()), (6, 1));
    assert_eq!(page.refused[0].user, broken);
    let again = data_keys::rewrap_page(&mut conn, &ring, None).await?;
    assert_eq!((again.rewrapped, again.refused.len()), (0, 1), "a second run finds only what did not open");
    // Processes with both keys, and with the old one in memory, open all meanwhile.
    for keys in [&rotating, &old] {
        let key = keys.find(&mut conn, owners[0]).await?.expect("it is there");
        assert!(key.open_token(TokenKind::Github, owners[0].get(), &sealed[0]).is_ok());
    }

    attribute(&mut conn, left, "k1").await?;
    let new = start(&env, config("k2", K2, "")).await?;
    for (owner, sealed) in owners.iter().zip(&sealed).filter(|(owner, _)| ![broken, left].contains(owner)) {
        let key = new.find(&mut conn, *owner).await?.expect("it is there");
        let opened = key.open_token(TokenKind::Github, owner.get(), sealed);
        assert!(opened.is_ok_and(|token| token.expose() == "ghp_0123456789"));
    }
    let error = new.find(&mut conn, left).await.err().expect("its root key is gone");
    assert_eq!(error.missing_key().map(vault::RootKeyId::as_str), Some("k1"), "{error}");
    Ok(())
}
