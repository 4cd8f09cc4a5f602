//! Settings of the api, the worker and the commands, read from the variables.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use api::{ApiConfig, LogSettings, auth::JwtSettings, config::SignInSettings};
use credentials::Environment;
use data_keys::KeyConfig;
use ledger::{Clock, Rules, parse_duration};
use ledger_worker::{MIN_DEDUPE_HORIZON, WorkerConfig};
use nats::Connection;
use url::Url;

use super::Settings;
use crate::logging::LogFormat;

impl Settings {
    /// The ledger's clock.
    pub(crate) fn clock(&self) -> Result<Clock> {
        let Some(text) = self.get("CLOCK_OFFSET_MS") else { return Ok(Clock::system()) };
        let offset_ms =
            text.trim().parse().ok().context("CLOCK_OFFSET_MS must be a number of milliseconds")?;
        Ok(Clock::with_offset_ms(offset_ms))
    }

    /// `DATABASE_URL`.
    pub(crate) fn database_url(&self) -> Result<&str> {
        let url = self.get("DATABASE_URL").context(
            "DATABASE_URL is not set: postgres://user:password@host/database, or start `usage-ledger dev`",
        )?;
        // The driver itself would take any scheme.
        let right_scheme = url.starts_with("postgres://") || url.starts_with("postgresql://");
        anyhow::ensure!(
            right_scheme && store::options(url, store::Schema::Live).is_ok(),
            "DATABASE_URL cannot be used: it must be like postgres://user:password@host/database"
        );
        Ok(url)
    }

    /// Servers of the log, and what it must promise.
    pub(crate) fn log(&self) -> Result<LogSettings> {
        Ok(LogSettings::read(&|name| self.get(name).map(str::to_owned))?)
    }

    /// The log's servers and stream.
    pub(crate) fn nats(&self, client_name: &str) -> Result<Connection> {
        Ok(self.log()?.connection_of(client_name))
    }

    /// Signing of bearer tokens.
    pub(crate) fn jwt(&self) -> Result<JwtSettings> {
        Ok(JwtSettings::read(&|name| self.get(name).map(str::to_owned))?)
    }

    /// Name of these surroundings, which API keys are of.
    pub(crate) fn environment(&self) -> Result<Environment> {
        Ok(api::config::environment(&|name| self.get(name).map(str::to_owned))?)
    }

    /// How people sign in.
    pub(crate) fn sign_in(&self) -> Result<SignInSettings> {
        Ok(SignInSettings::read(&|name| self.get(name).map(str::to_owned))?)
    }

    /// How clients reach the api, if that is known.
    pub(crate) fn public_url(&self) -> Result<Option<Url>> {
        self.get("PUBLIC_URL")
            .filter(|text| !text.trim().is_empty())
            .map(|text| text.trim().parse().ok().context("PUBLIC_URL must be an absolute URL"))
            .transpose()
    }

    /// The root keys; whether they are good shows when they are held against the database.
    pub(crate) fn keys(&self) -> KeyConfig {
        KeyConfig::read(&|name| self.get(name).map(str::to_owned))
    }

    /// All that an api needs.
    pub(crate) fn api(&self, clock: Clock) -> Result<ApiConfig> {
        self.database_url()?;
        Ok(ApiConfig::read(&|name| self.get(name).map(str::to_owned), self.rules()?, clock)?)
    }

    /// All that a worker needs.
    pub(crate) fn worker(&self, clock: Clock) -> Result<WorkerConfig> {
        let database_url = self.database_url()?;
        let log = self.log()?;
        let mut config =
            WorkerConfig::new(database_url, log.connection_of("usage-ledger worker"), self.keys(), clock);
        config.allow_unsafe_log = log.allow_unsafe;
        config.log_replicas = log.replicas;
        config.close_grace = self.close_grace()?;
        config.dedupe_horizon = self.dedupe_horizon()?;
        Ok(config)
    }

