//! JSON Web Tokens: minting and verifying, without looking at who their user is.
//!
//! There are three kinds. The host signs its users' tokens with `JWT_SECRET`, or an identity provider does by a key of
//! `JWT_JWKS_URL`: whatever they claim, they are a user's. Tokens of roles are signed with a key that is derived from
//! the vault's root, which their `kid` names: so whoever holds `JWT_SECRET` mints users only. The algorithm in a
//! token's head says which kind it may be, and each kind has keys of its own.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use credentials::{Malformed, Scopes};
use data_keys::Keys;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode_header};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use ledger::{Clock, UserRef};
use outbound::documents::{DocumentError, DocumentUrl};

use super::issuer_keys::{Edition, Found, IssuerKeys};
use super::page_scopes;

/// Issuer of the tokens that this service and its command line mint. No host may be called so.
pub const ISSUER: &str = "usage-ledger";
/// Time for which a previous root key's tokens are accepted, in seconds, after the database first saw the current one.
const PREVIOUS_ROOT_S: i64 = 24 * 3600;
/// Clocks of issuer and verifier may differ by so much, in seconds.
const LEEWAY_S: i64 = 30;
/// Claim of the scopes of a page's token.
const SCOPES: &str = "scopes";
/// A longer token is not looked at.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Algorithms of an identity provider's signatures.
const ISSUER_ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Role of a principal: what it may do. Tokens that the vault's root signed carry it; every other token is a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
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
    /// Verifies users' tokens; at least 32 bytes.
    pub secret: SecretString,
    /// Verifies too: the secret before the last change.
    pub previous: Option<SecretString>,
    /// Issuer; when set, a user's token must have this `iss`.
    pub issuer: Option<String>,
    /// Audience; when set, a token's `aud` must contain it.
    pub audience: Option<String>,
    /// The claim that names the user.
    pub subject_claim: String,
    /// Keys of an identity provider; its tokens must have `issuer` and `audience`, which are there then.
    pub issuer_keys: Option<DocumentUrl>,
}

/// A token whose signature, issuer and audience are right, whatever the time.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) subject: UserRef,
    pub(crate) role: Role,
    /// Time at which it was issued, if it says so; seconds since 1970.
    pub(crate) issued_at_s: Option<i64>,
    /// The part of the role that it may use; none is all of it.
    pub(crate) scopes: Option<Scopes>,
    expires_at_s: i64,
    not_before_s: Option<i64>,
    /// A previous root key signed it, and nobody knows yet when the current one came.
    pub(super) is_unproven: bool,
    /// The identity provider's document whose key verified it.
    edition: Option<Edition>,
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
    /// No fault of the token's: nobody can say whether it is good.
    IssuerAway,
    Checksum,
    Environment,
    UnknownKey,
    UnknownSession,
    Network,
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
            Self::IssuerAway => "issuer_away",
            Self::Checksum => "checksum",
            Self::Environment => "environment",
            Self::UnknownKey => "unknown_key",
            Self::UnknownSession => "unknown_session",
            Self::Network => "network",
        }
    }
}

impl From<Malformed> for Reason {
    fn from(fault: Malformed) -> Self {
        match fault {
            Malformed::Form => Self::Malformed,
            Malformed::Checksum => Self::Checksum,
            Malformed::Environment => Self::Environment,
        }
    }
}

pub(super) struct Verifier {
    keys: Keys,
    /// By the names of the root keys.
    role_keys: HashMap<String, DecodingKey>,
    role_validation: Validation,
    host_keys: Vec<DecodingKey>,
    host_validation: Validation,
    issuer: Option<Issuer>,
    subject_claim: String,
}

/// An identity provider.
struct Issuer {
    keys: IssuerKeys,
    validations: [Validation; ISSUER_ALGORITHMS.len()],
}

