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
}

impl Mapping {
    /// The member of a line that holds this field.
    pub(crate) fn member(&self, field: Field) -> &str {
        let mapped = self.entries.iter().find(|(mapped, _)| *mapped == field);
        mapped.map_or(field.name(), |(_, member)| member)
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
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let form = || MappingError::Form(entry.to_owned());
            let (name, member) = entry.split_once('=').ok_or_else(form)?;
            let field = Field::ALL.into_iter().find(|field| field.name() == name);
            let field = field.ok_or_else(|| MappingError::UnknownField(name.to_owned()))?;
            if member.is_empty() {
                return Err(form());
            }
            if entries.iter().any(|(mapped, _)| *mapped == field) {
                return Err(MappingError::Twice(field.name()));
            }
            entries.push((field, member.to_owned()));
        }
        Ok(Self { entries })
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
