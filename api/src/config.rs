//! Configuration of an api process: parsed once, at the edge, with errors of one line that name the variable.

mod sign_in;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderName;
use credentials::Environment;
use data_keys::KeyConfig;
use ipnet::IpNet;
use ledger::{Clock, EncodedSlash, Rules, parse_duration};
use nats::Connection;
use outbound::documents::{DocumentUrl, DocumentUrlError};
use outbound::providers::{ProviderUrls, UrlRefused};
use secrecy::SecretString;
use url::Url;

use crate::auth::{ISSUER, JwtSettings};
use crate::http::client::TrustedProxies;
use crate::http::proxied;
use crate::http::serve::Bounds;

pub use sign_in::{Registration, SignInSettings};

/// Fewer bytes of secret than HS256's hash has would make the secret the weakest part (RFC 7518 §3.2).
const MIN_SECRET_BYTES: usize = 32;
const JWKS_URL: &str = "JWT_JWKS_URL";

/// Everything that [`crate::run`] needs. The variable behind a field is named in its documentation.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a variable of its own, none a state of another")]
pub struct ApiConfig {
    /// `DATABASE_URL`.
    pub database_url: SecretString,
    /// `DATABASE_CONNECTIONS`: size of the pool for requests; a few more connections are the process's own.
    pub database_connections: u32,
    /// Settings of the log.
    pub log: LogSettings,
    /// `LISTEN_ADDR`.
    pub listen_addr: SocketAddr,
    /// `METRICS_ADDR`; without it there is no `/metrics`.
    pub metrics_addr: Option<SocketAddr>,
    /// `PUBLIC_URL`: how clients reach this service; the OpenAPI document names it.
    pub public_url: Option<Url>,
    /// `ENCRYPTION_KEY`, `ENCRYPTION_KEY_ID`, `ENCRYPTION_KEY_PREVIOUS`.
    pub keys: KeyConfig,
    /// `LEDGER_ENV`: name of the surroundings that API keys are of.
    pub environment: Environment,
    /// `JWT_SECRET`, `JWT_SECRET_PREVIOUS`, `JWT_ISSUER`, `JWT_AUDIENCE`, `JWT_SUBJECT_CLAIM`, `JWT_JWKS_URL`.
    pub jwt: JwtSettings,
    /// `SESSION_IDLE`, `SESSION_MAX`, `REGISTRATION` and their companions.
    pub sign_in: SignInSettings,
    /// `AUTO_PROVISION`: an unknown user in a valid credential or event gets an account.
    pub auto_provision: bool,
    /// `SELF_UPGRADE`: role user may change its own plan.
    pub self_upgrade: bool,
    /// `SELF_RESET`: role user may reset its own month.
    pub self_reset: bool,
    /// `USER_INGEST`: role user may report its own calls.
    pub user_ingest: bool,
    /// `ENFORCEMENT`.
    pub enforcement: Enforcement,
    /// `LIMIT_FAILURE_MODE`.
    pub limit_failure_mode: LimitFailureMode,
    /// `MAX_UNPROJECTED`: calls of one user that are not projected yet, beyond which its calls are answered 503.
    pub max_unprojected: u64,
    /// `MAX_LAG`: time by which the projections may be behind the log before those who report have to wait.
    pub max_lag: Duration,
    /// `UPGRADE_URL`.
    pub upgrade_url: Option<Url>,
    /// `GITHUB_API_URL`, `OPENAI_BASE_URL`, `ANTHROPIC_BASE_URL`, `GEMINI_BASE_URL`.
    pub providers: ProviderUrls,
    /// `RULES_FILE`, read.
    pub rules: Rules,
    /// `TRUSTED_PROXIES`.
    pub trusted_proxies: TrustedProxies,
    /// `MAX_CONNECTIONS`: connections of clients at a time.
    pub max_connections: usize,
    /// What proxies that ask before they pass a request on may say, and what they pass.
    pub forward_auth: ForwardAuth,
    /// `CORS_ALLOWED_ORIGINS`.
    pub cors_allowed_origins: Vec<String>,
    /// The ledger's clock (`CLOCK_OFFSET_MS`).
    pub clock: Clock,
    /// Time to wait for requests in flight at shutdown.
    pub drain_timeout: Duration,
}

/// Settings of the log, where it is and what it must hold: the same for every process that uses it.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// `NATS_URL`, `NATS_MONITOR_URL` (without it the log counts as unsafe) and `NATS_STREAM`.
    pub connection: Connection,
    /// `NATS_REPLICAS`: copies of a stream that is made now; 1, 3 or 5.
    pub replicas: usize,
    /// `ALLOW_UNSAFE_LOG`, `--allow-unsafe-log`: start although the log's settings do not hold what is promised.
    pub allow_unsafe: bool,
}

