//! What is wrong is told in words for people: on every route, for every field and parameter, whatever was sent.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Answer, Role, World};

use crate::answers::assert_problem;

/// Words of this program, of its libraries or of their languages.
const FOREIGN: &[&str] = &[
    "invalid type",
    "invalid value",
    "invalid length",
    "expected",
    "struct",
    "enum",
    "variant",
    "u8",
    "u16",
    "u32",
    "u64",
    "i32",
    "i64",
    "f64",
    "usize",
    "sequence",
    "map,",
    "unit",
    "newtype",
    "tuple",
    "serde",
    "parsing failed",
    "digit found",
    "premature",
    "at line",
    "identifier",
    "missing field",
    "unknown field",
    "duplicate field",
    "target type",
    "`",
    "Option",
    "::",
];

/// `units` is a word of ours.
const OURS: &str = "units";

/// Values of every kind of JSON.
fn values() -> Vec<Value> {
    let nested = json!({"a": {"b": [1]}});
    let mut values =
        vec![json!("5"), json!("x"), json!(""), json!(7), json!(1.5), json!(-1), json!(1e300), json!(true)];
    values.extend([json!([]), json!([1]), json!({}), nested, json!(u64::MAX), Value::Null]);
    values
}

#[track_caller]
fn assert_words(answer: &Answer, sent: &str) {
    if answer.status.is_success() {
        return;
    }
    let code = answer.code();
    let body = assert_problem(answer, answer.status.as_u16(), &code);
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    let details = errors.iter().chain([&body]).filter_map(|error| error["detail"].as_str());
    for detail in details {
        let said = detail.replace(OURS, "");
        let foreign = FOREIGN.iter().find(|word| said.contains(*word));
        assert!(foreign.is_none(), "{sent}: {detail:?} holds {foreign:?}");
    }
}

/// Operations of the document with the schema of their body.
fn operations() -> Result<Vec<(String, String, Value, Value)>> {
    let document = serde_json::to_value(api::router::document())?;
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("operations")? {
            let content = operation["requestBody"]["content"].as_object();
            let schema = content.and_then(|content| content.values().next()).map(|media| &media["schema"]);
            let schema = schema.cloned().unwrap_or_default();
            let name = schema["$ref"].as_str().map(|name| name.trim_start_matches('#').to_owned());
            let schema = name.and_then(|name| document.pointer(&name).cloned()).unwrap_or(schema);
            found.push((method.to_uppercase(), path.clone(), operation.clone(), schema));
        }
    }
    Ok(found)
}

fn filled(path: &str) -> String {
    path.replace("{user}", "ada")
        .replace("{month}", "2026-11")
        .replace("{path}", "x")
        .replace("{id}", ID)
        .replace("{call_id}", ID)
}

const ID: &str = "0198e9a6-58a5-7cc3-9f0b-0123456789ab";

/// A new principal for each request, so that none is asked to slow down.
async fn send(world: &World, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
    let is_users = ["/api/tokens", "/api/keys"].iter().any(|prefix| path.starts_with(prefix));
    let role = if is_users { Role::User } else { Role::Service };
    let client = world.client(&format!("p-{}", world.env.ids.random_id()), role)?;
    let request = client.request(method.parse()?, path);
    match body {
        Some(body) => request.json(body).send().await,
        None => request.send().await,
    }
}

#[tokio::test]
async fn a_field_of_the_wrong_kind_is_told_in_words() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let mut integers = 0;
    for (method, path, _, schema) in operations()? {
        let path = filled(&path);
        for (field, of) in schema["properties"].as_object().into_iter().flatten() {
            for value in values() {
                let body = json!({ field.as_str(): value });
                assert_words(
                    &send(&world, &method, &path, Some(&body)).await?,
                    &format!("{method} {path} {body}"),
                );
            }
            let kinds = of["type"].to_string() + &of["oneOf"].to_string();
            if !kinds.contains("integer") {
                continue;
            }
            integers += 1;
            for (text, is_whole) in
                [("1.0", true), ("1e2", true), ("1.5", false), ("\"5\"", false), ("-1", false)]
            {
                let body = serde_json::from_str(&format!("{{\"{field}\": {text}}}"))?;
                let answer = send(&world, &method, &path, Some(&body)).await?.json()?;
                let errors = answer["errors"].as_array().cloned().unwrap_or_default();
                let told = errors.iter().filter_map(|error| error["detail"].as_str());
                let start = format!("{field} must be a whole number from ");
                let is_refused = told.clone().any(|detail| detail.starts_with(&start));
                assert_eq!(is_refused, !is_whole, "{method} {path} {body}: {:?}", told.collect::<Vec<_>>());
            }
        }
        for body in values() {
            if !schema.is_null() {
                assert_words(
                    &send(&world, &method, &path, Some(&body)).await?,
                    &format!("{method} {path} {body}"),
                );
            }
        }
    }
    assert!(integers >= 5, "{integers} fields hold integers");
    Ok(())
}

