//! What is wrong with a field, in words for people: the one place where messages of serde and of parsers are read.
//!
//! Their messages name types of this program, repeat what was sent, and are no promise of ours. Only messages that our
//! own types write (`Deserialize` of a newtype) pass unchanged.

use super::{printable, printable_up_to};

/// Longest message of a type of ours, in characters.
const MAX_SENTENCE_CHARS: usize = 300;

/// Part of a request that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A body of fields.
    Body,
    /// A query string or a path of parameters.
    Parameters,
}

impl Source {
    fn noun(self) -> &'static str {
        match self {
            Self::Body => "field",
            Self::Parameters => "parameter",
        }
    }
}

/// A message as read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wording<'a> {
    /// Stable cause.
    pub(super) code: &'static str,
    /// The field that is unknown, missing or repeated.
    pub(super) field: Option<&'a str>,
    /// What is wrong, for a person.
    pub(super) detail: String,
}

/// Reads the message about the field or parameter `name`, which is empty for the whole.
pub(super) fn wording<'a>(source: Source, name: &str, message: &'a str) -> Wording<'a> {
    let message = without_place(message);
    let noun = source.noun();
    let of_field = |code, field: &'a str, detail| Wording { code, field: Some(field), detail };
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (field, known) = rest.rsplit_once("`, expected ").unwrap_or((rest, ""));
        let known = names(known);
        let field = field.strip_suffix("`, there are no fields").unwrap_or(field);
        let shown = printable(field);
        let detail = if known.is_empty() {
            format!("there is no {noun} {shown}: none is taken here")
        } else {
            format!("there is no {noun} {shown}; known are {known}")
        };
        return of_field("unknown_field", field, detail);
    }
    if let Some(field) = quoted(message, "missing field `") {
        return of_field("missing", field, format!("{field} is required"));
    }
    if let Some(field) = quoted(message, "duplicate field `") {
        return of_field("duplicate", field, format!("{field} is there more than once"));
    }
    Wording { code: "invalid", field: None, detail: invalid(source, name, message) }
}

/// A value of another kind than its field's.
pub(super) fn wrong_kind(source: Source, name: &str) -> String {
    format!("{} is of the wrong type, or a number too large to be read", subject(source, name))
}

/// The names that an error about an unknown one lists, as people list them: `a, b, c`.
pub(super) fn names(expected: &str) -> String {
    let quoted: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    quoted.join(", ")
}

fn invalid(source: Source, name: &str, message: &str) -> String {
    let is_of = |prefix: &str| message.starts_with(prefix);
    let subject = || subject(source, name);
    if ["invalid type: ", "invalid value: ", "invalid length "].into_iter().any(is_of) {
        return match message.rsplit_once(", expected ") {
            Some((_, expected)) => format!("{} must be {}", subject(), kind(expected)),
            None => wrong_kind(source, name),
        };
    }
    if is_of("unknown variant `") {
        let known = message.rsplit_once(", expected ").map(|(_, known)| names(known)).unwrap_or_default();
        return format!("{} must be {}{known}", subject(), if known.contains(',') { "one of " } else { "" });
    }
    match parsed(message) {
        Some(expected) => format!("{} must be {expected}", subject()),
        None => printable_up_to(message, MAX_SENTENCE_CHARS),
    }
}

fn subject(source: Source, name: &str) -> String {
    match (source, name) {
        (Source::Body, "") => "the body".to_owned(),
        (Source::Parameters, "") => "the parameter".to_owned(),
        (_, index) if index.bytes().all(|byte| byte.is_ascii_digit()) => format!("item {index}"),
        (_, name) => printable(name),
    }
}

/// What serde says that it expected; our own types say it in words already.
fn kind(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "str" | "string" | "a borrowed string" | "variant identifier" | "field identifier" | "byte array" => {
            "a string"
        }
        "a map" | "string or map" => "an object",
        "a sequence" | "a tuple" => "an array",
        "unit" => "null",
        other if other.starts_with("struct ") => "an object",
        other if other.starts_with("enum ") => "one of its names",
        other if other.starts_with("tuple") => "an array",
        other if other.to_ascii_lowercase().contains("uuid") => "a UUID",
        other => other,
    }
}

