//! Bearer tokens and root keys of tests.

use data_keys::KeyConfig;
use jsonwebtoken::{EncodingKey, Header};
use ledger::Clock;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The `JWT_SECRET` of every api that tests start.
pub const JWT_SECRET: &str = "a secret of tests, which is nowhere else";

/// The `ENCRYPTION_KEY` of every process that tests start.
pub const ENCRYPTION_KEY: &str = "5ec2e7000000000000000000000000000000000000000000000000000000c0de";

/// The root keys of every process that tests start.
pub fn keys() -> KeyConfig {
    KeyConfig::read(&|name| (name == "ENCRYPTION_KEY").then(|| ENCRYPTION_KEY.to_owned()))
}

/// Role of the one whom a bearer token speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Own things only.
    User,
    /// A trusted backend.
    Service,
    /// The operator.
    Admin,
}

/// A bearer token in the making, a JWT: valid for an hour and minted by us unless told otherwise.
#[derive(Clone, Debug)]
pub struct Token {
    claims: Map<String, Value>,
    secret: String,
}

impl Token {
    /// A bearer token for a user (our id or the host's), issued at the clock's present.
    pub fn new(clock: &Clock, subject: &str, role: Role) -> Self {
        let now = clock.now().timestamp();
        let claims = [
            ("sub", json!(subject)),
            ("role", json!(role)),
            ("iss", json!("usage-ledger")),
            ("iat", json!(now)),
            ("exp", json!(now + 3600)),
        ];
        let claims = claims.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        Self { claims, secret: JWT_SECRET.to_owned() }
    }

    /// Sets a claim, or removes it with null.
    #[must_use]
    pub fn claim(mut self, name: &str, value: Value) -> Self {
        match value {
            Value::Null => self.claims.remove(name),
            value => self.claims.insert(name.to_owned(), value),
        };
        self
    }

    /// Signs with another secret.
    #[must_use]
    pub fn secret(mut self, secret: &str) -> Self {
        secret.clone_into(&mut self.secret);
        self
    }

    /// The compact form, signed with HS256.
    ///
    /// # Panics
    /// Never for claims that are JSON.
    pub fn mint(&self) -> String {
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), &self.claims, &key).expect("claims are plain JSON")
    }
}
