//! Names for what stands in the place of client, ident and user, or of a JSON object, so that a refusal says what to
//! do.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;

/// Form of a line that is not the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookalike {
    /// A virtual host stands before the client.
    Vhost,
    /// None stands before it.
    NoVhost,
    /// A list of addresses stands in the client's place.
    Addresses,
    /// A prefix of syslog, as RFC 3164 has it.
    Syslog,
    /// The same with a time of RFC 3339.
    SyslogIso,
    /// A prefix of syslog, as RFC 5424 has it.
    SyslogNew,
    /// A prefix of a container runtime (CRI), as in `/var/log/pods`.
    Cri,
    /// A prefix of `docker compose logs`.
    Compose,
    /// A prefix of `kubectl logs --prefix`.
    Pod,
    /// A time, as `docker logs -t` puts it before each line.
    Timestamp,
    /// A line of Docker's json-file driver.
    DockerJson,
    /// A JSON object.
    Json,
    /// A header of a W3C extended log.
    W3c,
    /// A line of an error log.
    ErrorLog,
    /// An access log where JSON is expected.
    AccessLog,
    /// None of these.
    Other,
}

/// An address, roughly, with or without its port.
macro_rules! address {
    () => {
        r"(\d{1,3}(\.\d{1,3}){3}|\[?[\da-fA-F]*:[\da-fA-F:.]+\]?)(:\d+)?"
    };
}

/// Forms by their beginnings, in the order in which they are tried.
const BEGINNINGS: &[(&str, Lookalike)] = &[
    (r#"^\{"log":".*"stream":"#, Lookalike::DockerJson),
    (r"^\{", Lookalike::Json),
    (r"^#(Fields|Software|Version|Date|Remark):", Lookalike::W3c),
    (r"^<\d+>\d+ ", Lookalike::SyslogNew),
    (r"^<\d+>\d{4}-\d\d-\d\dT", Lookalike::SyslogIso),
    (r"^(<\d+>)?[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d", Lookalike::Syslog),
    (r"^\d{4}-\d\d-\d\dT\S+ (stdout|stderr) [FP] ", Lookalike::Cri),
    (r"^\d{4}-\d\d-\d\dT\S+ \S+ \S+: ", Lookalike::SyslogIso),
    (r"^\d{4}-\d\d-\d\dT\S+ ", Lookalike::Timestamp),
    (r"^\S+ +\| ", Lookalike::Compose),
    (r"^\[pod/\S+\] ", Lookalike::Pod),
    (r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[", Lookalike::ErrorLog),
    (r"^\[[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d ", Lookalike::ErrorLog),
    (r"^\S+,( |\S)", Lookalike::Addresses),
    (concat!("^", address!(), " +", address!(), "[ ,]"), Lookalike::Addresses),
    (r"^[A-Za-z_*][\w.-]*:\d+ ", Lookalike::Vhost),
    (concat!(r"^[A-Za-z_*][\w.-]* +", address!(), "[ ,]"), Lookalike::Vhost),
];

static PATTERNS: LazyLock<Vec<(Regex, Lookalike)>> = LazyLock::new(|| {
    let compiled = |(pattern, form): &(&str, Lookalike)| {
        (Regex::new(pattern).expect("a pattern of the table is a regular expression"), *form)
    };
    BEGINNINGS.iter().map(compiled).collect()
});

/// Bytes of a line that are looked at.
const HEAD_BYTES: usize = 512;

impl Lookalike {
    /// The form of this line, if it is a known one. Costs more than reading a good line.
    pub(crate) fn known(line: &[u8]) -> Option<Self> {
        let head = String::from_utf8_lossy(&line[..line.len().min(HEAD_BYTES)]);
        PATTERNS.iter().find(|(pattern, _)| pattern.is_match(&head)).map(|(_, form)| *form)
    }

    /// What stands before the JSON object of this line, or what the line is instead of one.
    pub(crate) fn of_json(line: &[u8]) -> Option<Self> {
        let is_access_log = line.windows(3).any(|part| part == b"] \"") && !line.starts_with(b"{");
        let has_object = line.windows(2).any(|part| part == b" {");
        match Self::known(line) {
            Some(Self::Json | Self::DockerJson | Self::Vhost | Self::Addresses) | None => {
                is_access_log.then_some(Self::AccessLog)
            }
            form if has_object => form,
            _ if is_access_log => Some(Self::AccessLog),
            form => form,
        }
    }

    /// The regular expression that `--skip-prefix` takes to cut it.
    const fn skipped_by(self) -> Option<&'static str> {
        match self {
            Self::Vhost => Some(r"^\S+ "),
            Self::Syslog => Some(r"^(<\d+>)?\w+ +\d+ [\d:]+ \S+ \S+ "),
            Self::SyslogIso => Some(r"^(<\d+>)?\d{4}-\S+ \S+ \S+ "),
            Self::SyslogNew => Some(r"^<\d+>\d+ (\S+ ){5}(-|\[.*?\]) "),
            Self::Cri => Some(r"^\S+ (stdout|stderr) [FP] "),
            Self::Compose => Some(r"^\S+ +\| "),
            Self::Pod => Some(r"^\[pod/\S+ "),
            Self::Timestamp => Some(r"^\d{4}-\S+ "),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Vhost => "a virtual host stands before the client: use --format vhost_combined",
            Self::NoVhost => "no virtual host stands before the client: use --format combined",
            Self::Addresses => {
                "a list of addresses stands in the client's place, as X-Forwarded-For has it, and all but the last may \
                 be made up: log the client alone, or cut what is not the client by --skip-prefix <regex>"
            }
            Self::Syslog | Self::SyslogIso | Self::SyslogNew => "a syslog prefix stands before the line",
            Self::Cri => "a container runtime's prefix stands before the line",
            Self::Compose => "a prefix of docker compose stands before the line",
            Self::Pod => "a prefix of kubectl stands before the line",
            Self::Timestamp => "a time stands before the line",
            Self::DockerJson => {
                "it is a line of Docker's json-file driver: `jq -rj .log FILE` gives what the server wrote"
            }
            Self::Json => "it is JSON: use --format json",
            Self::W3c => "it is a header of a W3C extended log (IIS), which is not read",
            Self::ErrorLog => "it is a line of an error log",
            Self::AccessLog => {
                "it is a line of an access log: use --format combined, common or vhost_combined"
            }
            Self::Other => {
                "before [time] belong one host, one ident and the user, and something else stands there: \
                 cut it by --skip-prefix <regex>"
            }
        }
    }
}

impl fmt::Display for Lookalike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match (self, self.skipped_by()) {
            (_, None) => Ok(()),
            (Self::Vhost, Some(regex)) => write!(f, ", or cut it by --skip-prefix '{regex}'"),
            (_, Some(regex)) => write!(f, ": cut it by --skip-prefix '{regex}'"),
        }
    }
}

#[cfg(test)]
mod tests;