/// What a parser of the standard library, or of a crate, wanted to read.
fn parsed(message: &str) -> Option<&'static str> {
    let is_of = |prefix: &&str| message.starts_with(*prefix);
    let integers = [
        "invalid digit found in string",
        "cannot parse integer from empty string",
        "number too large to fit in target type",
        "number too small to fit in target type",
    ];
    let floats = ["invalid float literal", "cannot parse float from empty string"];
    let times = [
        "input contains invalid characters",
        "premature end of input",
        "input is out of range",
        "trailing input",
    ];
    if integers.iter().any(is_of) {
        Some("a whole number")
    } else if floats.iter().any(is_of) {
        Some("a number")
    } else if times.iter().any(is_of) {
        Some("an RFC 3339 time")
    } else if is_of(&"provided string was not `true` or `false`") {
        Some("true or false")
    } else if is_of(&"UUID parsing failed") || is_of(&"Cannot parse ") && message.contains("Uuid") {
        Some("a UUID")
    } else {
        None
    }
}

fn quoted<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.split('`').next()
}

/// The message without the place in the text at its end, which says nothing to somebody who sent an object.
fn without_place(message: &str) -> &str {
    let is_place = |place: &str| {
        let mut numbers = place.split(" column ");
        let mut is_number =
            || numbers.next().is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        is_number() && is_number()
    };
    message.rsplit_once(" at line ").filter(|(_, place)| is_place(place)).map_or(message, |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_a_type_of_ours_reaches_a_user() {
        for (name, message, detail) in [
            (
                "units",
                "invalid type: string \"5\", expected u64 at line 1 column 9",
                "units must be a whole number from 0",
            ),
            (
                "units",
                "invalid type: string \"5\", expected a whole number from 1",
                "units must be a whole number from 1",
            ),
            (
                "a",
                "invalid type: string \", expected u8\", expected f64 at line 1 column 2",
                "a must be a number",
            ),
            ("a", "invalid type: string \" at line 1 column 1\", expected a string", "a must be a string"),
            ("", "invalid type: sequence, expected struct CheckRequest", "the body must be an object"),
            ("status", "unknown variant `x`, expected `a` or `b`", "status must be one of a, b"),
            (
                "status",
                "unknown variant `, expected `y``, expected one of `a`, `b`, `c`",
                "status must be one of a, b, c",
            ),
            ("record", "invalid type: integer `1`, expected a boolean", "record must be true or false"),
            (
                "units",
                "units must be from 1 to 1000000 at line 3 column 4",
                "units must be from 1 to 1000000",
            ),
            (
                "0",
                "invalid value: integer `-1`, expected u32",
                "item 0 must be a whole number from 0 to 4294967295",
            ),
            ("id", "UUID parsing failed: invalid length: found 3", "id must be a UUID"),
            ("n", "invalid digit found in string", "n must be a whole number"),
        ] {
            let said = wording(Source::Body, name, message);
            assert_eq!((said.code, said.detail.as_str()), ("invalid", detail), "{message}");
        }
    }

    #[test]
    fn a_field_that_is_unknown_missing_or_repeated_is_named() {
        for (message, code, field, detail) in [
            (
                "unknown field `x`, expected `a` or `b`",
                "unknown_field",
                "x",
                "there is no field x; known are a, b",
            ),
            (
                "unknown field `a`, expected `b``, expected `c`",
                "unknown_field",
                "a`, expected `b`",
                "there is no field a`, expected `b`; known are c",
            ),
            (
                "unknown field `x`, there are no fields",
                "unknown_field",
                "x",
                "there is no field x: none is taken here",
            ),
            ("missing field `a` at line 1 column 2", "missing", "a", "a is required"),
            ("duplicate field `a`", "duplicate", "a", "a is there more than once"),
        ] {
            let said = wording(Source::Body, "", message);
            assert_eq!((said.code, said.field, said.detail.as_str()), (code, Some(field), detail));
        }
    }
}
