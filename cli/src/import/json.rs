//! One JSON object a line, with the fields that a [`Mapping`] names.
//!
//! Servers that write their logs through a template put numbers into quotes; such numbers are taken as numbers.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::call::{Call, LineError, Quoted, UserFrom, user};
use super::mapping::{Field, Mapping};

/// The number from which a time in digits is in milliseconds: as seconds it would be in the year 5138, as milliseconds
/// it is in 1973.
const FIRST_AS_MILLIS: f64 = 1e11;

/// Parses a line, without its line end.
pub(crate) fn parse(line: &[u8], user_from: UserFrom, mapping: &Mapping) -> Result<Call, LineError> {
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| LineError::Json(error.to_string()))?;
    let fields = Fields { object: &object, mapping };
    let ip_address = fields.text(Field::IpAddress)?;
    let user_field = match user_from {
        UserFrom::Ip => Field::IpAddress,
        UserFrom::User | UserFrom::Field => Field::User,
    };
    Ok(Call {
        user: user(&fields.name(user_field)?)?,
        time: fields.time()?,
        endpoint: fields.text(Field::Endpoint)?.ok_or_else(|| fields.missing(Field::Endpoint))?,
        method: fields.text(Field::Method)?,
        status_code: fields.integer(Field::StatusCode)?,
        response_time_ms: fields.response_time_ms()?,
        ip_address: match ip_address {
            Some(text) => Some(text.parse().map_err(|_| fields.wrong(Field::IpAddress, "an IP address"))?),
            None => None,
        },
        user_agent: fields.text(Field::UserAgent)?,
        request_size: fields.integer(Field::RequestSize)?,
        response_size: fields.integer(Field::ResponseSize)?,
        units: fields.integer(Field::Units)?,
    })
}

struct Fields<'a> {
    object: &'a Map<String, Value>,
    mapping: &'a Mapping,
}

impl Fields<'_> {
    /// The field's value; none when it is absent, null, empty or the dash of access logs.
    fn get(&self, field: Field) -> Option<&Value> {
        let member = self.mapping.member(field);
        let value = self.object.get(member).or_else(|| nested(self.object, member))?;
        let absent = value.is_null() || matches!(value.as_str(), Some("" | "-"));
        (!absent).then_some(value)
    }

    fn text(&self, field: Field) -> Result<Option<String>, LineError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(field, "a string")),
        }
    }

    /// A user's name: a string, or a number as databases have it.
    fn name(&self, field: Field) -> Result<String, LineError> {
        match self.get(field) {
            None => Err(LineError::NoUser),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) if number.is_u64() => Ok(number.to_string()),
            Some(_) => Err(self.wrong(field, "a string or a whole number")),
        }
    }

    fn integer(&self, field: Field) -> Result<Option<u64>, LineError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        number.map(Some).ok_or_else(|| self.wrong(field, "a whole number from 0"))
    }

    fn response_time_ms(&self) -> Result<Option<u64>, LineError> {
        if let Some(millis) = self.integer(Field::ResponseTimeMs)? {
            return Ok(Some(millis));
        }
        let Some(value) = self.get(Field::ResponseTimeS) else { return Ok(None) };
        let seconds = number(value).filter(|seconds| (0.0..1e9).contains(seconds));
        let seconds = seconds.ok_or_else(|| self.wrong(Field::ResponseTimeS, "a number of seconds"))?;
        Ok(Some(whole(seconds * 1e3).unsigned_abs()))
    }

    /// RFC 3339, or seconds or milliseconds since 1970.
    fn time(&self) -> Result<DateTime<Utc>, LineError> {
        let value = self.get(Field::Time).ok_or_else(|| self.missing(Field::Time))?;
        let epoch = || {
            let number = number(value)?;
            let seconds = if number < FIRST_AS_MILLIS { number } else { number / 1e3 };
            DateTime::from_timestamp_micros(whole(seconds * 1e6))
        };
        let time = value.as_str().and_then(ledger::time::parse).or_else(epoch);
        time.ok_or_else(|| self.wrong(Field::Time, "an RFC 3339 time, or seconds or milliseconds since 1970"))
    }

    fn wrong(&self, field: Field, expected: &'static str) -> LineError {
        LineError::Member { member: Quoted::new(self.mapping.member(field)), field: field.name(), expected }
    }

    fn missing(&self, field: Field) -> LineError {
        LineError::MissingMember { member: Quoted::new(self.mapping.member(field)), field: field.name() }
    }
}

