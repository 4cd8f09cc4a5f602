//! Who may call what, as data: what the extractors of the routes say, in one table. Tests hold every route against it
//! with every credential, and README's table is made of it.

use std::fmt::Write as _;

use credentials::{KeyRole, Scope};

use super::page_scopes;
use super::token::Role;

/// Callers that a route serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a credential; nothing in it belongs to anybody.
    Public,
    /// Users, each their own; service and admin for any.
    Own,
    /// Users for themselves and admins for any; never service.
    OwnOrAdmin,
    /// Users for themselves; nobody else.
    OwnOnly,
    /// Service and admin.
    Service,
    /// Users for themselves and admins for any; of services an API key alone.
    Eraser,
    /// People who have signed in by a browser, for themselves.
    SignedIn,
}

/// A route and its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteAccess {
    /// The method.
    pub method: &'static str,
    /// The path as it is documented.
    pub path: &'static str,
    /// Its callers.
    pub access: Access,
    /// Scope that an API key needs; none: no API key will do.
    pub scope: Option<Scope>,
}

impl RouteAccess {
    /// Whether an API key of the role may call it, if it has the scope.
    pub fn admits_key(&self, role: KeyRole) -> bool {
        let serves = match self.access {
            Access::Public | Access::Own => true,
            Access::OwnOrAdmin | Access::OwnOnly => role == KeyRole::User,
            Access::Service | Access::Eraser => role == KeyRole::Service,
            Access::SignedIn => false,
        };
        serves && self.scope.is_some_and(|scope| role.scopes().contains(scope))
    }

    /// Whether a session may call it, of a user or of an admin.
    pub fn admits_session(&self, role: Role) -> bool {
        match self.access {
            Access::Public => true,
            _ if matches!(self.scope, Some(Scope::Ingest | Scope::Check)) => false,
            Access::Own | Access::OwnOrAdmin | Access::Eraser | Access::SignedIn => true,
            Access::OwnOnly => role == Role::User,
            Access::Service => role == Role::Admin,
        }
    }

    /// The scope that a token for a page needs; none: no such token will do.
    pub fn page_scope(&self) -> Option<&'static str> {
        let serves = matches!(self.access, Access::Own | Access::OwnOrAdmin | Access::OwnOnly);
        page_scopes::name(self.scope.filter(|_| serves)?)
    }
}

/// Declares the table.
macro_rules! routes {
    ($($access:ident $scope:ident { $($method:ident $path:literal)+ })+) => {
        /// All routes, in the order in which README shows them.
        pub const ROUTES: &[RouteAccess] = &[$($(RouteAccess {
            method: stringify!($method),
            path: $path,
            access: Access::$access,
            scope: routes!(@ $scope),
        }),+),+];
    };
    (@ NoKey) => { None };
    (@ $scope:ident) => { Some(Scope::$scope) };
}

