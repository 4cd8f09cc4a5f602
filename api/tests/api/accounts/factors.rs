//! Second factors: what is asked for beside the password, and what is taken for it.

use anyhow::{Context, Result};
use axum::http::Method;
use credentials::{TOTP_SECRET_BYTES, Totp};
use ledger::UserId;
use serde_json::{Value, json};
use store::identity::admins;
use testkit::World;

use super::browser::{Browser, PASSWORD, later, signed_in, user_id};
use crate::answers::assert_problem;
use crate::auth::security::ROWS;

const OPEN: (&str, &str) = ("REGISTRATION", "open");
const EMAIL: &str = "ada@example.com";

/// An authenticator app.
pub(crate) struct App {
    secret: Vec<u8>,
    text: String,
}

impl App {
    fn new(setup: &Value) -> Result<Self> {
        let text = setup["secret"].as_str().context("secret")?.to_owned();
        let secret = data_encoding_base32(&text).context("base32")?;
        Ok(Self { secret, text })
    }

    /// The code so many steps of 30 seconds from now.
    fn code(&self, world: &World, steps: i64) -> String {
        self.code_of(step(world) + steps)
    }

    fn code_of(&self, step: i64) -> String {
        let at = step * 30;
        (0..1_000_000_u32).map(|code| format!("{code:06}")).find(|code| self.is_at(code, at)).expect("a code")
    }

    fn is_at(&self, code: &str, at: i64) -> bool {
        let secret: [u8; TOTP_SECRET_BYTES] = self.secret.as_slice().try_into().expect("20 bytes");
        Totp::new(secret).matched_step(code, at, at / 30 - 1) == Some(at / 30)
    }
}

/// The step of time that it is: the ledger's clock goes on while a test runs.
fn step(world: &World) -> i64 {
    world.env.clock.now().timestamp() / 30
}

/// It is the beginning of this step now.
fn begin_step(world: &World, step: i64) {
    world.env.clock.set(chrono::DateTime::from_timestamp(step * 30, 0).expect("a time"));
}

/// RFC 4648 §6, without padding.
fn data_encoding_base32(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in text.bytes() {
        let digit = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|known| *known == letter)?;
        bits = bits << 5 | u32::try_from(digit).ok()?;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 255) as u8);
        }
    }
    Some(bytes)
}

/// Sets an app up; answers it, and the recovery codes.
pub(crate) async fn enrol(world: &World, browser: &mut Browser) -> Result<(App, Vec<String>)> {
    let body = json!({"kind": "totp", "name": "phone", "current_password": PASSWORD});
    let setup = browser.post("/api/auth/factors", &body).await?.expect(201)?.json()?;
    let app = App::new(&setup)?;
    let id = setup["factor_id"].as_str().context("factor_id")?;
    let next = step(world) + 1;
    let code = app.code_of(next);
    begin_step(world, next);
    let path = format!("/api/auth/factors/{id}/confirm");
    let confirmed = browser.post(&path, &json!({"code": code})).await?.expect(200)?.json()?;
    let codes = confirmed["recovery_codes"].as_array().cloned().unwrap_or_default();
    Ok((app, codes.iter().filter_map(|code| code.as_str().map(str::to_owned)).collect()))
}

async fn pending(world: &World, address: &str) -> Result<Browser> {
    let mut browser = Browser::new(world)?.from(address);
    let answer = browser.login(EMAIL, PASSWORD).await?.expect(200)?.json()?;
    assert_eq!(answer["needs_second_factor"], true);
    Ok(browser)
}

async fn verify(browser: &mut Browser, code: &str) -> Result<u16> {
    Ok(browser.post("/api/auth/factors/verify", &json!({"code": code})).await?.status.as_u16())
}

#[tokio::test]
async fn a_session_that_waits_for_the_factor_does_nothing_else() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    let before = ada.clone();
    let (app, codes) = enrol(&world, &mut ada).await?;
    assert_eq!(codes.len(), 10);
    let spent = app.code(&world, 0);
    before.get("/api/auth/session").await?.expect(401)?;
    ada.get("/api/users/me").await?.expect(200)?;
    let mut browser = pending(&world, "127.0.0.1").await?;
    for row in ROWS.iter().filter(|row| row.access != api::auth::Access::Public) {
        let may = ["/api/auth/session", "/api/auth/logout", "/api/auth/factors/verify"].contains(&row.path);
        let takes_none = ["/api/usage/check", "/api/usage/events", "/api/v1/events"].contains(&row.path)
            || row.path.starts_with("/api/forward-auth")
            || row.path.ends_with("/outcome");
        if may || takes_none {
            continue;
        }
        let mut request = browser.request(row.method.parse()?, row.request);
        if let Some(body) = row.body {
            request = request.body("application/json", body.as_bytes());
        }
        let answer = request.send().await?;
        assert_problem(&answer, 403, "second_factor_required");
    }
    // The code of the set-up is spent; the one after it passes, once.
    assert_eq!(verify(&mut browser, &spent).await?, 401);
    later(&world, 1);
    let code = app.code(&world, 0);
    let mut other = pending(&world, "127.0.0.1").await?;
    assert_eq!(verify(&mut browser, &code).await?, 200);
    browser.get("/api/users/me").await?.expect(200)?;
    assert_eq!(verify(&mut other, &code).await?, 401, "it was taken");
    assert_problem(&browser.post("/api/auth/factors/verify", &json!({"code": code})).await?, 409, "conflict");
    Ok(())
}

