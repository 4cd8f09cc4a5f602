//! The figures of one run: a table for people, a flat object for programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value};

/// Side of its target that a figure has to be on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// The least that is good.
    AtLeast(f64),
    /// The most that is good.
    AtMost(f64),
}

/// Figures in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<(&'static str, f64, Option<Target>)>,
}

impl Report {
    /// Adds a figure that others are derived from.
    pub(crate) fn add(&mut self, name: &'static str, value: f64) {
        eprintln!("  {name} = {}", rounded(value));
        self.figures.push((name, value, None));
    }

    /// Adds a figure that has a target.
    pub(crate) fn hold(&mut self, name: &'static str, value: f64, target: Target) {
        eprintln!("  {name} = {}", rounded(value));
        self.figures.push((name, value, Some(target)));
    }

    /// A figure that was added before.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<f64> {
        let found = self.figures.iter().find(|figure| figure.0 == name);
        found.map(|figure| figure.1).with_context(|| format!("{name} was not measured"))
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<34} {:>12}   {}\n", "figure", "value", "target");
        for (name, value, target) in &self.figures {
            let target = match target {
                None => String::new(),
                Some(Target::AtLeast(least)) => format!(">= {least}{}", verdict(value >= least)),
                Some(Target::AtMost(most)) => format!("<= {most}{}", verdict(value <= most)),
            };
            let _infallible = writeln!(table, "{name:<34} {:>12}   {target}", rounded(*value));
        }
        table
    }

    /// Writes the flat object for programs.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let figures: Map<String, Value> =
            self.figures.iter().map(|(name, value, _)| ((*name).to_owned(), Value::from(*value))).collect();
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

fn verdict(reached: bool) -> &'static str {
    if reached { "" } else { "   MISSED" }
}

fn rounded(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
