//! Whether somebody exists does not show, in what a request costs either.

use anyhow::Result;
use serde_json::json;
use testkit::World;

use crate::answers::assert_problem;

/// The last statement about accounts that the api has sent.
async fn last_look(world: &World) -> Result<String> {
    let last = "SELECT query FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%public.users%'
                ORDER BY query_start DESC LIMIT 1";
    world.text(last).await
}

#[tokio::test]
async fn another_is_not_looked_up_on_a_users_word() -> Result<()> {
    // One connection to hear of changes, one for all else: its last statement is that of the last request.
    let world = World::without_worker(&[("DATABASE_CONNECTIONS", "2")]).await?;
    let service = world.service()?;
    service.put("/api/users/somebody").json(&json!({})).send().await?.expect(201)?;
    let user = world.user("curious")?;
    user.get("/api/usage/stats").send().await?.expect(200)?;
    for path in [
        "/api/usage/stats?user_id=",
        "/api/usage/calls?user_id=",
        "/api/usage/history?user_id=",
        "/api/usage/statements?user_id=",
        "/api/tokens?user_id=",
        "/api/users/",
    ] {
        for name in ["somebody", "nobody-yet"] {
            // By now the last statement is another one.
            service.get(&format!("/api/usage/stats?user_id=unheard-of-{name}")).send().await?.expect(404)?;
            assert!(last_look(&world).await?.contains("external_id_hash ="), "a service's word is looked up");
            let suffix = if path.ends_with('/') { "/export" } else { "" };
            let refused = user.get(&format!("{path}{name}{suffix}")).send().await?;
            assert_problem(&refused, 404, "not_found");
            let look = last_look(&world).await?;
            assert!(look.contains("FROM public.users WHERE user_id = $1"), "{path}{name}: {look}");
        }
    }
    let reports: Vec<_> = ["somebody", "nobody-yet"]
        .map(|name| json!({"id": name, "subject": name, "data": {"endpoint": "/x"}}))
        .into();
    let refused = user.post("/api/usage/events").json(&reports).send().await?.expect(422)?;
    let look = last_look(&world).await?;
    assert!(look.contains("FROM public.users WHERE user_id = $1"), "{look}");
    let errors: Vec<_> =
        refused.json()?["items"].as_array().into_iter().flatten().map(|item| item["error"].clone()).collect();
    assert!(errors.len() == 2 && errors[0] == errors[1], "{errors:?}");
    Ok(())
}