#[tokio::test]
async fn an_item_of_a_report_is_told_in_words() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    let numbers = ["units", "status_code", "response_time_ms", "request_size", "response_size"];
    let others = ["endpoint", "method", "ip_address", "user_agent", "nonsense"];
    for field in numbers.iter().chain(&others) {
        for value in values() {
            let mut event = json!({"id": "1", "subject": "ada", "data": {"endpoint": "/x"}});
            event["data"][*field] = value;
            let answer = service.post("/api/usage/events").json(&event).send().await?;
            assert_words(&answer, &event.to_string());
        }
    }
    for field in
        ["id", "subject", "source", "type", "time", "specversion", "datacontenttype", "data", "data_base64"]
    {
        for value in values() {
            let mut event = json!({"id": "1", "subject": "ada", "data": {"endpoint": "/x"}});
            event[field] = value;
            assert_words(&service.post("/api/usage/events").json(&event).send().await?, &event.to_string());
        }
    }
    for field in numbers {
        for (text, is_whole) in
            [("100.0", true), ("1e2", true), ("1.5", false), ("\"5\"", false), ("-1", false)]
        {
            let id = format!("{field}-{}", text.len());
            let event =
                format!(r#"{{"id":"{id}","subject":"ada","data":{{"endpoint":"/x","{field}":{text}}}}}"#);
            let answer = service.post("/api/usage/events").body("application/json", event).send().await?;
            let detail = answer.json()?["errors"][0]["detail"].as_str().unwrap_or_default().to_owned();
            let start = format!("{field} must be a whole number from ");
            assert_eq!((answer.status == 202, !detail.starts_with(&start)), (is_whole, is_whole), "{detail}");
        }
    }
    let said =
        service.post("/api/usage/events").body("application/json", r#"{"id":"1","data":{"units":"5"}}"#);
    assert!(said.send().await?.text().contains("units must be a whole number from 1"));
    Ok(())
}

#[tokio::test]
async fn a_parameter_is_told_in_words() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let mut tried = 0;
    for (method, path, operation, _) in operations()? {
        if path.contains("forward-auth") {
            continue;
        }
        let filled = filled(&path);
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().context("a name")?;
            for value in ["x", "1.5", "-1", "", "true", "99999999999999999999", "%00", "%E2%80%AE", "[]"] {
                let path = match parameter["in"].as_str() {
                    Some("query") => format!("{filled}?{name}={value}"),
                    Some("path") if !value.is_empty() => path.replace(&format!("{{{name}}}"), value),
                    _ => continue,
                };
                tried += 1;
                let body = (!operation["requestBody"].is_null()).then(|| json!({}));
                assert_words(
                    &send(&world, &method, &path, body.as_ref()).await?,
                    &format!("{method} {path}"),
                );
            }
        }
        let answer = send(&world, &method, &format!("{filled}?surprise=1&surprise=2"), None).await?;
        assert_words(&answer, &filled);
    }
    assert!(tried > 200, "{tried}");
    Ok(())
}

#[tokio::test]
async fn a_name_of_blanks_alone_names_nobody() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    for (in_path, blank) in
        [("%20", " "), ("%E3%80%80", "\u{3000}"), ("%20%C2%A0%20", " \u{a0} "), ("%E2%80%8B", "\u{200b}")]
    {
        let by_path = service.put(&format!("/api/users/{in_path}")).json(&json!({})).send().await?;
        assert_eq!(assert_problem(&by_path, 422, "validation_failed")["errors"][0]["code"], "blank");
        let by_field = service.put("/api/users/new").json(&json!({"external_id": blank})).send().await?;
        assert!(assert_problem(&by_field, 422, "validation_failed")["detail"].to_string().contains("blanks"));
        let reported = json!({"id": "1", "subject": blank, "data": {"endpoint": "/x"}});
        let reported = service.post("/api/usage/events").json(&reported).send().await?;
        assert_eq!(assert_problem(&reported, 422, "validation_failed")["errors"][0]["code"], "blank");
        world.user(blank)?.get("/api/usage/stats").send().await?.expect(401)?;
    }
    let users = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM users WHERE external_id <> 'backend'");
    assert_eq!(users.fetch_one(world.env.pool()).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_problem_without_a_type_bears_its_status_s_phrase() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let service = world.service()?;
    let wrong = json!([{"id": "1", "subject": "ada", "type": "t", "data": {"units": 0}}]);
    let large = service.post("/api/v1/events").body("application/json", vec![b' '; 9 * 1024 * 1024]);
    let answers = [
        (service.post("/api/v1/events").json(&wrong).send().await?, 400, "Bad Request"),
        (service.post("/api/usage/events").json(&wrong).send().await?, 422, "Unprocessable Content"),
        (world.anonymous()?.get("/api/usage/stats").send().await?, 401, "Unauthorized"),
        (world.user("ada")?.put("/api/users/x").json(&json!({})).send().await?, 403, "Forbidden"),
        (service.get("/nowhere").send().await?, 404, "Not Found"),
        (service.get("/api/usage/check").send().await?, 405, "Method Not Allowed"),
        (large.send().await?, 413, "Content Too Large"),
        (
            service.post("/api/usage/check").body("text/plain", "{}").send().await?,
            415,
            "Unsupported Media Type",
        ),
    ];
    for (answer, status, title) in answers {
        let body = assert_problem(&answer, status, &answer.code());
        assert_eq!((body["type"].as_str(), body["title"].as_str()), (Some("about:blank"), Some(title)));
    }
    Ok(())
}
