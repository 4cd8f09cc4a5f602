//! Bodies of what happens to accounts, links of their user's audit chain, and of credentials that named nobody.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::actor::{Actor, owned};
use crate::sealed::SealedJson;

/// Declares the actions: each one's name, from which its event's type follows.
macro_rules! account_actions {
    ($($(#[$doc:meta])* $action:ident: $name:literal;)+) => {
        /// What happened to an account.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AccountAction {
            $($(#[$doc])* $action,)+
        }

        impl AccountAction {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$action),+];

            /// The name, as the tables have it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)+
                }
            }

            /// The type and version of its event.
            pub const fn event_type(self) -> &'static str {
                match self {
                    $(Self::$action => concat!("user.", $name, ".v1"),)+
                }
            }
        }
    };
}

account_actions! {
    /// An account was made for a person, who registered or took an invitation.
    Registered: "user_registered";
    /// A session was made. The object is the session, the method how its user signed in.
    SignedIn: "signed_in";
    /// A session was ended. The object is the session; none: all of them.
    SignedOut: "signed_out";
    /// A password was set, changed or taken away.
    PasswordChanged: "password_changed";
    /// A second factor was confirmed. The object is the factor, the method its kind.
    FactorAdded: "factor_added";
    /// A second factor was taken away. The object is the factor, the method its kind.
    FactorRemoved: "factor_removed";
    /// Recovery codes were made; earlier ones are of no use any more.
    RecoveryCodesMade: "recovery_codes_made";
    /// A way to sign in was linked to the account. The method is its kind.
    IdentityLinked: "identity_linked";
    /// A way to sign in was taken away. The method is its kind.
    IdentityUnlinked: "identity_unlinked";
    /// The account was suspended, or is no longer: the method is `suspended` or `active`.
    StatusChanged: "status_changed";
    /// A link that is used once was made. The method is `sign_in`, `invitation` or `password_reset`.
    LinkMade: "link_made";
    /// What the user says of itself was changed.
    ProfileChanged: "profile_changed";
}

impl AccountAction {
    /// The action of an event's type, if it is one's.
    pub fn of_type(event_type: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|action| action.event_type() == event_type)
    }
}

/// Something that happened to an account: an [`AccountAction`] says what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountFact<'a> {
    /// By what means, in one word of [`AccountFact::MAX_METHOD_BYTES`] at most: `password`, `github` and the like.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'a, str>>,
    /// The session, factor or whatever it happened to, if that has an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<Uuid>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
    /// From where ([`crate::Personal`]), sealed for this user and this event's id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<SealedJson<'a>>,
}

impl AccountFact<'_> {
    /// Longest method.
    pub const MAX_METHOD_BYTES: usize = 64;

    pub(crate) fn into_owned(self) -> AccountFact<'static> {
        AccountFact {
            method: self.method.map(owned),
            object_id: self.object_id,
            actor: self.actor.into_owned(),
            personal: self.personal.map(SealedJson::into_owned),
        }
    }
}

/// Credentials that were refused within a minute. It concerns no user: whom they were meant for, nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthFailed<'a> {
    /// Start of the minute.
    #[serde(with = "ledger::time::rfc3339")]
    pub window_start: DateTime<Utc>,
    /// Their numbers, [`AuthFailed::MAX_NAMED`] at most.
    #[serde(borrow)]
    pub counts: Vec<AuthFailureCount<'a>>,
    /// Number of all beyond those that are told apart.
    pub other: u64,
}

/// Number of credentials from one network that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthFailureCount<'a> {
    /// Why, in one word.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// The first 24 bits of an IPv4 address, 48 of an IPv6 address, as `203.0.113.0/24`: no person's.
    #[serde(borrow)]
    pub network: Cow<'a, str>,
    /// Number of credentials.
    pub failures: u64,
}

impl AuthFailed<'_> {
    /// Reasons and networks that are told apart.
    pub const MAX_NAMED: usize = 64;

    /// The counts as JSON, as they stand in the event.
    pub fn counts_json(&self) -> String {
        serde_json::to_string(&self.counts).expect("texts and whole numbers are JSON")
    }

    pub(crate) fn into_owned(self) -> AuthFailed<'static> {
        let counts = self.counts.into_iter().map(|count| AuthFailureCount {
            reason: owned(count.reason),
            network: owned(count.network),
            failures: count.failures,
        });
        AuthFailed { window_start: self.window_start, counts: counts.collect(), other: self.other }
    }
}
