//! Rows that differ: the first ones of each table by their keys, and whether there are more.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use store::operations::compare::{Difference, RowDifference};

/// Tables that are compared, in the order in which people are told of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Summaries,
    KeyUsage,
    Adjustments,
    Calls,
    Links,
    Tokens,
}

impl Table {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Summaries => "monthly_usage_summary",
            Self::KeyUsage => "monthly_key_usage",
            Self::Adjustments => "statement_adjustments",
            Self::Calls => "api_usage",
            Self::Links => "token_audit",
            Self::Tokens => "user_tokens",
        }
    }
}

/// What differs.
#[derive(Debug)]
pub(super) struct Differences {
    max_rows: usize,
    tables: BTreeMap<Table, OfTable>,
}

#[derive(Debug, Default)]
struct OfTable {
    rows: BTreeMap<String, RowDifference>,
    more: bool,
}

/// A row's key, or its columns: names and values.
pub(super) type Columns<'a> = Vec<(&'a str, Value)>;

impl Differences {
    /// None yet; so many rows of a table are named at most.
    pub(super) fn new(max_rows: usize) -> Self {
        Self { max_rows, tables: BTreeMap::new() }
    }

    /// Notes a row of a table; rows are in the order of `order`.
    pub(super) fn add(
        &mut self,
        table: Table,
        order: String,
        key: Columns<'_>,
        expected: Option<Columns<'_>>,
        found: Option<Columns<'_>>,
    ) {
        let of_table = self.tables.entry(table).or_default();
        let object = |columns: Columns<'_>| {
            let columns = columns.into_iter().map(|(name, value)| (name.to_owned(), value));
            Value::Object(columns.collect::<Map<_, _>>())
        };
        let is_first = of_table.rows.last_key_value().is_none_or(|(last, _)| order < *last);
        if of_table.rows.len() >= self.max_rows {
            of_table.more = true;
            if !is_first {
                return;
            }
            of_table.rows.pop_last();
        }
        let row =
            RowDifference { key: object(key), expected: expected.map(object), found: found.map(object) };
        of_table.rows.insert(order, row);
    }

    pub(super) fn into_list(self) -> Vec<Difference> {
        let list = self.tables.into_iter().map(|(table, OfTable { rows, more })| Difference {
            name: table.name().to_owned(),
            rows: rows.into_values().collect(),
            more,
        });
        list.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rows_are_named_and_the_rest_is_told_of() {
        let mut differences = Differences::new(3);
        for n in [5, 1, 4, 2, 9, 3] {
            differences.add(Table::Calls, format!("{n}"), vec![("n", n.into())], None, Some(vec![]));
        }
        let list = differences.into_list();
        let keys: Vec<String> = list[0].rows.iter().map(|row| row.key.to_string()).collect();
        assert_eq!(keys, [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#]);
        assert!(list[0].more);
        assert_eq!((list.len(), list[0].name.as_str()), (1, "api_usage"));
    }
}