/// Settings of what proxies ask.
#[derive(Clone, Debug, Default)]
pub struct ForwardAuth {
    /// `FORWARD_AUTH_ID_HEADER`: the header in which trusted proxies name a request, if they do.
    pub id_header: Option<HeaderName>,
    /// `FORWARD_AUTH_PREFLIGHT`.
    pub preflight: Preflight,
}

/// Treatment of a CORS preflight about which a proxy asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// It is a request like any other.
    #[default]
    Check,
    /// It passes unrecorded, if it has neither credentials nor a body.
    Pass,
}

/// Treatment of a call beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// It is refused.
    Enforce,
    /// It is admitted and marked.
    Shadow,
}

/// Treatment of a call while limits cannot be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitFailureMode {
    /// It is answered 503.
    Closed,
    /// It is admitted: limits may then be passed.
    Open,
}

/// A variable that is missing or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It has no value and no default.
    #[error("{0} is not set: {1}")]
    Missing(&'static str, &'static str),
    /// It has a value that cannot be used.
    #[error("{variable} cannot be used: {reason}")]
    Invalid {
        /// Name of the variable.
        variable: &'static str,
        /// Description of what is wrong and what would be right; never the value, which may be a secret.
        reason: String,
    },
    /// It names no address of a provider's.
    #[error(transparent)]
    Provider(#[from] UrlRefused),
}

impl ApiConfig {
    /// Reads the configuration from variables; `get` answers a variable's value, if it is set. `rules` and `clock`
    /// come from the caller, who shares them with others.
    pub fn read(
        get: &dyn Fn(&str) -> Option<String>,
        rules: Rules,
        clock: Clock,
    ) -> Result<Self, ConfigError> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let vars = Vars(&get);
        Ok(Self {
            database_url: vars.required("DATABASE_URL", "postgres://user:password@host/database")?.into(),
            database_connections: vars
                .parsed("DATABASE_CONNECTIONS", "a number of connections")?
                .unwrap_or(16),
            log: vars.log()?,
            listen_addr: vars
                .parsed("LISTEN_ADDR", "an address like 127.0.0.1:8080")?
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
            metrics_addr: vars.parsed("METRICS_ADDR", "an address like 127.0.0.1:9090")?,
            public_url: vars.parsed("PUBLIC_URL", "an absolute URL")?,
            keys: KeyConfig::read(&get),
            environment: vars.environment()?,
            jwt: vars.jwt()?,
            sign_in: SignInSettings::of(&vars)?,
            auto_provision: vars.flag("AUTO_PROVISION")?,
            self_upgrade: vars.flag("SELF_UPGRADE")?,
            self_reset: vars.flag("SELF_RESET")?,
            user_ingest: vars.flag("USER_INGEST")?,
            enforcement: vars.parsed("ENFORCEMENT", "enforce or shadow")?.unwrap_or(Enforcement::Enforce),
            limit_failure_mode: vars
                .parsed("LIMIT_FAILURE_MODE", "closed or open")?
                .unwrap_or(LimitFailureMode::Closed),
            max_unprojected: vars.parsed("MAX_UNPROJECTED", "a number of calls")?.unwrap_or(1_000_000),
            max_lag: vars.max_lag()?,
            upgrade_url: vars.parsed("UPGRADE_URL", "an absolute URL")?,
            providers: ProviderUrls::read(&get)?,
            rules,
            forward_auth: ForwardAuth {
                id_header: vars.id_header()?,
                preflight: vars.parsed("FORWARD_AUTH_PREFLIGHT", "check or pass")?.unwrap_or_default(),
            },
            trusted_proxies: TrustedProxies::new(
                vars.list::<IpNet>("TRUSTED_PROXIES", "networks like 10.0.0.0/8, comma-separated")?,
            ),
            max_connections: vars.max_connections()?,
            cors_allowed_origins: vars.origins()?,
            clock,
            drain_timeout: Duration::from_secs(30),
        })
    }
}

impl ApiConfig {
    /// Bounds of this process's listeners.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            connections: self.max_connections,
            proxies: self.trusted_proxies.clone(),
            ..Bounds::default()
        }
    }
}

/// Reads `ENCODED_SLASH`, which belongs to the rules: whoever reads those reads it.
pub fn encoded_slash(get: &dyn Fn(&str) -> Option<String>) -> Result<EncodedSlash, ConfigError> {
    let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
    Ok(Vars(&get).parsed("ENCODED_SLASH", "refuse or keep")?.unwrap_or_default())
}

