//! The configuration: every variable's value and source, and the settings of the processes that follow from them.

mod catalogue;
mod processes;

use std::{collections::BTreeMap, env, fmt, io, path::Path};

use anyhow::Result;

pub(crate) use catalogue::{Shown, VARIABLES};

/// Directory in which `dev` keeps its data unless told otherwise.
pub(crate) const DEV_DATA_DIR: &str = ".dev/data";
/// File that `dev` writes into it when everything is ready.
pub(crate) const DEV_ENV: &str = "dev.env";

/// Source of a value, from the strongest to the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Environment,
    DotEnv,
    DevEnv,
    /// `dev` and `serve` make what nobody sets.
    Made,
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "environment",
            Self::DotEnv => ".env",
            Self::DevEnv => ".dev/data/dev.env",
            Self::Made => "made",
            Self::Default => "default",
        })
    }
}

/// The values of all variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, (String, Source)>,
}

impl Settings {
    /// Reads the environment, `.env`, and what a running `dev` has written.
    pub(crate) fn load() -> Result<Self> {
        let mut settings = Self::load_own()?;
        settings.add_file(&Path::new(DEV_DATA_DIR).join(DEV_ENV), Source::DevEnv)?;
        Ok(settings)
    }

    /// Reads the environment and `.env` alone: for `dev` itself, and for `serve`, which must not take a running `dev`'s
    /// servers for its own.
    pub(crate) fn load_own() -> Result<Self> {
        let mut settings = Self::default();
        for variable in VARIABLES {
            match env::var(variable.name) {
                Ok(value) => settings.add(variable.name, value, Source::Environment),
                Err(env::VarError::NotPresent) => {}
                Err(env::VarError::NotUnicode(_)) => anyhow::bail!("{} is not UTF-8", variable.name),
            }
        }
        settings.add_file(Path::new(".env"), Source::DotEnv)?;
        Ok(settings)
    }

    /// Sets a variable that has no value yet. An empty value counts as none.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<String>, source: Source) {
        let value = value.into();
        if !value.trim().is_empty() {
            self.values.entry(name).or_insert((value, source));
        }
    }

    /// Sets a variable whatever it was.
    pub(crate) fn put(&mut self, name: &'static str, value: impl Into<String>) {
        self.values.insert(name, (value.into(), Source::Made));
    }

    /// A variable's value, if anybody set it; not its default.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.as_str())
    }

    /// A variable's value and where it comes from; its default when nobody set it, if it has one.
    pub(crate) fn get_with_source(&self, name: &str) -> Option<(&str, Source)> {
        if let Some((value, source)) = self.values.get(name) {
            return Some((value, *source));
        }
        let variable = VARIABLES.iter().find(|variable| variable.name == name)?;
        (!variable.default.is_empty()).then_some((variable.default, Source::Default))
    }

    fn add_file(&mut self, path: &Path, source: Source) -> Result<()> {
        let lines = match dotenvy::from_path_iter(path) {
            Ok(lines) => lines,
            Err(dotenvy::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(unreadable(path, error)),
        };
        for line in lines {
            let (name, value) = line.map_err(|error| unreadable(path, error))?;
            if let Some(variable) = VARIABLES.iter().find(|variable| variable.name == name) {
                self.add(variable.name, value, source);
            }
        }
        Ok(())
    }

    /// The same without the root keys: for a file on the disk of the log, which must not tell how to open it.
    pub(crate) fn without_root_keys(&self) -> Self {
        let mut settings = self.clone();
        settings.values.retain(|name, _| !matches!(*name, "ENCRYPTION_KEY" | "ENCRYPTION_KEY_PREVIOUS"));
        settings
    }

    /// The lines of an env file that lets other processes run beside this one: a shell that reads it hands its
    /// variables on to what it starts. Keys of foreign services stay out of files; where those services are does not.
    pub(crate) fn env_file(&self, further: &[(&str, &str)]) -> String {
        let foreign = ["OPENAI_", "ANTHROPIC_", "GEMINI_", "GITHUB_"];
        let own = self.values.iter().map(|(name, (value, _))| (*name, value.as_str()));
        let kept = own.filter(|(name, _)| {
            name.ends_with("_URL") || !foreign.iter().any(|prefix| name.starts_with(prefix))
        });
        let lines = kept
            .chain(further.iter().copied())
            .map(|(name, value)| format!("export {name}={}", quoted(value)));
        let mut text = lines.collect::<Vec<_>>().join("\n");
        text.push('\n');
        text
    }
}