impl Verifier {
    pub(super) fn new(settings: &JwtSettings, keys: Keys, clock: Clock) -> Result<Self, JwtKeyError> {
        let key = |secret: &[u8]| DecodingKey::from_secret(secret).map_err(JwtKeyError::Secret);
        let (issuer, audience) = (settings.issuer.as_deref(), settings.audience.as_deref());
        let hmac = Algorithm::HS256;
        let role_keys = keys.ring().role_keys();
        let role_keys = role_keys
            .map(|(kid, secret)| Ok::<_, JwtKeyError>((kid.to_string(), key(secret.expose())?)))
            .collect::<Result<_, _>>()?;
        let secrets = std::iter::once(&settings.secret).chain(&settings.previous);
        let host_keys =
            secrets.map(|secret| key(secret.expose_secret().as_bytes())).collect::<Result<_, _>>()?;
        Ok(Self {
            keys,
            role_keys,
            role_validation: validation(hmac, Some(ISSUER), audience),
            host_keys,
            host_validation: validation(hmac, issuer, audience),
            issuer: settings
                .issuer_keys
                .clone()
                .map(|address| {
                    let validations =
                        ISSUER_ALGORITHMS.map(|algorithm| validation(algorithm, issuer, audience));
                    Ok::<_, JwtKeyError>(Issuer { keys: IssuerKeys::new(address, clock)?, validations })
                })
                .transpose()?,
            subject_claim: settings.subject_claim.clone(),
        })
    }

    /// Verifies a token, whatever the time.
    pub(super) async fn verify(&self, token: &str) -> Result<Verified, Reason> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Reason::Malformed);
        }
        let header = decode_header(token).map_err(|error| refusal(error.kind()))?;
        // Nothing that a token may call critical is known here.
        if header.crit.is_some() {
            return Err(Reason::Malformed);
        }
        if let Some(issuer) = &self.issuer
            && let Some(validation) =
                issuer.validations.iter().find(|its| its.algorithms.contains(&header.alg))
        {
            return self.verify_issued(issuer, token, &header, validation).await;
        }
        match self.verify_role(token, header.kid) {
            // Not ours: a host may have keys of the same name.
            None | Some(Err(Reason::Signature)) => self.verify_host(token),
            Some(verified) => verified,
        }
    }

    /// Whether what was verified earlier still is, the time apart.
    pub(super) fn is_current(&self, verified: &Verified) -> bool {
        match (verified.edition, &self.issuer) {
            (Some(edition), Some(issuer)) => issuer.keys.is_current(edition),
            _ => true,
        }
    }

    /// The token as one that the identity provider signed: a user's.
    async fn verify_issued(
        &self,
        issuer: &Issuer,
        token: &str,
        header: &Header,
        validation: &Validation,
    ) -> Result<Verified, Reason> {
        let kid = header.kid.as_deref();
        let (keys, edition) = match issuer.keys.find(kid, header.alg).await {
            Found::In(keys, edition) => (keys, edition),
            Found::Nowhere => return Err(Reason::Signature),
            Found::Away => return Err(Reason::IssuerAway),
        };
        let key = keys.find(kid, header.alg).ok_or(Reason::Signature)?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, validation);
        let claims = claims.map_err(|error| refusal(error.kind()))?.claims;
        Ok(Verified { edition: Some(edition), ..self.verified(claims, Role::User)? })
    }

    /// The token as one of a role's; none if it names no root key of ours.
    fn verify_role(&self, token: &str, kid: Option<String>) -> Option<Result<Verified, Reason>> {
        let kid = kid?;
        let key = self.role_keys.get(&kid)?;
        let claims = match jsonwebtoken::decode::<Claims>(token, key, &self.role_validation) {
            Ok(data) => data.claims,
            Err(error) => return Some(Err(refusal(error.kind()))),
        };
        let role = claims.others.get("role").and_then(Value::as_str).map_or(Ok(Role::User), str::parse);
        let role = role.map_err(|_| Reason::Claims);
        let scopes = match claims.others.get(SCOPES).map(page_scopes::read) {
            Some(None) => return Some(Err(Reason::Claims)),
            scopes => scopes.flatten(),
        };
        Some(role.and_then(|role| self.verified(claims, role)).map(|verified| Verified {
            scopes,
            expires_at_s: verified.expires_at_s.min(self.ends_at_s(&kid)),
            is_unproven: self.is_unproven(&kid),
            ..verified
        }))
    }

    fn is_current_root(&self, kid: &str) -> bool {
        kid == self.keys.ring().current().as_str()
    }

    fn is_unproven(&self, kid: &str) -> bool {
        !self.is_current_root(kid) && self.keys.current_since().is_none()
    }

    /// The end of all tokens that the root key of this name signed, in seconds since 1970.
    fn ends_at_s(&self, kid: &str) -> i64 {
        if self.is_current_root(kid) {
            return i64::MAX;
        }
        // Before the database has answered, a previous root's time counts as over.
        self.keys.current_since().map_or(i64::MIN, |seen| seen.timestamp().saturating_add(PREVIOUS_ROOT_S))
    }

    /// The token as one that the host signed: a user's.
    fn verify_host(&self, token: &str) -> Result<Verified, Reason> {
        let mut reason = Reason::Signature;
        for key in &self.host_keys {
            match jsonwebtoken::decode::<Claims>(token, key, &self.host_validation) {
                Ok(data) => return self.verified(data.claims, Role::User),
                Err(error) => reason = refusal(error.kind()),
            }
            if reason != Reason::Signature {
                break;
            }
        }
        Err(reason)
    }

    fn verified(&self, mut claims: Claims, role: Role) -> Result<Verified, Reason> {
        // The library takes a list that has the issuer in it, but a token has one issuer (RFC 7519 §4.1.1).
        if claims.others.get("iss").is_some_and(|issuer| !issuer.is_string()) {
            return Err(Reason::Issuer);
        }
        let subject = claims.others.remove(&self.subject_claim);
        let subject = subject.as_ref().and_then(Value::as_str).ok_or(Reason::Claims)?;
        let subject: UserRef = subject.parse().map_err(|_| Reason::Claims)?;
        Ok(Verified {
            subject,
            role,
            issued_at_s: claims.iat.map(|at| at.0),
            scopes: None,
            expires_at_s: claims.exp.0,
            not_before_s: claims.nbf.map(|at| at.0),
            is_unproven: false,
            edition: None,
        })
    }
}

