//! Progress of an import: a bar on a terminal, else a line now and then. Both go to stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of reading a file.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    /// The file's length; none when it is not known, as of a pipe.
    total_bytes: Option<u64>,
    last_line: Instant,
}

impl Progress {
    /// The progress of a file of so many bytes.
    pub(crate) fn new(total_bytes: Option<u64>) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total_bytes, target);
        let template = match total_bytes {
            Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg} (eta {eta})",
            None => "{spinner} {bytes} {bytes_per_sec} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, is_terminal, total_bytes, last_line: Instant::now() }
    }

    /// Everything up to `bytes` is done, and came to `summary`.
    pub(crate) fn done(&mut self, bytes: u64, summary: &str) {
        self.bar.set_position(bytes);
        self.bar.set_message(summary.to_owned());
        if !self.is_terminal && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            match self.total_bytes.and_then(|total| (bytes * 100).checked_div(total)) {
                Some(percent) => self.say(&format!("{percent} %: {summary}")),
                None => self.say(summary),
            }
        }
    }

    /// A line for people, above the bar.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
