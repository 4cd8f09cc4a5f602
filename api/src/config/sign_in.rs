//! Settings of how people sign in.

use std::str::FromStr;
use std::time::Duration;

use credentials::password::{Parameters, ParametersError};
use ledger::parse_duration;
use outbound::github::{GitHubSettings, GitHubUrls};

use super::{ConfigError, Vars};
use crate::auth::SessionLifetime;

/// Settings of how people sign in.
#[derive(Clone, Debug)]
pub struct SignInSettings {
    /// `SESSION_IDLE`, `SESSION_MAX`.
    pub sessions: SessionLifetime,
    /// `REGISTRATION`.
    pub registration: Registration,
    /// `GITHUB_CLIENT_ID`, `GITHUB_CLIENT_SECRET`, `GITHUB_URL`, `GITHUB_API_URL`: GitHub as a way in.
    pub github: Option<GitHubSettings>,
    /// `PASSWORD_HASH`: what hashing a password costs.
    pub password_hash: Parameters,
}

/// Who may make an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// Nobody.
    #[default]
    Closed,
    /// Whoever was invited.
    Invite,
    /// Everybody.
    Open,
}

impl FromStr for Registration {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "closed" => Ok(Self::Closed),
            "invite" => Ok(Self::Invite),
            "open" => Ok(Self::Open),
            _ => Err(()),
        }
    }
}

impl SignInSettings {
    /// Reads these variables alone: what commands about people need.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        Self::of(&Vars(&get))
    }

    pub(super) fn of(vars: &Vars<'_>) -> Result<Self, ConfigError> {
        const IDLE: &str = "SESSION_IDLE";
        const MAX: &str = "SESSION_MAX";
        let idle = session_time(vars, IDLE)?.unwrap_or(Duration::from_hours(12));
        let max = session_time(vars, MAX)?.unwrap_or(Duration::from_hours(7 * 24));
        Ok(Self {
            sessions: SessionLifetime { idle, max },
            registration: vars.parsed("REGISTRATION", "closed, invite or open")?.unwrap_or_default(),
            github: github(vars)?,
            password_hash: password_hash(vars)?,
        })
    }
}

fn github(vars: &Vars<'_>) -> Result<Option<GitHubSettings>, ConfigError> {
    const ID: &str = "GITHUB_CLIENT_ID";
    const SECRET: &str = "GITHUB_CLIENT_SECRET";
    match (vars.text(ID), vars.text(SECRET)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) if vars.text("PUBLIC_URL").is_none() => {
            Err(ConfigError::Missing("PUBLIC_URL", "GitHub sends people back there"))
        }
        (Some(client_id), Some(client_secret)) => {
            let urls = GitHubUrls::read(vars.0)?;
            Ok(Some(GitHubSettings { client_id, client_secret: client_secret.into(), urls }))
        }
        (None, Some(_)) => Err(ConfigError::Missing(ID, "it goes with GITHUB_CLIENT_SECRET")),
        (Some(_), None) => Err(ConfigError::Missing(SECRET, "it goes with GITHUB_CLIENT_ID")),
    }
}

fn password_hash(vars: &Vars<'_>) -> Result<Parameters, ConfigError> {
    const VARIABLE: &str = "PASSWORD_HASH";
    let Some(text) = vars.text(VARIABLE) else { return Ok(Parameters::default()) };
    let invalid =
        |error: ParametersError| ConfigError::Invalid { variable: VARIABLE, reason: error.to_string() };
    text.trim().parse().map_err(invalid)
}

/// Uses are noted once a minute, so that a shorter idle time would end a session that is used.
fn session_time(vars: &Vars<'_>, variable: &'static str) -> Result<Option<Duration>, ConfigError> {
    const SHORTEST: Duration = Duration::from_mins(5);
    const LONGEST: Duration = Duration::from_hours(90 * 24);
    let Some(text) = vars.text(variable) else { return Ok(None) };
    match parse_duration(&text) {
        Ok(time) if (SHORTEST..=LONGEST).contains(&time) => Ok(Some(time)),
        _ => Err(ConfigError::Invalid {
            variable,
            reason: "it must be a duration from 5m to 90d, such as 12h".into(),
        }),
    }
}
