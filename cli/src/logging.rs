//! Log lines: they go to stderr, and `RUST_LOG` filters them.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Others' code that may print what passes through it. Whatever `RUST_LOG` asks for, it says no more than info: a body,
/// a header or a bound value may be a secret.
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

/// Tells whether a line may be logged, whoever asks for it.
fn may_be_logged(line: &Metadata<'_>) -> bool {
    let of = |krate: &str| {
        line.target().strip_prefix(krate).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    *line.level() <= Level::INFO || !CAPPED.into_iter().any(of)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn others_code_says_no_more_than_info_whatever_is_asked_for() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let filter = EnvFilter::new("trace,hyper=trace").and(filter_fn(may_be_logged));
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(layer.with_filter(filter)),
            || {
                tracing::trace!(target: "hyper::proto::h1", "hidden one");
                tracing::debug!(target: "sqlx", "hidden two");
                tracing::info!(target: "sqlx::query", "shown one");
                tracing::trace!(target: "api::tokens", "shown two");
                tracing::trace!(target: "hyperspace", "shown three");
            },
        );
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("hidden"), "{text}");
        assert_eq!(text.matches("shown").count(), 3, "{text}");
    }
}