    /// Form of log lines.
    pub(crate) fn log_format(&self) -> Result<LogFormat> {
        match self.get("LOG_FORMAT") {
            None | Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            Some(_) => anyhow::bail!("LOG_FORMAT must be text or json"),
        }
    }

    /// Time between a month's end and its closing.
    pub(crate) fn close_grace(&self) -> Result<Duration> {
        self.get("CLOSE_GRACE").map_or(Ok(Duration::from_hours(1)), |text| {
            parse_duration(text).context("CLOSE_GRACE cannot be used")
        })
    }

    /// Time for which the id of an event is remembered at least.
    fn dedupe_horizon(&self) -> Result<Duration> {
        let Some(text) = self.get("DEDUPE_HORIZON") else { return Ok(MIN_DEDUPE_HORIZON) };
        let horizon = parse_duration(text).context("DEDUPE_HORIZON cannot be used")?;
        anyhow::ensure!(
            horizon >= MIN_DEDUPE_HORIZON,
            "DEDUPE_HORIZON must be 35d or more: an event may be reported until it is that old, and again"
        );
        Ok(horizon)
    }

    /// Time by which the projection may be behind.
    pub(crate) fn max_lag(&self) -> Result<Duration> {
        Ok(api::config::max_lag(&|name| self.get(name).map(str::to_owned))?)
    }

    /// Rules of what counts, and as what.
    pub(crate) fn rules(&self) -> Result<Rules> {
        let slashes = api::config::encoded_slash(&|name| self.get(name).map(str::to_owned))?;
        let Some(path) = self.get("RULES_FILE") else {
            return Ok(Rules::default().with_encoded_slash(slashes));
        };
        let text = fs::read_to_string(path).with_context(|| format!("cannot read RULES_FILE {path}"))?;
        Rules::from_toml(&text, slashes).with_context(|| format!("RULES_FILE {path} cannot be used"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_is_named_and_not_shown() {
        let mut settings = Settings::default();
        settings.put("DATABASE_URL", "mysql:/topsecret");
        settings.put("NATS_URL", "nats://x");
        let error = format!("{:#}", settings.worker(Clock::system()).err().unwrap());
        assert!(error.starts_with("DATABASE_URL cannot be used"), "{error}");
        assert!(!error.contains("topsecret"), "{error}");
        settings.put("JWT_SECRET", "short");
        let error = format!("{:#}", settings.jwt().err().unwrap());
        assert!(error.contains("JWT_SECRET") && error.contains("32") && !error.contains("short"), "{error}");
    }

    #[test]
    fn an_id_is_remembered_for_35_days_at_least() {
        let horizon = |text: Option<&str>| {
            let mut settings = Settings::default();
            settings.put("DATABASE_URL", "postgres://x@y/z");
            settings.put("NATS_URL", "nats://x");
            if let Some(text) = text {
                settings.put("DEDUPE_HORIZON", text);
            }
            settings.worker(Clock::system()).map(|config| config.dedupe_horizon)
        };
        let days = |days: u64| Duration::from_secs(86_400 * days);
        for (text, expected) in [
            (None, days(35)),
            (Some("35d"), days(35)),
            (Some("840h"), days(35)),
            (Some("3024000s"), days(35)),
            (Some("400d"), days(400)),
            (Some("213503982334601d"), days(213_503_982_334_601)),
        ] {
            assert_eq!(horizon(text).unwrap(), expected, "{text:?}");
        }
        for text in ["34d", "839h", "3023999s", "0s", "", "35", "35days", "-35d", "213503982334602d", "never"]
        {
            let error = format!("{:#}", horizon(Some(text)).err().unwrap());
            assert!(error.starts_with("DEDUPE_HORIZON "), "{text}: {error}");
            assert!(error.contains("35d or more") || error.contains("a number with s, m, h or d"), "{error}");
        }
    }
}