/// The value at a path of names with dots between them.
fn nested<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let (first, rest) = path.split_once('.')?;
    let inner = object.get(first)?.as_object()?;
    inner.get(rest).or_else(|| nested(inner, rest))
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str, mapping: &str) -> Result<Call, LineError> {
        parse(line.as_bytes(), UserFrom::Field, &mapping.parse().unwrap())
    }

    fn says(line: &str) -> String {
        read(line, "").unwrap_err().to_string()
    }

    #[test]
    fn a_full_line_is_read_through_its_mapping() {
        let line = r#"{"path":"/api/analyze","ts":"2026-11-01T10:00:00.5+01:00","account":42,"verb":"POST","code":"201",
            "request_time":"0.0425","http":{"client":{"ip":"::1"}},"agent":"curl/8","in":10,"out":"20","cost":3,
            "more":[1]}"#;
        let mapping = "endpoint=path,time=ts,user=account,method=verb,status_code=code,response_time_s=request_time,\
            ip_address=http.client.ip,user_agent=agent,request_size=in,response_size=out,units=cost";
        let expected = Call {
            user: "42".parse().unwrap(),
            time: "2026-11-01T09:00:00.5Z".parse().unwrap(),
            endpoint: "/api/analyze".into(),
            method: Some("POST".into()),
            status_code: Some(201),
            response_time_ms: Some(43),
            ip_address: Some("::1".parse().unwrap()),
            user_agent: Some("curl/8".into()),
            request_size: Some(10),
            response_size: Some(20),
            units: Some(3),
        };
        assert_eq!(read(line, mapping), Ok(expected));
    }

    #[test]
    fn a_key_with_dots_goes_before_a_path() {
        let line = r#"{"u.r":"flat","u":{"r":"deep"},"time":0,"endpoint":"/"}"#;
        assert_eq!(read(line, "user=u.r").unwrap().user, "flat".parse().unwrap());
    }

    #[test]
    fn times_come_in_three_forms() {
        let time = |value: &str| {
            let line = format!(r#"{{"user":"a","endpoint":"/","time":{value}}}"#);
            read(&line, "").map(|call| call.time.to_rfc3339())
        };
        assert_eq!(time("1700000000").unwrap(), "2023-11-14T22:13:20+00:00");
        assert_eq!(time("1700000000.25").unwrap(), "2023-11-14T22:13:20.250+00:00");
        assert_eq!(time("1700000000123").unwrap(), "2023-11-14T22:13:20.123+00:00");
        assert_eq!(time("\"1700000000.123\"").unwrap(), "2023-11-14T22:13:20.123+00:00");
        assert_eq!(time("\"2023-11-14T22:13:20Z\"").unwrap(), "2023-11-14T22:13:20+00:00");
        for bad in ["\"yesterday\"", "\"NaN\"", "1e300", "true", "[]", "\"2023-11-14\""] {
            let expected = "\"time\" (time) is not an RFC 3339 time, or seconds or milliseconds since 1970";
            assert_eq!(time(bad).unwrap_err().to_string(), expected, "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(says("[1]").split(" (").next(), Some("not a JSON object"));
        assert!(says("{").starts_with("not a JSON object (EOF"));
        assert_eq!(says(r#"{"time":1}"#), "nobody is named as the user (--user-from)");
        assert_eq!(says(r#"{"user":"a"}"#), "\"time\" (time) is missing");
        assert_eq!(says(r#"{"user":"a","time":1}"#), "\"endpoint\" (endpoint) is missing");
        let line = |field: &str| format!(r#"{{"user":"a","time":1,"endpoint":"/",{field}}}"#);
        assert_eq!(
            says(&line(r#""status_code":-1"#)),
            "\"status_code\" (status_code) is not a whole number from 0"
        );
        assert_eq!(says(&line(r#""method":1"#)), "\"method\" (method) is not a string");
        assert_eq!(says(&line(r#""ip_address":"x""#)), "\"ip_address\" (ip_address) is not an IP address");
        assert_eq!(
            says(&line(r#""response_time_s":"x""#)),
            "\"response_time_s\" (response_time_s) is not a number of seconds"
        );
    }

    proptest! {
        #[test]
        fn no_values_make_it_panic(
            key in "(user|time|endpoint|status_code|response_time_s|units)",
            value in "(-?[0-9]{1,30}(\\.[0-9]{1,5})?(e[0-9]{1,3})?|\"\\PC{0,20}\"|null|\\{\\}|\\[\\])"
        ) {
            let line = format!(r#"{{"{key}":{value},"user":"a","time":1,"endpoint":"/"}}"#);
            let _ = read(&line, "");
        }
    }
}
