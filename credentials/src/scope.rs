//! Scopes: parts of a role that an API key may use, and roles that keys have.

use std::fmt;
use std::str::FromStr;

/// Role that an API key acts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyRole {
    /// As its user, for its user alone.
    User,
    /// As a service, for any user.
    Service,
}

impl KeyRole {
    /// The name in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
        }
    }

    /// Scopes that a key of the role may have.
    pub const fn scopes(self) -> Scopes {
        match self {
            Self::User => Scopes::of(&[Scope::Ingest, Scope::Check, Scope::Read, Scope::Tokens]),
            Self::Service => Scopes::of(&[
                Scope::Ingest,
                Scope::Check,
                Scope::Read,
                Scope::Plans,
                Scope::Users,
                Scope::Erase,
            ]),
        }
    }
}

/// A text that names no role of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key's role is user or service")]
pub struct UnknownKeyRole;

impl FromStr for KeyRole {
    type Err = UnknownKeyRole;

    fn from_str(text: &str) -> Result<Self, UnknownKeyRole> {
        match text {
            "user" => Ok(Self::User),
            "service" => Ok(Self::Service),
            _ => Err(UnknownKeyRole),
        }
    }
}

/// Part of what a role may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Report calls that happened.
    Ingest,
    /// Ask for calls, have them recorded, say how they ended.
    Check,
    /// Read usage.
    Read,
    /// Keep, test and delete tokens of third parties.
    Tokens,
    /// Change plans.
    Plans,
    /// Make and change users.
    Users,
    /// Erase users.
    Erase,
}

impl Scope {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] =
        [Self::Ingest, Self::Check, Self::Read, Self::Tokens, Self::Plans, Self::Users, Self::Erase];

    /// The name in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Check => "check",
            Self::Read => "read",
            Self::Tokens => "tokens",
            Self::Plans => "plans",
            Self::Users => "users",
            Self::Erase => "erase",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A text that names no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is one of ingest, check, read, tokens, plans, users, erase")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

/// A set of scopes; empty by default.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// The set of these.
    pub const fn of(scopes: &[Scope]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < scopes.len() {
            bits |= scopes[at].bit();
            at += 1;
        }
        Self(bits)
    }

    /// Whether it holds the scope.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Its scopes, in the order in which they are shown.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }

    /// Those of it that the other set does not hold.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for Scopes {
    /// The names, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, scope.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_is_itself_and_no_other() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            let set = Scopes::of(&[scope]);
            assert_eq!(set.iter().collect::<Vec<_>>(), [scope]);
        }
        assert_eq!("Read".parse::<Scope>(), Err(UnknownScope));
        assert!(Scopes::default().is_empty());
    }

    #[test]
    fn what_a_service_does_to_others_is_no_users_and_a_vault_no_service_s() {
        let (user, service) = (KeyRole::User.scopes(), KeyRole::Service.scopes());
        assert_eq!(service.without(user).to_string(), "plans, users, erase");
        assert_eq!(user.without(service).to_string(), "tokens");
    }
}