/// The library's messages quote the line, which may hold a secret.
fn unreadable(path: &Path, error: dotenvy::Error) -> anyhow::Error {
    let reason = match error {
        dotenvy::Error::LineParse(line, position) => {
            let number = std::fs::read_to_string(path)
                .ok()
                .and_then(|text| text.lines().position(|other| other == line))
                .map_or_else(String::new, |index| format!("line {}, ", index + 1));
            format!("{number}character {position} is not of the form NAME=value")
        }
        other => other.to_string(),
    };
    anyhow::anyhow!("cannot read {}: {reason}", path.display())
}

/// The value as shells and dotenv readers alike take it.
fn quoted(value: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    if value.chars().all(safe) { value.to_owned() } else { format!("'{}'", value.replace('\'', "'\\''")) }
}

/// The value as `usage-ledger config` shows it.
pub(crate) fn masked(value: &str, shown: Shown) -> String {
    match shown {
        Shown::Plain => value.to_owned(),
        Shown::Secret => "********".to_owned(),
        Shown::Url => value.split(',').map(masked_url).collect::<Vec<_>>().join(","),
    }
}

fn masked_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    match rest.rsplit_once('@') {
        Some((login, address)) => match login.split_once(':') {
            Some((user, _)) => format!("{scheme}{separator}{user}:********@{address}"),
            None => format!("{scheme}{separator}********@{address}"),
        },
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_wins_and_an_empty_value_is_none() {
        let mut settings = Settings::default();
        settings.add("NATS_STREAM", " ", Source::Environment);
        settings.add("NATS_STREAM", "A", Source::DotEnv);
        settings.add("NATS_STREAM", "B", Source::DevEnv);
        assert_eq!(settings.get_with_source("NATS_STREAM"), Some(("A", Source::DotEnv)));
        assert_eq!(settings.get_with_source("LISTEN_ADDR"), Some(("127.0.0.1:8080", Source::Default)));
        assert_eq!(settings.get_with_source("PUBLIC_URL"), None);
    }

    #[test]
    fn no_password_is_shown() {
        assert_eq!(masked("postgres://u:p@h:5/d", Shown::Url), "postgres://u:********@h:5/d");
        assert_eq!(masked("nats://a:1,tls://t0ken@b:2", Shown::Url), "nats://a:1,tls://********@b:2");
        assert_eq!(masked("u:p@x@h", Shown::Url), "u:********@h");
        assert_eq!(masked("abc", Shown::Secret), "********");
    }

    #[test]
    fn an_env_file_reads_back_as_it_was() {
        let mut settings = Settings::default();
        settings.put("DATABASE_URL", "postgres://u:p@h:5/d?sslmode=require&x=$y 'z'");
        settings.put("OPENAI_API_KEY", "sk-1");
        settings.put("OPENAI_BASE_URL", "http://127.0.0.1:2");
        let text = settings.env_file(&[("API_URL", "http://127.0.0.1:1")]);
        let read: Vec<_> = dotenvy::from_read_iter(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read,
            [
                pair("DATABASE_URL", "postgres://u:p@h:5/d?sslmode=require&x=$y 'z'"),
                pair("OPENAI_BASE_URL", "http://127.0.0.1:2"),
                pair("API_URL", "http://127.0.0.1:1")
            ]
        );
    }
}