/// Bearer tokens cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum JwtKeyError {
    /// A secret cannot be used as a key.
    #[error("a secret of bearer tokens cannot be used")]
    Secret(#[source] jsonwebtoken::errors::Error),
    /// Nobody can be asked for the identity provider's keys.
    #[error("the identity provider's keys cannot be asked for")]
    Documents(#[from] DocumentError),
}

/// Times are checked by [`Verified::valid_at`] against the ledger's clock: the library would ask the system's, and a
/// cached token has to be checked anew anyway. [`Claims`] makes `exp` a required number.
fn validation(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims.clear();
    if let Some(issuer) = issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    match audience {
        Some(audience) => {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        None => validation.validate_aud = false,
    }
    validation
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
    /// The part of the role that it may use, for a page of the host's; none is all of it.
    pub scopes: Option<Scopes>,
    /// Time for which it is valid.
    pub ttl: Duration,
    /// Time at which it is minted.
    pub now: DateTime<Utc>,
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("could not sign a token")]
pub struct MintError(#[source] jsonwebtoken::errors::Error);

/// Mints a token that an api with the same settings and root keys accepts, signed under the current root key.
pub fn mint(settings: &JwtSettings, keys: &Keys, mint: &Mint<'_>) -> Result<SecretString, MintError> {
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
    if let Some(scopes) = mint.scopes {
        claims[SCOPES] = page_scopes::words(scopes).collect();
    }
    if let Some(audience) = &settings.audience {
        claims["aud"] = Value::from(audience.as_str());
    }
    let ring = keys.ring();
    let key = EncodingKey::from_secret(ring.current_role_key().expose()).map_err(MintError)?;
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(ring.current().to_string());
    let token = jsonwebtoken::encode(&header, &claims, &key).map_err(MintError)?;
    Ok(SecretString::from(token))
}
