//! Actors in the bodies of events.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Somebody who acted, and in which role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor<'a> {
    /// The role.
    pub kind: ActorKind,
    /// A user's UUID, or the name of the part of the system.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

impl<'a> Actor<'a> {
    /// An actor.
    pub fn new(kind: ActorKind, id: impl Into<Cow<'a, str>>) -> Self {
        Self { kind, id: id.into() }
    }
}

/// Role in which somebody acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// The user.
    User,
    /// A service on the user's behalf.
    Service,
    /// An administrator.
    Admin,
    /// An operator at the command line.
    Operator,
    /// The ledger itself.
    System,
}

impl ActorKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::User, Self::Service, Self::Admin, Self::Operator, Self::System];

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::System => "system",
        }
    }
}

impl Actor<'_> {
    pub(crate) fn into_owned(self) -> Actor<'static> {
        Actor { kind: self.kind, id: owned(self.id) }
    }
}

pub(crate) fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}