#[tokio::test]
async fn a_code_is_taken_until_half_a_minute_after_its_end_and_not_before() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    let (app, _) = enrol(&world, &mut ada).await?;
    later(&world, 10);
    let now = step(&world) + 2;
    let mut shown = Vec::new();
    for (steps, status) in [(1, 401), (-2, 401), (-1, 200), (0, 200), (0, 401)] {
        shown.push((pending(&world, "127.0.0.1").await?, app.code_of(now + steps), steps, status));
    }
    begin_step(&world, now);
    for (mut browser, code, steps, status) in shown {
        assert_eq!(verify(&mut browser, &code).await?, status, "{steps} steps");
    }
    Ok(())
}

#[tokio::test]
async fn of_two_who_show_one_code_at_once_one_passes() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    let (app, _) = enrol(&world, &mut ada).await?;
    later(&world, 1);
    let code = app.code(&world, 0);
    let browsers = futures_util::future::try_join_all((0..4).map(|_| pending(&world, "127.0.0.1"))).await?;
    let show = |mut browser: Browser| {
        let code = code.clone();
        async move { verify(&mut browser, &code).await }
    };
    let answers = futures_util::future::try_join_all(browsers.into_iter().map(show)).await?;
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn a_recovery_code_lets_in_once() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    let (_, codes) = enrol(&world, &mut ada).await?;
    let spoken = codes[0].to_lowercase().replace('-', " ");
    for (code, status) in [(spoken.as_str(), 200), (codes[0].as_str(), 401), (codes[1].as_str(), 200)] {
        let mut browser = pending(&world, "127.0.0.1").await?;
        let answer = browser.post("/api/auth/factors/verify", &json!({"recovery_code": code})).await?;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let factors = ada.get("/api/auth/factors").await?.expect(200)?.json()?;
    assert_eq!(factors["recovery_codes_left"], 8);
    let new = ada.post("/api/auth/recovery-codes", &json!({})).await?.expect(201)?.json()?;
    let mut browser = pending(&world, "127.0.0.1").await?;
    let old = json!({"recovery_code": codes[2]});
    browser.post("/api/auth/factors/verify", &old).await?.expect(401)?;
    let fresh = json!({"recovery_code": new["recovery_codes"][0]});
    browser.post("/api/auth/factors/verify", &fresh).await?.expect(200)?;
    // Who signed in too long ago makes none.
    later(&world, 16);
    assert_problem(&ada.post("/api/auth/recovery-codes", &json!({})).await?, 403, "stale_credential");
    Ok(())
}

#[tokio::test]
async fn guesses_at_codes_are_bounded_and_the_owner_gets_in() -> Result<()> {
    let world = World::without_worker(&[OPEN, ("TRUSTED_PROXIES", "127.0.0.0/8")]).await?;
    let mut ada = Browser::new(&world)?.from("192.0.2.1");
    let body = json!({"email": EMAIL, "password": PASSWORD});
    ada.post("/api/auth/register", &body).await?.expect(202)?;
    ada.login(EMAIL, PASSWORD).await?.expect(200)?;
    let (app, _) = enrol(&world, &mut ada).await?;
    later(&world, 1);
    let right = app.code(&world, 0);
    let wrong = if right == "000000" { "000001" } else { "000000" };
    let mut thief = pending(&world, "203.0.113.1").await?;
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(verify(&mut thief, wrong).await?);
    }
    assert_eq!(answers[..5], [401; 5]);
    assert!(answers[5..].contains(&429), "{answers:?}");
    let mut looked_at = 0;
    for number in 0..40 {
        let mut thief = pending(&world, &format!("198.18.0.{number}")).await?;
        looked_at += usize::from(verify(&mut thief, wrong).await? == 401);
    }
    assert!(looked_at <= 30, "{looked_at} guesses were looked at");
    let mut elsewhere = pending(&world, "203.0.113.99").await?;
    assert_eq!(verify(&mut elsewhere, &right).await?, 429);
    let mut at_home = pending(&world, "192.0.2.1").await?;
    assert_eq!(verify(&mut at_home, &app.code(&world, 0)).await?, 200);
    Ok(())
}

