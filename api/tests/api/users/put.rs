//! `PUT /api/users/{user}`, and who a token's subject is.

use anyhow::Result;
use data_keys::Keys;
use serde_json::json;
use std::time::Duration;
use store::identity::users::NewUser;
use testkit::{Role, World, wait_until};

use crate::answers::{assert_problem, user_id};

#[tokio::test]
async fn a_user_is_made_changed_and_cleared() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    let path = "/api/users/customer-7";
    let made = service
        .put(path)
        .json(&json!({"email": "a@example.com", "name": "Änne"}))
        .send()
        .await?
        .expect(201)?;
    let id = user_id(&made)?;
    let body = made.json()?;
    assert_eq!(body["external_id"], "customer-7");
    assert_eq!((&body["email"], &body["name"]), (&json!("a@example.com"), &json!("Änne")));
    assert_eq!(body["status"], "active");

    let same =
        service.put(&format!("/api/users/{id}")).json(&json!({"name": null})).send().await?.expect(200)?;
    assert_eq!(same.json()?["name"], json!(null), "null clears");
    assert_eq!(same.json()?["email"], "a@example.com", "absent leaves as it is");

    let admin = world.client("operator", Role::Admin)?;
    let renamed =
        admin.put(&format!("/api/users/{id}")).json(&json!({"external_id": "customer-8"})).send().await?;
    assert_eq!(renamed.expect(200)?.json()?["external_id"], "customer-8");
    let other = service.put(path).json(&json!({})).send().await?.expect(201)?;
    assert_ne!(user_id(&other)?, id, "the old name is free and names another user now");
    let taken = admin.put(path).json(&json!({"external_id": "customer-8"})).send().await?;
    assert_problem(&taken, 409, "conflict");
    Ok(())
}

#[tokio::test]
async fn a_user_of_our_uuid_is_made_with_it() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let id = world.env.ids.random_id().to_string();
    let path = format!("/api/users/{}", id.to_uppercase());
    let made = world.service()?.put(&path).json(&json!({})).send().await?.expect(201)?;
    assert_eq!(user_id(&made)?, id);
    let again = world.service()?.put(&format!("/api/users/{id}")).json(&json!({})).send().await?;
    again.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_role_user_may_not_and_me_is_nobody_s_name() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let user = world.client("somebody", Role::User)?;
    let refused = user.put("/api/users/somebody").json(&json!({"status": "active"})).send().await?;
    assert_problem(&refused, 403, "forbidden");
    let refused = world.service()?.put("/api/users/me").json(&json!({})).send().await?;
    assert_problem(&refused, 405, "method_not_allowed");
    Ok(())
}