routes! {
    Public NoKey {
        GET "/healthz"
        GET "/readyz"
        GET "/api/usage/plans"
    }
    Public NoKey {
        GET "/api/auth/methods"
        POST "/api/auth/register"
        POST "/api/auth/login"
        POST "/api/auth/link"
        POST "/api/auth/reset"
        GET "/api/auth/github"
        GET "/api/auth/github/callback"
    }
    SignedIn NoKey {
        GET "/api/auth/session"
        POST "/api/auth/logout"
        POST "/api/auth/github"
        DELETE "/api/auth/github"
        GET "/api/auth/factors"
        POST "/api/auth/factors"
        POST "/api/auth/factors/{id}/confirm"
        POST "/api/auth/factors/verify"
        DELETE "/api/auth/factors/{id}"
        POST "/api/auth/recovery-codes"
        PATCH "/api/users/me"
        POST "/api/users/me/password"
        GET "/api/users/me/sessions"
        DELETE "/api/users/me/sessions"
        DELETE "/api/users/me/sessions/{id}"
    }
    Service Users {
        POST "/api/auth/browser-tokens"
    }
    Own Read {
        GET "/api/users/me"
        GET "/api/usage/stats"
        GET "/api/usage/history"
        GET "/api/usage/calls"
        GET "/api/usage/statements"
        GET "/api/usage/statements/{month}"
    }
    Own Check {
        POST "/api/usage/check"
        GET "/api/forward-auth"
        GET "/api/forward-auth/envoy/{path}"
    }
    Service Check {
        POST "/api/usage/calls/{call_id}/outcome"
    }
    Own Ingest {
        POST "/api/usage/events"
        POST "/api/v1/events"
    }
    OwnOnly Tokens {
        POST "/api/tokens"
        POST "/api/tokens/test"
        POST "/api/tokens/{id}/test"
    }
    OwnOrAdmin Tokens {
        GET "/api/tokens"
        GET "/api/tokens/{id}"
        DELETE "/api/tokens/{id}"
        GET "/api/tokens/audit"
        GET "/api/tokens/{id}/audit"
    }
    Own Plans {
        POST "/api/usage/upgrade"
    }
    Service Plans {
        PUT "/api/users/{user}/plan"
    }
    Service Users {
        PUT "/api/users/{user}"
    }
    Eraser Erase {
        POST "/api/users/{user}/erase"
    }
    OwnOrAdmin NoKey {
        GET "/api/users/{user}/export"
        GET "/api/users/me/security-log"
        POST "/api/usage/reset"
        POST "/api/keys"
        GET "/api/keys"
        GET "/api/keys/{id}"
        PATCH "/api/keys/{id}"
        DELETE "/api/keys/{id}"
        POST "/api/keys/{id}/rotate"
    }
}

/// The scope that an API key needs for an operation, in a sentence; none for what is open to all.
pub(crate) fn sentence(method: &str, path: &str) -> Option<String> {
    let route = ROUTES.iter().find(|route| route.method == method && route.path == path)?;
    match (route.access, route.scope) {
        (Access::Public, _) => None,
        (Access::SignedIn, _) => Some("For people who have signed in, by their session alone.".to_owned()),
        (_, Some(scope)) => Some(format!("An API key needs the scope `{}`.", scope.as_str())),
        (_, None) => Some("Not with an API key.".to_owned()),
    }
}

/// The table for people, in Markdown: what each credential may call.
pub fn markdown() -> String {
    let mut table = "| route | user | service | admin | session | user's key | service's key | page's token |
|---|---|---|---|---|---|---|---|
"
    .to_owned();
    for route in ROUTES {
        let (user, service, admin) = match route.access {
            Access::Public => ("all", "all", "all"),
            Access::Own => ("own", "any", "any"),
            Access::OwnOrAdmin | Access::Eraser => ("own", "–", "any"),
            Access::OwnOnly => ("own", "–", "–"),
            Access::Service => ("–", "any", "any"),
            Access::SignedIn => ("–", "–", "–"),
        };
        let session =
            match (route.access, route.admits_session(Role::User), route.admits_session(Role::Admin)) {
                (Access::Public, ..) => "all",
                (Access::SignedIn, ..) => "own",
                (_, true, true) => "as user, admin",
                (_, true, false) => "as user",
                (_, false, true) => "as admin",
                (_, false, false) => "–",
            };
        let page = match route.page_scope() {
            _ if route.access == Access::Public => "all".to_owned(),
            Some(scope) => format!("`{scope}`"),
            None => "–".to_owned(),
        };
        let key = |role: KeyRole| match route.scope {
            _ if route.access == Access::Public => "all".to_owned(),
            Some(scope) if route.admits_key(role) => format!("`{}`", scope.as_str()),
            _ => "–".to_owned(),
        };
        let (of_user, of_service) = (key(KeyRole::User), key(KeyRole::Service));
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| `{} {}` | {user} | {service} | {admin} | {session} | {of_user} | {of_service} | {page} |",
            route.method, route.path
        );
    }
    table
}