#[tokio::test]
async fn an_admin_changes_users_once_it_has_a_factor() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let ada = signed_in(&world, EMAIL).await?;
    let user = UserId::new(user_id(&ada).await?.parse()?);
    let mut conn = world.env.pool().acquire().await?;
    assert!(admins::make_admin(&mut conn, user).await?);
    drop(conn);
    let mut admin = Browser::new(&world)?;
    admin.login(EMAIL, PASSWORD).await?.expect(200)?;
    let bob = user_id(&signed_in(&world, "bob@example.com").await?).await?;
    let export = format!("/api/users/{bob}/export");
    let plan = format!("/api/users/{bob}/plan");
    let writes = [
        (Method::PUT, "/api/users/x".to_owned(), json!({"name": "x"}), 201),
        (Method::PUT, plan, json!({"plan": "pro", "effective": "now"}), 202),
    ];
    admin.get(&export).await?.expect(200)?;
    for (method, path, body, _) in &writes {
        let refused = admin.request(method.clone(), path).json(body).send().await?;
        assert_problem(&refused, 403, "second_factor_required");
    }
    enrol(&world, &mut admin).await?;
    admin.get(&export).await?.expect(200)?;
    for (method, path, body, status) in &writes {
        admin.request(method.clone(), path).json(body).send().await?.expect(*status)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_factor_is_set_up_by_who_knows_the_password() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    let mut mallory = signed_in(&world, "mallory@example.com").await?;
    for (body, status) in [
        (json!({"kind": "totp"}), 401),
        (json!({"kind": "totp", "current_password": "not the one of ada"}), 401),
        (json!({"kind": "sms", "current_password": PASSWORD}), 422),
    ] {
        ada.post("/api/auth/factors", &body).await?.expect(status)?;
    }
    let body = json!({"kind": "totp", "current_password": PASSWORD});
    let first = ada.post("/api/auth/factors", &body).await?.expect(201)?.json()?;
    let second = ada.post("/api/auth/factors", &body).await?.expect(201)?.json()?;
    assert!(second["qr_svg"].as_str().context("qr_svg")?.starts_with("<svg"));
    let path =
        |setup: &Value| format!("/api/auth/factors/{}/confirm", setup["factor_id"].as_str().unwrap_or(""));
    // One that was never confirmed made room, and nobody confirms another's.
    let code = json!({"code": App::new(&first)?.code(&world, 0)});
    ada.post(&path(&first), &code).await?.expect(404)?;
    let code = json!({"code": App::new(&second)?.code(&world, 0)});
    mallory.post(&path(&second), &code).await?.expect(404)?;
    ada.post(&path(&second), &json!({"code": App::new(&second)?.code(&world, 3)})).await?.expect(401)?;
    // Until it is confirmed nobody is asked for it.
    let answer = Browser::new(&world)?.login(EMAIL, PASSWORD).await?.expect(200)?.json()?;
    assert_eq!(answer["needs_second_factor"], false);
    let confirmed = ada.post(&path(&second), &code).await?.expect(200)?.json()?;
    assert_eq!(confirmed["recovery_codes"].as_array().map(Vec::len), Some(10));
    ada.post(&path(&second), &code).await?.expect(404)?;
    Ok(())
}

#[tokio::test]
async fn there_are_five_factors_at_most_and_codes_for_who_has_none() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    assert_problem(&ada.post("/api/auth/recovery-codes", &json!({})).await?, 404, "not_found");
    for expected in [10, 0, 0] {
        assert_eq!(enrol(&world, &mut ada).await?.1.len(), expected);
    }
    // All that there were are used up.
    world.tamper("DELETE FROM public.recovery_codes").await?;
    for expected in [10, 0] {
        assert_eq!(enrol(&world, &mut ada).await?.1.len(), expected);
    }
    let body = json!({"kind": "totp", "current_password": PASSWORD});
    assert_problem(&ada.post("/api/auth/factors", &body).await?, 409, "conflict");
    Ok(())
}

