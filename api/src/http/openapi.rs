//! The OpenAPI document: what the handlers say about themselves, and what holds for all of them.

use std::collections::BTreeSet;

use utoipa::OpenApi as _;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, Content, OpenApi, Ref, RefOr, Response, Schema};

use crate::http::problem::{PROBLEM_JSON, ProblemBody};

/// Name of the schema of problems.
const PROBLEM: &str = "Problem";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "usage-ledger",
        description = "Counts API calls exactly once and holds them to their plan's limits.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemBody)),
    security(("bearer" = []), ("api_key" = []))
)]
struct Base;

/// The part of the document that belongs to no endpoint.
pub(crate) fn base() -> OpenApi {
    let mut document = Base::openapi();
    let components = document.components.get_or_insert_default();
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some("A JWT, or an API key (`ul_…`)".to_owned());
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let header = ApiKeyValue::with_description("X-Api-Key", "An API key, in a header of its own; never both");
    components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(header)));
    document
}

/// Says of every operation what holds for all of its kind: the refusals that come from the layers and extractors before
/// its handler, the media type of every problem, and what `credentials` says of a method and path. What a handler says
/// itself of a status stays.
pub(crate) fn complete(document: &mut OpenApi, credentials: impl Fn(&str, &str) -> Option<String>) {
    let components = document.components.get_or_insert_default();
    for common in &COMMON {
        components.responses.insert(common.name.to_owned(), common.response().into());
    }
    let name_users = bodies_that_name_users(components);
    for (path, item) in &mut document.paths.paths {
        // The first one reads, the others change something.
        let operations = [
            ("GET", &mut item.get),
            ("PUT", &mut item.put),
            ("POST", &mut item.post),
            ("PATCH", &mut item.patch),
            ("DELETE", &mut item.delete),
        ];
        for (index, (method, operation)) in operations.into_iter().enumerate() {
            let Some(operation) = operation else { continue };
            if let Some(sentence) = credentials(method, path) {
                let said = operation.description.get_or_insert_default();
                let gap = if said.is_empty() { "" } else { "\n\n" };
                said.extend([gap, &sentence]);
            }
            let traits = Traits::of(path, operation, index > 0, &name_users);
            let responses = &mut operation.responses.responses;
            for response in responses.values_mut() {
                if let RefOr::T(response) = response {
                    name_media_type(response);
                }
            }
            for common in COMMON.iter().filter(|common| (common.applies)(&traits)) {
                let response = || RefOr::Ref(Ref::from_response_name(common.name));
                responses.entry(common.status.to_owned()).or_insert_with(response);
            }
        }
    }
}

/// What decides which refusals an operation shares with others.
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
struct Traits {
    is_public: bool,
    is_health: bool,
    is_asked_by_proxies: bool,
    has_body: bool,
    has_query: bool,
    has_parameters: bool,
    names_a_thing: bool,
    changes_a_user: bool,
    has_key: bool,
}

impl Traits {
    fn of(path: &str, operation: &Operation, changes: bool, name_users: &BTreeSet<String>) -> Self {
        let parameters = || {
            operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
                RefOr::T(parameter) => Some(parameter),
                RefOr::Ref(_) => None,
            })
        };
        let is_named = |name: &str| parameters().any(|parameter| parameter.name == name);
        let names_a_user = path.contains("{user}")
            || is_named("user_id")
            || body_schemas(operation).any(|name| name_users.contains(name));
        let public = [SecurityRequirement::default()];
        Self {
            is_public: operation.security.as_deref() == Some(&public),
            is_health: path == "/healthz",
            is_asked_by_proxies: path.starts_with("/api/forward-auth"),
            has_body: operation.request_body.is_some(),
            has_query: parameters().any(|parameter| parameter.parameter_in == ParameterIn::Query),
            has_parameters: parameters().next().is_some(),
            names_a_thing: path.contains('{') || names_a_user,
            changes_a_user: changes && names_a_user,
            has_key: is_named("Idempotency-Key"),
        }
    }

    /// Anything of it must be of a type. What a proxy asks about is checked by its handler.
    fn is_read(&self) -> bool {
        self.has_body || self.has_query || (self.has_parameters && !self.is_asked_by_proxies)
    }
}

/// Schemas with a field `user_id`: who names another user there may be told that there is none.
fn bodies_that_name_users(components: &Components) -> BTreeSet<String> {
    let names_user = |schema: &RefOr<Schema>| match schema {
        RefOr::T(Schema::Object(object)) => object.properties.contains_key("user_id"),
        _ => false,
    };
    let found = components.schemas.iter().filter(|(_, schema)| names_user(schema));
    found.map(|(name, _)| name.clone()).collect()
}

