//! One JSON object a line, with the fields that a [`Mapping`] names.
//!
//! Servers that write their logs through a template put numbers into quotes; such numbers are taken as numbers.
//! Whatever is optional and cannot be read is left out and noted.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::call::{Call, Host, LineError, Note, Quoted, Reading, Remark, UserFrom, somebody, user};
use super::decimal;
use super::lookalike::Lookalike;
use super::mapping::{Field, Mapping};

/// The number from which a time in digits is in milliseconds: as seconds it would be in the year 5138, as milliseconds
/// it is in 1973.
const FIRST_AS_MILLIS: f64 = 1e11;

/// Parses a line, without its line end.
pub(crate) fn parse(line: &[u8], user_from: UserFrom, mapping: &Mapping) -> Result<Reading, LineError> {
    let text = String::from_utf8_lossy(line);
    let is_replaced = matches!(text, Cow::Owned(_));
    let object: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
        let form = Lookalike::of_json(line).map(LineError::Lookalike);
        form.unwrap_or_else(|| LineError::Json(Quoted::new(&error.to_string())))
    })?;
    let mut fields = Fields { object: &object, mapping, is_replaced, notes: Vec::new() };
    let user = match user_from {
        UserFrom::Ip => fields.client()?,
        UserFrom::User | UserFrom::Field => user(&fields.user()?)?,
    };
    let time = fields.time()?;
    let endpoint = fields.required(Field::Endpoint)?;
    let call = Call {
        user,
        time,
        endpoint: fields.text(Field::Endpoint).ok_or_else(|| fields.wrong(endpoint, "a string"))?,
        method: fields.text(Field::Method),
        status_code: fields.status_code(),
        response_time_ms: fields.response_time_ms(),
        ip_address: fields.ip_address(),
        user_agent: fields.text(Field::UserAgent),
        request_size: fields.whole(Field::RequestSize, 0),
        response_size: fields.whole(Field::ResponseSize, 0),
        units: fields.whole(Field::Units, 0),
    };
    let call = call.without_what_cannot_be(&mut fields.notes);
    Ok(Reading { call, notes: fields.notes })
}

struct Fields<'a> {
    object: &'a Map<String, Value>,
    mapping: &'a Mapping,
    /// Whether the line was not UTF-8.
    is_replaced: bool,
    notes: Vec<Note>,
}

