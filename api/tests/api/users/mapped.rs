//! Users whose names are IPv4 addresses mapped into IPv6, as earlier builds kept them.

use anyhow::{Context as _, Result};
use data_keys::Keys;
use serde_json::json;
use store::identity::users::HashedExternalId;
use testkit::{Role, World};

const MIGRATION: &str = include_str!("../../../../migrations/0009_mapped_addresses.sql");
/// One address, as sockets, programs and people write it mapped.
const SPELLINGS: [&str; 4] = ["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:192.0.2.1", "::ffff:c000:201"];

/// Makes the user of `192.0.2.1` one that an earlier build knew by its `nth` mapped text; answers our id.
async fn known_as_mapped(world: &World, nth: usize) -> Result<String> {
    world.service()?.put("/api/users/192.0.2.1").json(&json!({})).send().await?.expect(201)?;
    let (text, hash) = hashed(world).await?.earlier.into_iter().nth(nth).context("no such text")?;
    let change = "UPDATE public.users SET external_id = $1, external_id_hash = $2
                  WHERE external_id = '192.0.2.1' RETURNING user_id::text";
    let change = sqlx::query_scalar(change).bind(text).bind(hash.as_slice());
    Ok(change.fetch_one(world.env.pool()).await?)
}

async fn hashed(world: &World) -> Result<HashedExternalId> {
    let keys = Keys::start(world.env.database_url(), &testkit::keys(), &world.env.clock).await?;
    Ok(keys.hash_external_id("192.0.2.1".parse()?).await?)
}

async fn accounts(world: &World) -> Result<String> {
    world.text("SELECT count(*)::text FROM public.users WHERE external_id IS DISTINCT FROM 'backend'").await
}

#[tokio::test]
async fn a_living_account_is_found_under_every_spelling() -> Result<()> {
    for (nth, is_migrated) in [(0, false), (1, false), (0, true), (1, true)] {
        let world = World::start().await?;
        let user = known_as_mapped(&world, nth).await?;
        if is_migrated {
            sqlx::raw_sql(MIGRATION).execute(world.env.pool()).await?;
        }
        // Nothing is remembered by an instance that starts now.
        let world = world.restart_api(&[]).await?;
        let (service, before) = (world.service()?, accounts(&world).await?);
        for (n, name) in SPELLINGS.into_iter().enumerate() {
            let event = json!({"id": format!("e{n}"), "subject": name, "data": {"endpoint": "/api/x"}});
            service.post("/api/usage/events").json(&event).send().await?.expect(202)?;
            let own = world.user(name)?;
            for path in ["/api/usage/stats", &format!("/api/usage/stats?user_id={name}")] {
                let stats = own.get(path).send().await?.expect(200)?.json()?;
                assert_eq!(stats["user_id"], user.as_str(), "{name} {path}");
            }
        }
        assert_eq!(accounts(&world).await?, before, "nobody was made");
        world.wait_until_projected().await?;
        let calls: i64 = sqlx::query_scalar("SELECT count(*) FROM api_usage WHERE user_id::text = $1")
            .bind(&user)
            .fetch_one(world.env.pool())
            .await?;
        assert_eq!(calls, i64::try_from(SPELLINGS.len())?);
    }
    Ok(())
}

#[tokio::test]
async fn an_erased_user_comes_back_under_no_spelling() -> Result<()> {
    for nth in [0, 1] {
        let world = World::start().await?;
        let user = known_as_mapped(&world, nth).await?;
        let boss = world.client("boss", Role::Admin)?;
        boss.post(&format!("/api/users/{user}/erase")).send().await?.expect(200)?;
        let world = world.restart_api(&[]).await?;
        let (boss, before) = (world.client("boss", Role::Admin)?, accounts(&world).await?);
        for name in SPELLINGS {
            let event = json!({"id": name, "subject": name, "data": {"endpoint": "/api/x"}});
            let refused = boss.post("/api/usage/events").json(&event).send().await?.expect(422)?;
            assert_eq!(refused.json()?["items"][0]["error"]["code"], "subject_erased", "{name}");
            world.user(name)?.get("/api/usage/stats").send().await?.expect(401)?;
            for (path, body) in [
                (format!("/api/users/{name}"), json!({})),
                ("/api/users/bob".to_owned(), json!({"external_id": name})),
            ] {
                let refused = boss.put(&path).json(&body).send().await?.expect(409)?;
                assert_eq!(refused.code(), "subject_erased", "{path} {body}");
            }
        }
        assert_eq!(accounts(&world).await?, before, "nobody was made");
    }
    Ok(())
}

/// Everything that is a mapped address to us, and nothing else, is renamed by the migration.
#[tokio::test]
async fn the_migration_renames_what_we_read_as_mapped() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let cases = [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:192.0.2.2", "192.0.2.2"),
        ("::ffff:c000:203", "192.0.2.3"),
        ("0:0:0:0:0:ffff:192.0.2.4", "192.0.2.4"),
        ("0000::ffff:c000:0205", "192.0.2.5"),
        ("::ffff:255.255.255.255", "255.255.255.255"),
        // The IPv4 address is somebody's already.
        ("198.51.100.1", "198.51.100.1"),
        ("::ffff:198.51.100.1", "::ffff:198.51.100.1"),
        // No mapped addresses.
        ("::ffff:192.0.2.07", "::ffff:192.0.2.07"),
        ("::192.0.2.8", "::192.0.2.8"),
        ("::fffe:192.0.2.9", "::fffe:192.0.2.9"),
        ("::ffff:192.0.2", "::ffff:192.0.2"),
        ("::ffff:192.0.2.10/128", "::ffff:192.0.2.10/128"),
        ("0815", "0815"),
        (":", ":"),
        ("2001:db8::7", "2001:db8::7"),
    ];
    for (n, (name, _)) in cases.iter().enumerate() {
        let row = "INSERT INTO public.users (user_id, external_id, created_at, updated_at)
                   VALUES ($1, $2, to_timestamp($3), now())";
        let row =
            sqlx::query(row).bind(world.env.ids.random_id()).bind(name).bind(f64::from(u32::try_from(n)?));
        row.execute(world.env.pool()).await?;
    }
    sqlx::raw_sql(MIGRATION).execute(world.env.pool()).await?;
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT external_id FROM public.users WHERE created_at < '1971-01-01' ORDER BY created_at",
    )
    .fetch_all(world.env.pool())
    .await?;
    assert_eq!(names, cases.map(|(_, expected)| expected));
    for (name, renamed) in cases {
        let is_taken = name == "::ffff:198.51.100.1";
        assert!(is_taken || name.parse::<ledger::ExternalId>()?.as_str() == renamed, "{name}");
    }
    Ok(())
}
