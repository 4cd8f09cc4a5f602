//! Bearer tokens and root keys of tests.

use data_keys::KeyConfig;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ledger::Clock;
use serde::Serialize;
use serde_json::{Map, Value, json};
use vault::KeyRing;

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

/// A bearer token in the making, a JWT: valid for an hour unless told otherwise. A user's is signed as a host does, one
/// of another role as the vault's root does.
#[derive(Clone, Debug)]
pub struct Token {
    claims: Map<String, Value>,
    kid: Option<String>,
    secret: Vec<u8>,
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
        let unsigned = Self { claims, kid: None, secret: Vec::new() };
        match role {
            Role::User => unsigned.secret(JWT_SECRET),
            Role::Service | Role::Admin => unsigned.root("k1", ENCRYPTION_KEY),
        }
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

    /// Signs with a host's secret.
    #[must_use]
    pub fn secret(mut self, secret: &str) -> Self {
        secret.as_bytes().clone_into(&mut self.secret);
        self.kid = None;
        self
    }

    /// Signs with what is derived from this root key.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn root(mut self, kid: &str, key: &str) -> Self {
        let ring = KeyRing::from_config(key, kid, "").expect("a root key");
        ring.current_role_key().expose().clone_into(&mut self.secret);
        self.kid = Some(kid.to_owned());
        self
    }

    /// Names this key in the header, whatever signs.
    #[must_use]
    pub fn kid(mut self, kid: &str) -> Self {
        self.kid = Some(kid.to_owned());
        self
    }

    /// The compact form, signed with HS256.
    ///
    /// # Panics
    /// Never for claims that are JSON.
    pub fn mint(&self) -> String {
        self.mint_as(Algorithm::HS256)
    }

    /// The compact form, signed with this algorithm of HMAC.
    ///
    /// # Panics
    /// When the algorithm is another.
    pub fn mint_as(&self, algorithm: Algorithm) -> String {
        let key = EncodingKey::from_secret(&self.secret).expect("a secret that is not empty");
        let mut header = Header::new(algorithm);
        header.kid.clone_from(&self.kid);
        jsonwebtoken::encode(&header, &self.claims, &key).expect("claims are plain JSON")
    }
}