/// Reads `LEDGER_ENV` alone: what `usage-ledger api-keys` needs.
pub fn environment(get: &dyn Fn(&str) -> Option<String>) -> Result<Environment, ConfigError> {
    let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
    Vars(&get).environment()
}

/// Reads `MAX_LAG` alone: what an import keeps to.
pub fn max_lag(get: &dyn Fn(&str) -> Option<String>) -> Result<Duration, ConfigError> {
    let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
    Vars(&get).max_lag()
}

impl LogSettings {
    /// Reads these variables alone: what a worker, an import and the log's tools need.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        Vars(&get).log()
    }

    /// The connection, by this name in the server's list.
    #[must_use]
    pub fn connection_of(&self, client_name: &str) -> Connection {
        let mut connection = self.connection.clone();
        client_name.clone_into(&mut connection.client_name);
        connection
    }
}

impl JwtSettings {
    /// Reads `JWT_SECRET` and its companions alone: what `usage-ledger token` needs.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        Vars(&get).jwt()
    }
}

struct Vars<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Vars<'_> {
    fn text(&self, name: &'static str) -> Option<String> {
        (self.0)(name)
    }

    fn required(&self, name: &'static str, example: &'static str) -> Result<String, ConfigError> {
        self.text(name).ok_or(ConfigError::Missing(name, example))
    }

    fn parsed<T: FromStr>(
        &self,
        variable: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(variable) else { return Ok(None) };
        let invalid = || ConfigError::Invalid { variable, reason: format!("it must be {expected}") };
        text.trim().parse().map(Some).map_err(|_| invalid())
    }

    fn flag(&self, variable: &'static str) -> Result<bool, ConfigError> {
        Ok(self.parsed(variable, "true or false")?.unwrap_or(false))
    }

    fn environment(&self) -> Result<Environment, ConfigError> {
        let expected = "1 to 16 lower-case letters and digits, like prod";
        Ok(self.parsed("LEDGER_ENV", expected)?.unwrap_or_default())
    }

    fn max_connections(&self) -> Result<usize, ConfigError> {
        const VARIABLE: &str = "MAX_CONNECTIONS";
        match self.parsed(VARIABLE, "a number of connections, from 1")? {
            Some(0) => {
                Err(ConfigError::Invalid { variable: VARIABLE, reason: "it must be at least 1".into() })
            }
            Some(connections) => Ok(connections),
            None => Ok(Bounds::default().connections),
        }
    }

    /// Nothing is projected at once, and after a day nobody would be slowed any more.
    fn max_lag(&self) -> Result<Duration, ConfigError> {
        const VARIABLE: &str = "MAX_LAG";
        const LONGEST: Duration = Duration::from_hours(24);
        let Some(text) = self.text(VARIABLE) else { return Ok(Duration::from_secs(4)) };
        match parse_duration(&text) {
            Ok(lag) if !lag.is_zero() && lag <= LONGEST => Ok(lag),
            _ => Err(ConfigError::Invalid {
                variable: VARIABLE,
                reason: "it must be a duration from 1s to 1d, such as 4s".into(),
            }),
        }
    }

    fn list<T: FromStr>(
        &self,
        variable: &'static str,
        expected: &'static str,
    ) -> Result<Vec<T>, ConfigError> {
        let text = self.text(variable).unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items
            .map(|item| {
                let reason = format!("{} is not one of {expected}", item.escape_debug());
                item.parse().map_err(|_| ConfigError::Invalid { variable, reason })
            })
            .collect()
    }

    fn id_header(&self) -> Result<Option<HeaderName>, ConfigError> {
        const VARIABLE: &str = "FORWARD_AUTH_ID_HEADER";
        let name = self.parsed(VARIABLE, "the name of a header, like X-Ledger-Request-Id")?;
        match name {
            Some(name) if proxied::has_another_meaning(&name) => Err(ConfigError::Invalid {
                variable: VARIABLE,
                reason: "that header has another meaning; use one that the proxy makes for this, like \
                         X-Ledger-Request-Id"
                    .into(),
            }),
            name => Ok(name),
        }
    }

    /// Origins as browsers write them: scheme, host, port, nothing else.
    fn origins(&self) -> Result<Vec<String>, ConfigError> {
        const VARIABLE: &str = "CORS_ALLOWED_ORIGINS";
        let urls = self.list::<Url>(VARIABLE, "origins like https://app.example.com, comma-separated")?;
        let origins = urls.iter().map(|url| url.origin().ascii_serialization());
        let origins: Vec<String> = origins.collect();
        if origins.iter().any(|origin| origin == "null") {
            return Err(ConfigError::Invalid {
                variable: VARIABLE,
                reason: "every origin must be an http or https one".into(),
            });
        }
        Ok(origins)
    }

    fn secret(&self, variable: &'static str) -> Result<Option<SecretString>, ConfigError> {
        match self.text(variable) {
            Some(secret) if secret.len() < MIN_SECRET_BYTES => Err(ConfigError::Invalid {
                variable,
                reason: format!(
                    "it has {} bytes and must have at least {MIN_SECRET_BYTES}; make one with: openssl rand -hex 32",
                    secret.len()
                ),
            }),
            secret => Ok(secret.map(SecretString::from)),
        }
    }

    fn log(&self) -> Result<LogSettings, ConfigError> {
        let url = self.required("NATS_URL", "nats://host:4222")?;
        let stream = self.parsed("NATS_STREAM", "letters, digits, _ and -")?.unwrap_or_default();
        let mut connection = Connection::new(url, stream);
        connection.monitor_url = self.text("NATS_MONITOR_URL");
        Ok(LogSettings {
            connection,
            replicas: self.parsed("NATS_REPLICAS", "1, 3 or 5")?.map_or(1, |Replicas(replicas)| replicas),
            allow_unsafe: self.flag("ALLOW_UNSAFE_LOG")?,
        })
    }

    fn jwt(&self) -> Result<JwtSettings, ConfigError> {
        let settings = JwtSettings {
            secret: self
                .secret("JWT_SECRET")?
                .ok_or(ConfigError::Missing("JWT_SECRET", "make one with: openssl rand -hex 32"))?,
            previous: self.secret("JWT_SECRET_PREVIOUS")?,
            issuer: self.issuer()?,
            audience: self.text("JWT_AUDIENCE"),
            subject_claim: self.subject_claim()?,
            issuer_keys: self.issuer_keys()?,
        };
        if settings.issuer_keys.is_some() && (settings.issuer.is_none() || settings.audience.is_none()) {
            return Err(ConfigError::Invalid {
                variable: JWKS_URL,
                reason: "a provider signs for others too: set JWT_ISSUER and JWT_AUDIENCE as well".into(),
            });
        }
        Ok(settings)
    }

    fn issuer_keys(&self) -> Result<Option<DocumentUrl>, ConfigError> {
        let Some(url) = self.text(JWKS_URL) else { return Ok(None) };
        let invalid =
            |error: DocumentUrlError| ConfigError::Invalid { variable: JWKS_URL, reason: error.to_string() };
        url.parse().map(Some).map_err(invalid)
    }

    /// The host's issuer, which cannot be ours: nobody could tell whose tokens are whose.
    fn issuer(&self) -> Result<Option<String>, ConfigError> {
        const VARIABLE: &str = "JWT_ISSUER";
        match self.text(VARIABLE) {
            Some(issuer) if issuer == ISSUER => Err(ConfigError::Invalid {
                variable: VARIABLE,
                reason: format!(
                    "{ISSUER} is the issuer of this service's own tokens; use the name of whoever signs with JWT_SECRET"
                ),
            }),
            issuer => Ok(issuer),
        }
    }

    fn subject_claim(&self) -> Result<String, ConfigError> {
        const VARIABLE: &str = "JWT_SUBJECT_CLAIM";
        let claim = self.text(VARIABLE).unwrap_or_else(|| "sub".to_owned());
        if ["exp", "nbf", "iat", "iss", "aud", "role"].contains(&claim.as_str()) {
            return Err(ConfigError::Invalid {
                variable: VARIABLE,
                reason: "that claim has another meaning; use the one that names the user".into(),
            });
        }
        Ok(claim)
    }
}

/// Copies of the log's stream. An even number survives no more failures than the odd one below it.
struct Replicas(usize);

impl FromStr for Replicas {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "1" => Ok(Self(1)),
            "3" => Ok(Self(3)),
            "5" => Ok(Self(5)),
            _ => Err(()),
        }
    }
}

impl FromStr for Enforcement {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "shadow" => Ok(Self::Shadow),
            _ => Err(()),
        }
    }
}

impl FromStr for Preflight {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "check" => Ok(Self::Check),
            "pass" => Ok(Self::Pass),
            _ => Err(()),
        }
    }
}

impl FromStr for LimitFailureMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "closed" => Ok(Self::Closed),
            "open" => Ok(Self::Open),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests;