/// What happened to the factors is in the security log, and the end of an account is the end of them.
#[tokio::test]
async fn factors_are_told_of_and_end_with_their_user() -> Result<()> {
    let world = World::with(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    let mut bob = signed_in(&world, "bob@example.com").await?;
    enrol(&world, &mut bob).await?;
    let (app, _) = enrol(&world, &mut ada).await?;
    later(&world, 1);
    let mut browser = pending(&world, "127.0.0.1").await?;
    assert_eq!(verify(&mut browser, &app.code(&world, 0)).await?, 200);
    ada.post("/api/auth/recovery-codes", &json!({})).await?.expect(201)?;
    let factors = ada.get("/api/auth/factors").await?.expect(200)?.json()?;
    let id = factors["factors"][0]["factor_id"].clone();
    ada.delete(&format!("/api/auth/factors/{}", id.as_str().context("an id")?)).await?.expect(204)?;
    browser.get("/api/auth/session").await?.expect(401)?;
    world.wait_until_projected().await?;
    let log = ada.get("/api/users/me/security-log").await?.expect(200)?.json()?;
    let items = log["items"].as_array().context("items")?;
    let told: Vec<_> = items.iter().map(|item| (item["action"].as_str(), item["method"].as_str())).collect();
    assert_eq!(
        told[..4],
        [
            (Some("factor_removed"), Some("totp")),
            (Some("recovery_codes_made"), None),
            (Some("signed_in"), Some("password")),
            (Some("factor_added"), Some("totp")),
        ]
    );
    assert_eq!((&items[0]["object_id"], &items[3]["object_id"]), (&id, &id));
    enrol(&world, &mut ada).await?;
    let user = user_id(&ada).await?;
    let left = format!(
        "SELECT ((SELECT count(*) FROM public.second_factors WHERE user_id = '{user}')
              || ' ' || (SELECT count(*) FROM public.recovery_codes WHERE user_id = '{user}'))::text"
    );
    assert_eq!(world.text(&left).await?, "1 10");
    ada.post("/api/users/me/erase", &json!({})).await?.expect(200)?;
    assert_eq!(world.text(&left).await?, "0 0");
    assert_eq!(world.text("SELECT count(*)::text FROM public.second_factors").await?, "1", "Bob's");
    Ok(())
}

#[tokio::test]
async fn a_factor_is_taken_away_by_who_has_just_signed_in() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    let (app, _) = enrol(&world, &mut ada).await?;
    let factors = ada.get("/api/auth/factors").await?.expect(200)?.json()?;
    let id = factors["factors"][0]["factor_id"].as_str().context("an id")?.to_owned();
    let path = format!("/api/auth/factors/{id}");
    let mallory = signed_in(&world, "mallory@example.com").await?;
    mallory.delete(&path).await?.expect(404)?;
    later(&world, 16);
    assert_problem(&ada.delete(&path).await?, 403, "stale_credential");
    let mut ada = pending(&world, "127.0.0.1").await?;
    assert_eq!(verify(&mut ada, &app.code(&world, 0)).await?, 200);
    ada.delete(&path).await?.expect(204)?;
    ada.get("/api/auth/session").await?.expect(200)?;
    let factors = ada.get("/api/auth/factors").await?.expect(200)?.json()?;
    assert_eq!(factors, json!({"factors": [], "recovery_codes_left": 0}));
    let mut browser = Browser::new(&world)?;
    let answer = browser.login(EMAIL, PASSWORD).await?.expect(200)?.json()?;
    assert_eq!(answer["needs_second_factor"], false);
    Ok(())
}

/// The secret is sealed for its user and factor, and nobody who sees the tables has it.
#[tokio::test]
async fn the_secret_is_nowhere_in_the_clear_and_opens_for_its_factor_alone() -> Result<()> {
    let world = World::without_worker(&[OPEN]).await?;
    let mut ada = signed_in(&world, EMAIL).await?;
    let mut mallory = signed_in(&world, "mallory@example.com").await?;
    let (app, codes) = enrol(&world, &mut ada).await?;
    let (own, _) = enrol(&world, &mut mallory).await?;
    let names = "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public'";
    let names = world.text(names).await?;
    assert!(names.contains("second_factors"), "{names}");
    let mut clear = vec![app.text.clone(), hex::encode(&app.text), hex::encode(&app.secret)];
    clear.extend(codes.iter().flat_map(|code| [code.clone(), code.replace('-', "")]));
    for table in names.split(' ') {
        let rows = format!("SELECT string_agg(row::text, ' ') FROM public.{table} row");
        let rows = world.text(&rows).await?;
        assert!(!clear.iter().any(|secret| rows.contains(secret)), "{table}");
    }
    let hashed: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT hash FROM public.recovery_codes").fetch_all(world.env.pool()).await?;
    assert!(hashed.iter().all(|hash| hash.len() == 32 && !codes.iter().any(|code| code.as_bytes() == hash)));
    // Mallory gives Ada's row the secret that Mallory's app has.
    sqlx::query(
        "UPDATE public.second_factors a SET secret = m.secret FROM public.second_factors m
         WHERE a.user_id <> m.user_id AND a.user_id = $1",
    )
    .bind(uuid::Uuid::parse_str(&user_id(&ada).await?)?)
    .execute(world.env.pool())
    .await?;
    later(&world, 1);
    let mut thief = pending(&world, "127.0.0.1").await?;
    assert_eq!(verify(&mut thief, &own.code(&world, 0)).await?, 500);
    Ok(())
}
