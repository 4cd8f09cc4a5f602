//! JSON Web Tokens: minting and verifying, without looking at who their user is.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use ledger::UserRef;

/// Issuer of the tokens that this service and its command line mint: the only one whose roles are believed.
pub const ISSUER: &str = "usage-ledger";
/// Clocks of issuer and verifier may differ by so much, in seconds.
const LEEWAY_S: i64 = 30;
/// A longer token is not looked at.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Role of a principal: what it may do. `usage-ledger` tokens carry it; every other token is a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Own things only.
    #[default]
    User,
    /// A host's backend or proxy: reports, checks and reads for any user.
    Service,
    /// All but opening tokens.
    Admin,
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "user" => Ok(Self::User),
            "service" => Ok(Self::Service),
            "admin" => Ok(Self::Admin),
            _ => Err("a role is one of user, service, admin"),
        }
    }
}

/// Settings of bearer tokens: how they are signed and which are accepted.
#[derive(Clone)]
pub struct JwtSettings {
    /// Signs and verifies; at least 32 bytes.
    pub secret: SecretString,
    /// Verifies only: the secret before the last change.
    pub previous: Option<SecretString>,
    /// Issuer; when set, a token's `iss` must be this or our own.
    pub issuer: Option<String>,
    /// Audience; when set, a token's `aud` must contain it.
    pub audience: Option<String>,
    /// The claim that names the user.
    pub subject_claim: String,
}

/// A token whose signature, issuer and audience are right, whatever the time.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) subject: UserRef,
    pub(crate) role: Role,
    /// Time at which it was issued, if it says so; seconds since 1970.
    pub(crate) issued_at_s: Option<i64>,
    expires_at_s: i64,
    not_before_s: Option<i64>,
}

impl Verified {
    /// Tells whether the token is valid at `now_s`, give or take the leeway.
    pub(super) fn valid_at(&self, now_s: i64) -> Result<(), Reason> {
        if now_s >= self.expires_at_s.saturating_add(LEEWAY_S) {
            Err(Reason::Expired)
        } else if self.not_before_s.is_some_and(|from| now_s < from.saturating_sub(LEEWAY_S)) {
            Err(Reason::NotYetValid)
        } else {
            Ok(())
        }
    }
}

/// Reason why a credential was refused: a metric's label, never told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Missing,
    Malformed,
    Algorithm,
    Signature,
    Issuer,
    Audience,
    Claims,
    Expired,
    NotYetValid,
    UnknownUser,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownUser => "unknown_user",
        }
    }
}

pub(super) struct Verifier {
    decoding_keys: Vec<DecodingKey>,
    validation: Validation,
    subject_claim: String,
}

impl Verifier {
    pub(super) fn new(settings: &JwtSettings) -> Self {
        let secrets = std::iter::once(&settings.secret).chain(&settings.previous);
        let decoding_keys = secrets.map(|secret| DecodingKey::from_secret(secret.expose_secret().as_bytes()));
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked by `Verified::valid_at` against the ledger's clock: the library would ask the system's, and
        // a cached token has to be checked anew anyway. `Claims` makes `exp` a required number.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer.as_str(), ISSUER]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        match &settings.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".to_owned());
            }
            None => validation.validate_aud = false,
        }
        Self {
            decoding_keys: decoding_keys.collect(),
            validation,
            subject_claim: settings.subject_claim.clone(),
        }
    }

    pub(super) fn verify(&self, token: &str) -> Result<Verified, Reason> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Reason::Malformed);
        }
        let mut reason = Reason::Signature;
        for key in &self.decoding_keys {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(data) => return self.verified(data.claims),
                Err(error) => reason = refusal(error.kind()),
            }
            if reason != Reason::Signature {
                break;
            }
        }
        Err(reason)
    }

    fn verified(&self, mut claims: Claims) -> Result<Verified, Reason> {
        let subject = claims.others.remove(&self.subject_claim);
        let subject = subject.as_ref().and_then(Value::as_str).ok_or(Reason::Claims)?;
        let subject: UserRef = subject.parse().map_err(|_| Reason::Claims)?;
        let ours = claims.iss.as_deref() == Some(ISSUER);
        let claimed = claims.others.get("role").and_then(Value::as_str);
        let role = match claimed {
            Some(role) if ours => role.parse().map_err(|_| Reason::Claims)?,
            _ => Role::User,
        };
        Ok(Verified {
            subject,
            role,
            issued_at_s: claims.iat.map(|at| at.0),
            expires_at_s: claims.exp.0,
            not_before_s: claims.nbf.map(|at| at.0),
        })
    }
}

fn refusal(kind: &ErrorKind) -> Reason {
    match kind {
        ErrorKind::InvalidSignature => Reason::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            Reason::Algorithm
        }
        ErrorKind::InvalidIssuer => Reason::Issuer,
        ErrorKind::InvalidAudience => Reason::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Reason::Claims,
        _ => Reason::Malformed,
    }
}

#[derive(Deserialize)]
struct Claims {
    exp: NumericDate,
    #[serde(default)]
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Option<NumericDate>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

/// Seconds since the epoch (RFC 7519 §2), perhaps with a fraction. Text is refused: a claim that is there but cannot
/// be read must not count as absent (CVE-2026-25537).
struct NumericDate(i64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DateVisitor;
        impl Visitor<'_> for DateVisitor {
            type Value = NumericDate;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number of seconds")
            }

            fn visit_i64<E: Error>(self, seconds: i64) -> Result<NumericDate, E> {
                Ok(NumericDate(seconds))
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<NumericDate, E> {
                i64::try_from(seconds).map(NumericDate).map_err(E::custom)
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<NumericDate, E> {
                // 2^53: beyond it a float no longer holds every second.
                if seconds.is_finite() && seconds.abs() < 9_007_199_254_740_992.0 {
                    #[expect(clippy::cast_possible_truncation, reason = "in range: checked above")]
                    return Ok(NumericDate(seconds.floor() as i64));
                }
                Err(E::custom("not a time"))
            }
        }
        deserializer.deserialize_any(DateVisitor)
    }
}

/// Content of a token that [`mint`] writes.
#[derive(Clone, Debug)]
pub struct Mint<'a> {
    /// Our UUID of the user, or the host's external id.
    pub subject: &'a UserRef,
    /// Role that the token gives.
    pub role: Role,
    /// Time for which it is valid.
    pub ttl: Duration,
    /// Time at which it is minted.
    pub now: DateTime<Utc>,
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("could not sign a token")]
pub struct MintError(#[source] jsonwebtoken::errors::Error);

/// Mints a token that an api with the same settings accepts.
pub fn mint(settings: &JwtSettings, mint: &Mint<'_>) -> Result<SecretString, MintError> {
    let now_s = mint.now.timestamp();
    let ttl_s = i64::try_from(mint.ttl.as_secs()).unwrap_or(i64::MAX);
    let mut claims = serde_json::json!({
        "role": mint.role,
        "iat": now_s,
        "exp": now_s.saturating_add(ttl_s),
    });
    claims[&settings.subject_claim] = match mint.subject {
        UserRef::Id(id) => Value::from(id.to_string()),
        UserRef::External(external) => Value::from(external.as_str()),
    };
    claims["iss"] = Value::from(ISSUER);
    if let Some(audience) = &settings.audience {
        claims["aud"] = Value::from(audience.as_str());
    }
    let key = EncodingKey::from_secret(settings.secret.expose_secret().as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(MintError)?;
    Ok(SecretString::from(token))
}
