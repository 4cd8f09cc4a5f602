//! Mapping of a JSON line's members to a call's fields.

use std::str::FromStr;

/// A field of a call, as `--map` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Field {
    Endpoint,
    Time,
    User,
    Method,
    StatusCode,
    ResponseTimeMs,
    /// The same in seconds, as nginx's `$request_time` has it.
    ResponseTimeS,
    IpAddress,
    UserAgent,
    RequestSize,
    ResponseSize,
    Units,
}

impl Field {
    const ALL: [Self; 12] = [
        Self::Endpoint,
        Self::Time,
        Self::User,
        Self::Method,
        Self::StatusCode,
        Self::ResponseTimeMs,
        Self::ResponseTimeS,
        Self::IpAddress,
        Self::UserAgent,
        Self::RequestSize,
        Self::ResponseSize,
        Self::Units,
    ];

    /// Its name in `--map`, and in a line when nothing else is said.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Time => "time",
            Self::User => "user",
            Self::Method => "method",
            Self::StatusCode => "status_code",
            Self::ResponseTimeMs => "response_time_ms",
            Self::ResponseTimeS => "response_time_s",
            Self::IpAddress => "ip_address",
            Self::UserAgent => "user_agent",
            Self::RequestSize => "request_size",
            Self::ResponseSize => "response_size",
            Self::Units => "units",
        }
    }
}

/// The value of `--map`: `endpoint=path,time=ts`. Fields that it does not name are looked for under their own names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapping {
    entries: Vec<(Field, String)>,
    duration_unit: DurationUnit,
}

/// Unit of the member that holds the duration: `response_time_ms=duration:ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DurationUnit {
    Nanos,
    Micros,
    #[default]
    Millis,
    Seconds,
}

impl DurationUnit {
    /// Power of ten by which a number of this unit becomes one of milliseconds.
    pub(crate) const fn shift_to_millis(self) -> i32 {
        match self {
            Self::Nanos => -6,
            Self::Micros => -3,
            Self::Millis => 0,
            Self::Seconds => 3,
        }
    }

    /// A member's name without its unit, and the unit.
    fn split(member: &str) -> (&str, Option<Self>) {
        let unit = member.rsplit_once(':').and_then(|(name, unit)| {
            let unit = match unit {
                "ns" => Self::Nanos,
                "us" => Self::Micros,
                "ms" => Self::Millis,
                "s" => Self::Seconds,
                _ => return None,
            };
            Some((name, Some(unit)))
        });
        unit.unwrap_or((member, None))
    }
}

impl Mapping {
    /// The member of a line that holds this field.
    pub(crate) fn member(&self, field: Field) -> &str {
        let mapped = self.entries.iter().find(|(mapped, _)| *mapped == field);
        mapped.map_or(field.name(), |(_, member)| member)
    }

    /// Unit of the member that holds the duration ([`Field::ResponseTimeMs`]).
    pub(crate) fn duration_unit(&self) -> DurationUnit {
        self.duration_unit
    }
}

/// Reason for which a `--map` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MappingError {
    #[error("{0:?} is not of the form field=name, such as endpoint=path")]
    Form(String),
    #[error("{0:?} is no field of a call; they are {names}", names = Field::ALL.map(Field::name).join(", "))]
    UnknownField(String),
    #[error("{0} is mapped twice")]
    Twice(&'static str),
}

impl FromStr for Mapping {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, MappingError> {
        let mut entries: Vec<(Field, String)> = Vec::new();
        let mut duration_unit = DurationUnit::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let form = || MappingError::Form(entry.to_owned());
            let (name, member) = entry.split_once('=').ok_or_else(form)?;
            let field = Field::ALL.into_iter().find(|field| field.name() == name);
            let field = field.ok_or_else(|| MappingError::UnknownField(name.to_owned()))?;
            let (member, unit) = match field {
                Field::ResponseTimeMs => DurationUnit::split(member),
                _ => (member, None),
            };
            duration_unit = unit.unwrap_or(duration_unit);
            if member.is_empty() {
                return Err(form());
            }
            if entries.iter().any(|(mapped, _)| *mapped == field) {
                return Err(MappingError::Twice(field.name()));
            }
            entries.push((field, member.to_owned()));
        }
        Ok(Self { entries, duration_unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_mapped_or_keep_their_names() {
        let mapping: Mapping = "endpoint=path, time=@timestamp".parse().unwrap();
        assert_eq!(mapping.member(Field::Endpoint), "path");
        assert_eq!(mapping.member(Field::Time), "@timestamp");
        assert_eq!(mapping.member(Field::StatusCode), "status_code");
        assert_eq!("user=a=b".parse::<Mapping>().unwrap().member(Field::User), "a=b");
    }

    #[test]
    fn a_duration_has_a_unit() {
        for (text, member, shift) in [
            ("", "response_time_ms", 0),
            ("response_time_ms=rt", "rt", 0),
            ("response_time_ms=duration:ns", "duration", -6),
            ("response_time_ms=duration:us,user=a", "duration", -3),
            ("user=a:s,response_time_ms=duration:ms", "duration", 0),
            ("response_time_ms=a.duration:s", "a.duration", 3),
            ("response_time_ms=http:duration", "http:duration", 0),
            ("response_time_ms=http:duration:s", "http:duration", 3),
        ] {
            let mapping: Mapping = text.parse().unwrap();
            assert_eq!(mapping.member(Field::ResponseTimeMs), member, "{text}");
            assert_eq!(mapping.duration_unit().shift_to_millis(), shift, "{text}");
        }
        assert_eq!("user=a:s".parse::<Mapping>().unwrap().member(Field::User), "a:s");
        assert!("response_time_ms=:ns".parse::<Mapping>().is_err());
    }

    #[test]
    fn a_wrong_mapping_says_what_is_wrong() {
        let says = |text: &str| text.parse::<Mapping>().unwrap_err().to_string();
        assert_eq!(says("endpoint"), "\"endpoint\" is not of the form field=name, such as endpoint=path");
        assert_eq!(says("endpoint="), "\"endpoint=\" is not of the form field=name, such as endpoint=path");
        assert_eq!(says("time=a,time=b"), "time is mapped twice");
        assert!(
            says("status=code")
                .starts_with("\"status\" is no field of a call; they are endpoint, time, user,")
        );
    }
}
