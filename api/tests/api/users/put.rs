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

    let renamed =
        service.put(&format!("/api/users/{id}")).json(&json!({"external_id": "customer-8"})).send().await?;
    assert_eq!(renamed.expect(200)?.json()?["external_id"], "customer-8");
    let other = service.put(path).json(&json!({})).send().await?.expect(201)?;
    assert_ne!(user_id(&other)?, id, "the old name is free and names another user now");
    let taken = service.put(path).json(&json!({"external_id": "customer-8"})).send().await?;
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
    assert_problem(&refused, 422, "validation_failed");
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