#[tokio::test]
async fn a_suspended_user_is_refused_by_every_instance() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let suspended = world.client("suspended", Role::Service)?;
    let path = "/api/users/suspended";
    suspended.put(path).json(&json!({})).send().await?.expect(200)?;
    let service = world.service()?;
    service.put(path).json(&json!({"status": "suspended"})).send().await?.expect(200)?;
    let refused = suspended.put(path).json(&json!({"status": "active"})).send().await?;
    assert_problem(&refused, 403, "account_suspended");

    // Another process changes the row and announces it: this one forgets what it knew.
    service.put(path).json(&json!({"status": "active"})).send().await?.expect(200)?;
    suspended.put(path).json(&json!({})).send().await?.expect(200)?;
    let mut conn = world.env.pool().acquire().await?;
    let keys = Keys::start(world.env.database_url(), &testkit::keys(), &world.env.clock).await?;
    let name = keys.hash_external_id("suspended".parse()?).await?;
    let user = store::identity::users::by_external_id(&mut conn, &name).await?.expect("it is there");
    let change = store::identity::users::UserChange {
        status: Some(store::identity::users::AccountStatus::Suspended),
        ..Default::default()
    };
    store::identity::users::update(&mut conn, user.user_id, &change, world.env.clock.now()).await?;
    wait_until(Duration::from_secs(5), || async {
        let answer = suspended.put(path).json(&json!({})).send().await.expect("an answer");
        answer.code() == "account_suspended"
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn without_auto_provision_a_stranger_is_nobody() -> Result<()> {
    let world = World::without_worker(&[("AUTO_PROVISION", "false")]).await?;
    let stranger = world.client("stranger", Role::Service)?;
    let refused = stranger.put("/api/users/stranger").json(&json!({})).send().await?;
    assert_problem(&refused, 401, "unauthorized");
    let mut conn = world.env.pool().acquire().await?;
    store::identity::users::provision(
        &mut conn,
        vec![NewUser {
            external_id: Some("stranger".parse()?),
            ..NewUser::unnamed(world.env.ids.random_id())
        }],
        world.env.clock.now(),
    )
    .await?;
    stranger.put("/api/users/stranger").json(&json!({})).send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn two_first_requests_of_a_stranger_make_one_user() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let requests = (0..12).map(|_| {
        let client = world.client("newcomer", Role::Service);
        async move { client?.put("/api/users/newcomer").json(&json!({})).send().await }
    });
    let answers = futures_util::future::try_join_all(requests).await?;
    let ids: Vec<String> = answers.iter().map(user_id).collect::<Result<_>>()?;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    Ok(())
}

#[tokio::test]
async fn a_service_never_changes_who_a_credential_is() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let (service, admin) = (world.service()?, world.client("operator", Role::Admin)?);
    let victim = user_id(&service.put("/api/users/victim").json(&json!({})).send().await?.expect(201)?)?;
    let unnamed = world.env.ids.random_id().to_string();
    service.put(&format!("/api/users/{unnamed}")).json(&json!({})).send().await?.expect(201)?;
    let named = "/api/users/attacker";
    service.put(named).json(&json!({"external_id": "attacker"})).send().await?.expect(201)?;

    // The victim's credential bears its external id: whoever takes that name, or gives it away, is somebody else.
    let stored = json!({"token_type": "github", "token": format!("ghp_{}", "a".repeat(36))});
    let _ = world.user("victim")?.post("/api/tokens").json(&stored).send().await?;
    for (what, path, body) in [
        ("another name", format!("/api/users/{victim}"), json!({"external_id": "attacker-2"})),
        ("none", format!("/api/users/{victim}"), json!({"external_id": null})),
        ("none, by its name", "/api/users/victim".to_owned(), json!({"external_id": null})),
        ("a first name, later", format!("/api/users/{unnamed}"), json!({"external_id": "victim-2"})),
        ("a name with more", named.to_owned(), json!({"external_id": "victim-3", "email": "a@example.com"})),
    ] {
        let refused = service.put(&path).json(&body).send().await?;
        assert_problem(&refused, 403, "forbidden");
        let kept = admin.put(&path).json(&json!({})).send().await?.expect(200)?.json()?;
        assert!(
            kept["email"].is_null() && kept["external_id"] != body["external_id"]
                || kept["external_id"].is_null(),
            "{what}: {kept}"
        );
    }
    // What changes nothing is no change, so that a repeated request stays safe.
    service.put(named).json(&json!({"external_id": "attacker", "name": "A."})).send().await?.expect(200)?;
    let renamed = json!({"external_id": "victim-2"});
    admin.put(&format!("/api/users/{unnamed}")).json(&renamed).send().await?.expect(200)?;
    // In the request that makes the account a service says how the host calls it.
    let new = format!("/api/users/{}", world.env.ids.random_id());
    let made = service.put(&new).json(&json!({"external_id": "newcomer"})).send().await?.expect(201)?;
    assert_eq!(made.json()?["external_id"], "newcomer");
    Ok(())
}

/// Of two that make an account at once one has made it: the other may not name it.
#[tokio::test]
async fn an_account_is_made_by_whoever_made_it() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let mut conn = world.env.pool().acquire().await?;
    let keys = Keys::start(world.env.database_url(), &testkit::keys(), &world.env.clock).await?;
    let mut made = Vec::new();
    for _ in 0..2 {
        let name = keys.hash_external_id("contested".parse()?).await?;
        let new = NewUser::named(world.env.ids.random_id(), name);
        made.push(
            store::identity::users::provision(&mut conn, vec![new], world.env.clock.now()).await?.len(),
        );
    }
    assert_eq!(made, [1, 0]);
    Ok(())
}

#[tokio::test]
async fn an_account_that_an_admin_uses_is_barred_by_admins_alone() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let (service, admin) = (world.service()?, world.client("operator", Role::Admin)?);
    let path = "/api/users/operator";
    // Before anybody of that name has come as an admin the account is like any other.
    service.put(path).json(&json!({"status": "suspended"})).send().await?.expect(201)?;
    service.put(path).json(&json!({"status": "active"})).send().await?.expect(200)?;
    admin.get("/api/usage/stats").send().await?.expect(200)?;
    let refused = service.put(path).json(&json!({"status": "suspended"})).send().await?;
    assert_problem(&refused, 403, "forbidden");
    service.put(path).json(&json!({"status": "active", "name": "Op"})).send().await?.expect(200)?;
    admin.get("/api/usage/stats").send().await?.expect(200)?;

    let second = world.client("second", Role::Admin)?;
    second.put(path).json(&json!({"status": "suspended"})).send().await?.expect(200)?;
    assert_problem(&admin.get("/api/usage/stats").send().await?, 403, "account_suspended");
    let refused = service.put(path).json(&json!({"status": "active"})).send().await?;
    assert_problem(&refused, 403, "forbidden");
    Ok(())
}
