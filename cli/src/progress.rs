//! Progress of a rebuild or a count: a bar on a terminal, a line per step otherwise.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};
use ledger_worker::rebuild::Progress;

/// Shows progress on stderr.
pub(crate) struct Bar {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style =
            "{msg:10} {bar:30} frame {pos}/{len} ({percent} %), {prefix} events, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, is_terminal }
    }

    pub(crate) fn show(&self, progress: Progress) {
        match progress {
            Progress::Step(step) if self.is_terminal => self.bar.set_message(step),
            Progress::Step(step) => eprintln!("{step}"),
            Progress::Resumed(seq) if self.is_terminal => {
                self.bar.set_position(seq);
                self.bar.reset_eta();
            }
            Progress::Resumed(seq) => eprintln!("going on after frame {seq}"),
            Progress::At { seq, target, events } => {
                self.bar.set_length(target);
                self.bar.set_prefix(events.to_string());
                self.bar.set_position(seq);
            }
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