impl<'a> Fields<'a> {
    /// The member's values: none when it is absent, null, empty or the dash of access logs.
    fn values(&self, field: Field) -> &'a [Value] {
        let member = self.mapping.member(field);
        let value = self.object.get(member).or_else(|| nested_in(self.object, member));
        match value {
            Some(Value::Array(values)) => values,
            Some(value) => std::slice::from_ref(value),
            None => &[],
        }
    }

    /// The field's value; of several the first one, which is noted.
    fn get(&mut self, field: Field) -> Option<&'a Value> {
        let values = self.values(field);
        let value = values.first().filter(|value| !is_absent(value))?;
        if values.len() > 1 {
            self.note(field, Remark::FirstOfSeveral);
        }
        Some(value)
    }

    /// A text; none, which is noted, when it is something else.
    fn text(&mut self, field: Field) -> Option<String> {
        match self.get(field)? {
            Value::String(text) => {
                if self.is_replaced && text.contains(char::REPLACEMENT_CHARACTER) {
                    self.note(field, Remark::Replaced);
                }
                Some(text.clone())
            }
            _ => self.left_out(field, "a string"),
        }
    }

    /// The one value that names whoever is charged.
    fn name(&self, field: Field) -> Result<&'a Value, LineError> {
        match self.values(field) {
            [] => Err(LineError::NoUser),
            [value] if is_absent(value) => Err(LineError::NoUser),
            [Value::String(name)] if self.is_replaced && name.contains(char::REPLACEMENT_CHARACTER) => {
                Err(LineError::UserNotUtf8)
            }
            [value] => Ok(value),
            _ => Err(LineError::SeveralUsers { member: Quoted::new(self.mapping.member(field)) }),
        }
    }

    /// A user's name: a string, or a number as databases have it.
    fn user(&self) -> Result<String, LineError> {
        match self.name(Field::User)? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) if number.is_u64() => Ok(number.to_string()),
            _ => Err(self.wrong(Field::User, "a string or a whole number")),
        }
    }

    /// The client as the user.
    fn client(&self) -> Result<ledger::UserRef, LineError> {
        match self.name(Field::IpAddress)? {
            Value::String(text) if text.contains(',') => Err(LineError::Lookalike(Lookalike::Addresses)),
            Value::String(text) => Host::of(text.trim()).ok_or(LineError::NoClient)?.user(),
            _ => Err(LineError::NoClient),
        }
    }

    fn ip_address(&mut self) -> Option<std::net::IpAddr> {
        let text = self.text(Field::IpAddress)?;
        match Host::of(text.trim()) {
            Some(Host::Nobody) => None,
            Some(host @ Host::Address(_)) => host.address(&mut self.notes),
            _ => self.left_out(Field::IpAddress, "an IP address"),
        }
    }

    /// A number × 10^`shift`, rounded.
    fn whole(&mut self, field: Field, shift: i32) -> Option<u64> {
        let value = self.get(field)?;
        let number = match value {
            Value::Number(number) => decimal::scaled(&number.to_string(), shift),
            Value::String(text) => decimal::scaled(text.trim(), shift),
            _ => None,
        };
        let Some(number) = number else { return self.left_out(field, "a number from 0") };
        if number.is_rounded {
            self.note(field, Remark::Rounded);
        }
        Some(number.value)
    }

    /// Not rounded: a fraction of a status is none.
    fn status_code(&mut self) -> Option<u64> {
        let notes = self.notes.len();
        let status = self.whole(Field::StatusCode, 0)?;
        let is_rounded = self.notes[notes..].iter().any(|note| note.remark == Remark::Rounded);
        if is_rounded {
            self.notes.truncate(notes);
            return self.left_out(Field::StatusCode, "a number from 100 to 599");
        }
        Some(status)
    }

    fn response_time_ms(&mut self) -> Option<u64> {
        let shift = self.mapping.duration_unit().shift_to_millis();
        let start = self.notes.len();
        let of_millis = self.whole(Field::ResponseTimeMs, shift);
        if of_millis.is_some() {
            return of_millis;
        }
        let end = self.notes.len();
        let of_seconds = self.whole(Field::ResponseTimeS, 3);
        if of_seconds.is_some() {
            // The one field says what the other one does not: nothing is left out.
            self.notes.drain(start..end);
        }
        of_seconds
    }

    /// RFC 3339, or seconds or milliseconds since 1970.
    fn time(&mut self) -> Result<DateTime<Utc>, LineError> {
        let field = self.required(Field::Time)?;
        let value = self.get(field).ok_or_else(|| self.missing(field))?;
        let epoch = || {
            let number = number(value)?;
            let seconds = if number < FIRST_AS_MILLIS { number } else { number / 1e3 };
            DateTime::from_timestamp_micros(whole(seconds * 1e6))
        };
        let time = value.as_str().and_then(ledger::time::parse).or_else(epoch);
        time.ok_or_else(|| self.wrong(field, "an RFC 3339 time, or seconds or milliseconds since 1970"))
    }

    /// The field, when the line has it.
    fn required(&self, field: Field) -> Result<Field, LineError> {
        match self.values(field).first() {
            Some(value) if !is_absent(value) => Ok(field),
            _ => Err(self.missing(field)),
        }
    }

    fn note(&mut self, field: Field, remark: Remark) {
        self.notes.push(Note { field: field.name(), remark });
    }

    fn left_out<T>(&mut self, field: Field, expected: &'static str) -> Option<T> {
        self.note(field, Remark::LeftOut(expected));
        None
    }

    fn wrong(&self, field: Field, expected: &'static str) -> LineError {
        LineError::Member { member: Quoted::new(self.mapping.member(field)), field: field.name(), expected }
    }

    fn missing(&self, field: Field) -> LineError {
        if ["log", "stream", "time"].iter().all(|member| self.object.contains_key(*member)) {
            return LineError::Lookalike(Lookalike::DockerJson);
        }
        LineError::MissingMember { member: Quoted::new(self.mapping.member(field)), field: field.name() }
    }
}

fn is_absent(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| somebody(text).is_none())
}

/// The value at a path of names with dots between them; a number leads into a list.
fn nested_in<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let (first, rest) = path.split_once('.')?;
    nested(object.get(first)?, rest)
}

fn nested<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) => object.get(path).or_else(|| nested_in(object, path)),
        Value::Array(values) => {
            let (index, rest) =
                path.split_once('.').map_or((path, None), |(index, rest)| (index, Some(rest)));
            let value = values.get(index.parse::<usize>().ok()?)?;
            rest.map_or(Some(value), |rest| nested(value, rest))
        }
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.filter(|number| number.is_finite())
}

#[expect(clippy::cast_possible_truncation, reason = "rounded before; beyond 64 bits the cast saturates")]
fn whole(number: f64) -> i64 {
    number.round() as i64
}

#[cfg(test)]
mod tests;
