//! Log lines go to stderr; `RUST_LOG` filters them.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What `RUST_LOG` asks for of others' code, where it may print what passes through it, is not more than this: a body, a
/// header or a bound value may be a secret.
const CAPPED: [&str; 8] =
    ["sqlx", "hyper", "hyper_util", "h2", "reqwest", "rustls", "async_nats", "tungstenite"];

pub(crate) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,async_nats=warn,tokio_cron_scheduler=warn"));
    let filter = filter.and(filter_fn(may_be_logged));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Text => {
            registry.with(lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter)).init();
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_filter(filter)).init(),
    }
}

/// Whether a line may be logged, whoever asks for it.
fn may_be_logged(line: &Metadata<'_>) -> bool {
    let of = |krate: &str| {
        line.target().strip_prefix(krate).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    *line.level() <= Level::INFO || !CAPPED.into_iter().any(of)
}
