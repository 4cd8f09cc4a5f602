//! Rows that differ, for people and for programs.

use std::io::{self, Write as _};

use serde_json::Value;
use store::operations::compare::Difference;

use crate::output::printable;

/// Prints one line for each row on stdout: table, key, and the columns that differ as `column: should be, is`.
pub(crate) fn print(differences: &[Difference], expected_by: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for difference in differences {
        let table = printable(&difference.name);
        for row in &difference.rows {
            let key = printable(&row.key.to_string());
            let what = match (&row.expected, &row.found) {
                (Some(_), None) => format!("{expected_by} has it, the table does not"),
                (None, _) => format!("the table has it, {expected_by} does not"),
                (Some(expected), Some(found)) => columns(expected, found, expected_by),
            };
            writeln!(out, "{table}\t{key}\t{what}")?;
        }
        if difference.more {
            writeln!(out, "{table}\t…\tand more")?;
        }
    }
    out.flush()
}

fn columns(expected: &Value, found: &Value, expected_by: &str) -> String {
    let Value::Object(expected) = expected else { return String::new() };
    let differing = expected.iter().filter(|(name, value)| found.get(name.as_str()) != Some(*value));
    let texts = differing.map(|(name, value)| {
        let is = found.get(name.as_str()).unwrap_or(&Value::Null);
        printable(&format!("{name}: {value} by {expected_by}, {is} in the table"))
    });
    texts.collect::<Vec<_>>().join("; ")
}