/// Names of the schemas of an operation's body.
fn body_schemas(operation: &Operation) -> impl Iterator<Item = &str> {
    let content = match &operation.request_body {
        Some(RefOr::T(body)) => Some(&body.content),
        _ => None,
    };
    content.into_iter().flat_map(|content| content.values()).filter_map(|content| match content {
        RefOr::T(Content { schema: Some(RefOr::Ref(named)), .. }) => named.ref_location.rsplit('/').next(),
        _ => None,
    })
}

/// A refusal that operations of a kind share.
struct Common {
    status: &'static str,
    name: &'static str,
    description: &'static str,
    /// A header of it, and what that says.
    header: Option<(&'static str, &'static str)>,
    applies: fn(&Traits) -> bool,
}

const COMMON: [Common; 12] = [
    Common {
        status: "400",
        name: "Malformed",
        description: "A path, query, header or body that cannot be read",
        header: None,
        applies: |of| of.has_body || of.has_parameters,
    },
    Common {
        status: "401",
        name: "Unauthorized",
        description: "No credential, or none that is valid now; the same for every cause",
        header: Some(("WWW-Authenticate", "`Bearer`")),
        applies: |of| !of.is_public,
    },
    Common {
        status: "403",
        name: "Forbidden",
        description: "The role may not, or the account is suspended",
        header: None,
        applies: |of| !of.is_public,
    },
    Common {
        status: "404",
        name: "NotFound",
        description: "There is no such thing for this caller, be it another user's",
        header: None,
        applies: |of| of.names_a_thing && !of.is_asked_by_proxies,
    },
    Common {
        status: "408",
        name: "RequestTimeout",
        description: "The body did not arrive in time",
        header: None,
        applies: |of| of.has_body,
    },
    Common {
        status: "409",
        name: "Conflict",
        description: "The user was erased, or the first request with this Idempotency-Key is still running",
        header: Some(("Retry-After", "Seconds")),
        applies: |of| of.has_key || of.changes_a_user,
    },
    Common {
        status: "413",
        name: "TooLarge",
        description: "The body is larger than 1 MiB",
        header: None,
        applies: |of| of.has_body,
    },
    Common {
        status: "415",
        name: "UnsupportedMediaType",
        description: "Another Content-Type, or a Content-Encoding that is not taken here",
        header: Some(("Accept-Encoding", "Encodings that are taken, where it is that")),
        applies: |of| of.has_body,
    },
    Common {
        status: "422",
        name: "ValidationFailed",
        description: "A field or a parameter is wrong; `errors` names it",
        header: None,
        applies: Traits::is_read,
    },
    Common {
        status: "429",
        name: "SlowDown",
        description: "Too many requests, or failed credentials; nothing of the plan is used up",
        header: Some(("Retry-After", "Seconds")),
        applies: |of| !of.is_public,
    },
    Common {
        status: "500",
        name: "InternalError",
        description: "A fault of this service; `request_id` finds it in its log",
        header: None,
        applies: |_| true,
    },
    Common {
        status: "503",
        name: "Unavailable",
        description: "The log or the database is away or busy, or the request took too long",
        header: Some(("Retry-After", "Seconds")),
        applies: |of| !of.is_health,
    },
];

impl Common {
    fn response(&self) -> Response {
        let problem = Content::builder().schema(Some(Ref::from_schema_name(PROBLEM))).build();
        let mut response =
            Response::builder().description(self.description).content(PROBLEM_JSON, problem).build();
        if let Some((name, says)) = self.header {
            let header = Header::builder().description(Some(says)).build();
            response.headers.insert(name.to_owned(), header.into());
        }
        response
    }
}

/// Problems have a media type of their own, which no handler must spell.
fn name_media_type(response: &mut Response) {
    const JSON: &str = "application/json";
    let schema = match response.content.get(JSON) {
        Some(RefOr::T(content)) => &content.schema,
        _ => &None,
    };
    let is_problem = match schema {
        Some(RefOr::Ref(named)) => named.ref_location.ends_with(&format!("/{PROBLEM}")),
        _ => false,
    };
    if is_problem && let Some(content) = response.content.shift_remove(JSON) {
        response.content.insert(PROBLEM_JSON.to_owned(), content);
    }
}
