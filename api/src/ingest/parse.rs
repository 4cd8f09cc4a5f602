//! Reading what clients send: CloudEvents in their three modes, and plain JSON of the same fields.
//!
//! Each item is read by itself, straight into its type; only an item that does not fit is read again, to say where and
//! why.

use std::borrow::Cow;
use std::fmt;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ledger::{WholeNumber, time};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::binding::{Form, attribute};
use super::draft::{CallDraft, Draft, EndpointDraft};
use crate::http::extract::{MediaType, item_error};
use crate::http::problem::FieldError;

/// Items in one request.
pub const MAX_ITEMS: usize = 1_000;

/// Meaning of `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The fields of a call, and no others.
    Call,
    /// Anything, as OpenMeter's clients send it: an endpoint and units are looked for.
    OpenMeter,
}

/// An item, or what is wrong with it and its id, as far as it can be read.
pub type Item<'a> = Result<Draft<'a>, (Option<String>, FieldError)>;

/// Reason why a body is refused as a whole.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is not JSON.
    #[error("the body is not JSON (line {line}, column {column})")]
    Malformed {
        /// Line of the mistake, from 1.
        line: usize,
        /// Column of the mistake.
        column: usize,
    },
    /// It is JSON of another kind.
    #[error("the body must be {0}")]
    WrongKind(&'static str),
    /// There is no item.
    #[error("there is no event in it")]
    Empty,
    /// There are too many items.
    #[error("there are more than {MAX_ITEMS} events in it")]
    TooMany,
}

/// Reads a body of this form.
pub fn parse(body: &[u8], form: Form, profile: Profile) -> Result<Vec<Item<'_>>, ParseError> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let raws = match (form, first) {
        (Form::Plain | Form::Batch, Some(b'[')) => {
            serde_json::from_slice::<Items<'_>>(body).map_err(|error| refused(&error))?.0
        }
        (Form::Plain | Form::Single, Some(b'{')) => {
            vec![serde_json::from_slice(body).map_err(|error| refused(&error))?]
        }
        _ => {
            serde_json::from_slice::<IgnoredAny>(body).map_err(|error| refused(&error))?;
            return Err(ParseError::WrongKind(match form {
                Form::Plain => "an object or an array of objects",
                Form::Single => "one CloudEvent, an object",
                Form::Batch => "an array of CloudEvents",
            }));
        }
    };
    if raws.is_empty() {
        return Err(ParseError::Empty);
    }
    Ok(raws.into_iter().map(|raw| item(raw.get(), form, profile)).collect())
}

/// Reads an event in binary mode: attributes are headers, the body is `data`.
pub fn binary<'a>(headers: &HeaderMap, body: &'a [u8], profile: Profile) -> Result<Item<'a>, ParseError> {
    let data = if body.is_empty() {
        None
    } else {
        Some(serde_json::from_slice(body).map_err(|error| refused(&error))?)
    };
    let mut envelope = Envelope { data, ..Envelope::default() };
    let id = attribute(headers, "ce-id");
    let echo = id.as_ref().ok().cloned().flatten().map(Cow::into_owned);
    let filled = (|| {
        envelope.id = id?;
        envelope.specversion = attribute(headers, "ce-specversion")?;
        envelope.source = attribute(headers, "ce-source")?;
        envelope.kind = attribute(headers, "ce-type")?;
        envelope.subject = attribute(headers, "ce-subject")?;
        envelope.time = attribute(headers, "ce-time")?;
        // The binding forbids it beside Content-Type; where it says the same it does no harm.
        envelope.datacontenttype = attribute(headers, "ce-datacontenttype")?;
        Ok::<(), FieldError>(())
    })();
    Ok(filled.and_then(|()| draft(envelope, Form::Single, profile)).map_err(|error| (echo, error)))
}

fn refused(error: &serde_json::Error) -> ParseError {
    // Told by a message of our own, since serde_json keeps no other kind of error.
    if error.is_data() && error.to_string().starts_with(TOO_MANY) {
        return ParseError::TooMany;
    }
    ParseError::Malformed { line: error.line(), column: error.column() }
}

const TOO_MANY: &str = "too many items";

/// The elements of an array, unread. It stops at the first one too many, so that a body of a million commas costs
/// nothing.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(element) = elements.next_element()? {
                    if items.len() == MAX_ITEMS {
                        return Err(A::Error::custom(TOO_MANY));
                    }
                    items.push(element);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

/// A CloudEvent. Attributes that are not named here are extensions, and passed over.
#[derive(Deserialize)]
struct Envelope<'a, D> {
    #[serde(borrow, default, deserialize_with = "text")]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type", deserialize_with = "text")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    time: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    datacontenttype: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    data_base64: Option<Cow<'a, str>>,
    data: Option<D>,
}

impl<D> Default for Envelope<'_, D> {
    fn default() -> Self {
        Self {
            specversion: None,
            id: None,
            source: None,
            kind: None,
            subject: None,
            time: None,
            datacontenttype: None,
            data_base64: None,
            data: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallData<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    endpoint: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    method: Option<Cow<'a, str>>,
    status_code: Option<WholeNumber<100>>,
    response_time_ms: Option<WholeNumber<0>>,
    #[serde(borrow, default, deserialize_with = "text")]
    ip_address: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    user_agent: Option<Cow<'a, str>>,
    request_size: Option<WholeNumber<0>>,
    response_size: Option<WholeNumber<0>>,
    units: Option<WholeNumber<1>>,
}

/// Fields by which OpenMeter's clients describe a call; everything else is passed over.
#[derive(Deserialize)]
struct MeterData<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    endpoint: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    route: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    path: Option<Cow<'a, str>>,
    units: Option<WholeNumber<1>>,
}

/// Text that borrows where it has no escapes; null is none.
fn text<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    struct TextVisitor;
    impl<'de> Visitor<'de> for TextVisitor {
        type Value = Option<Cow<'de, str>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a string")
        }

        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(Some(Cow::Borrowed(text)))
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(Cow::Owned(text.to_owned())))
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_str(self)
        }
    }
    deserializer.deserialize_option(TextVisitor)
}

fn item(raw: &str, form: Form, profile: Profile) -> Item<'_> {
    let read = match profile {
        Profile::Call => read_at("", raw).and_then(|envelope| call(envelope, form)),
        Profile::OpenMeter => read_at("", raw).and_then(|envelope| metered(envelope, form)),
    };
    read.map_err(|error| {
        let outline = Outline::of(raw);
        // Of data that is no JSON nothing else is worth saying.
        let error = check_kind(outline.datacontenttype.as_deref()).err().unwrap_or(error);
        (outline.id, error)
    })
}

/// [`item`] of an event whose attributes were read already.
fn draft<'a>(
    envelope: Envelope<'a, &'a RawValue>,
    form: Form,
    profile: Profile,
) -> Result<Draft<'a>, FieldError> {
    match profile {
        Profile::OpenMeter => metered(envelope, form),
        Profile::Call => {
            let data = envelope.data.map(|data| read_at("/data", data.get())).transpose()?;
            let Envelope {
                specversion,
                id,
                source,
                kind,
                subject,
                time,
                datacontenttype,
                data_base64,
                data: _,
            } = envelope;
            call(
                Envelope { specversion, id, source, kind, subject, time, datacontenttype, data_base64, data },
                form,
            )
        }
    }
}

fn read_at<'a, T: Deserialize<'a>>(pointer: &str, raw: &'a str) -> Result<T, FieldError> {
    if !raw.starts_with('{') {
        return Err(FieldError::at(pointer, "invalid", "it must be an object"));
    }
    serde_json::from_str(raw).map_err(|error| {
        // Once more, slowly, to learn where.
        let mut deserializer = serde_json::Deserializer::from_str(raw);
        match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
            Err(error) => item_error(pointer, error),
            Ok(_) => FieldError::at(pointer, "invalid", error.to_string()),
        }
    })
}

/// What can be read of an item that could not be read otherwise.
#[derive(Default)]
struct Outline<'a> {
    id: Option<String>,
    datacontenttype: Option<Cow<'a, str>>,
}

impl<'a> Outline<'a> {
    fn of(raw: &'a str) -> Self {
        #[derive(Deserialize)]
        struct Named<'a> {
            #[serde(borrow, default, deserialize_with = "text")]
            id: Option<Cow<'a, str>>,
            #[serde(borrow, default, deserialize_with = "text")]
            datacontenttype: Option<Cow<'a, str>>,
        }
        let Ok(Named { id, datacontenttype }) = serde_json::from_str::<Named<'_>>(raw) else {
            return Self::default();
        };
        let id = id.map(|id| ledger::text::cut(&id, ledger::text::MAX_NAME_BYTES).to_owned());
        Self { id, datacontenttype }
    }
}

fn call<'a>(mut envelope: Envelope<'a, CallData<'a>>, form: Form) -> Result<Draft<'a>, FieldError> {
    let call = match (envelope.data.take(), envelope.data_base64.take()) {
        (Some(data), None) => call_of(data)?,
        (None, Some(encoded)) => call_of(read_at("/data", &decoded(&encoded)?)?)?.into_owned(),
        (Some(_), Some(_)) => return Err(both()),
        (None, None) => return Err(missing("/data", "data, the fields of the call,")),
    };
    finish(envelope, form, call)
}

fn call_of(data: CallData<'_>) -> Result<CallDraft<'_>, FieldError> {
    let endpoint = data.endpoint.ok_or_else(|| missing("/data/endpoint", "an endpoint"))?;
    Ok(CallDraft {
        endpoint: EndpointDraft::Path(endpoint),
        method: data.method,
        status_code: data.status_code.map(WholeNumber::get),
        response_time_ms: data.response_time_ms.map(WholeNumber::get),
        ip_address: data.ip_address,
        user_agent: data.user_agent,
        request_size: data.request_size.map(WholeNumber::get),
        response_size: data.response_size.map(WholeNumber::get),
        units: data.units.map(WholeNumber::get),
    })
}

fn metered<'a>(mut envelope: Envelope<'a, &'a RawValue>, form: Form) -> Result<Draft<'a>, FieldError> {
    let call = match (envelope.data.take(), envelope.data_base64.take()) {
        (Some(data), None) => meter_of(data.get())?,
        (None, Some(encoded)) => meter_of(&decoded(&encoded)?)?.map(CallDraft::into_owned),
        (Some(_), Some(_)) => return Err(both()),
        (None, None) => None,
    };
    let mut call = call.unwrap_or_default();
    if let EndpointDraft::EventType(kind) = &mut call.endpoint {
        *kind = envelope.kind.clone().ok_or_else(|| missing("/type", "a type"))?;
    }
    finish(envelope, form, call)
}

/// What OpenMeter's clients say of a call; none where `data` is no object.
fn meter_of(data: &str) -> Result<Option<CallDraft<'_>>, FieldError> {
    if !data.starts_with('{') {
        return Ok(None);
    }
    let MeterData { endpoint, route, path, units } = read_at("/data", data)?;
    let endpoint = endpoint.or(route).or(path).map(EndpointDraft::Path).unwrap_or_default();
    Ok(Some(CallDraft { endpoint, units: units.map(WholeNumber::get), ..CallDraft::default() }))
}

/// The JSON that `data_base64` holds (CloudEvents' JSON format 1.0.2, §3.1.1).
fn decoded(encoded: &str) -> Result<String, FieldError> {
    let wrong = |detail| FieldError::at("/data_base64", "invalid", detail);
    let bytes = BASE64.decode(encoded).map_err(|_| wrong("data_base64 must be Base64 (RFC 4648, §4)"))?;
    let json = String::from_utf8(bytes).ok().filter(|json| serde_json::from_str::<IgnoredAny>(json).is_ok());
    let json = json.ok_or_else(|| wrong("data_base64 must hold JSON"))?;
    Ok(json.trim().to_owned())
}

/// Padded or not: some senders leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn finish<'a, D>(
    envelope: Envelope<'a, D>,
    form: Form,
    call: CallDraft<'a>,
) -> Result<Draft<'a>, FieldError> {
    let is_cloud_event = form != Form::Plain;
    match envelope.specversion.as_deref() {
        Some("1.0") => {}
        None if !is_cloud_event => {}
        None => return Err(missing("/specversion", "a specversion")),
        Some(_) => {
            return Err(FieldError::at("/specversion", "unsupported_specversion", "it must be \"1.0\""));
        }
    }
    if is_cloud_event && envelope.source.is_none() {
        return Err(missing("/source", "a source"));
    }
    if is_cloud_event && envelope.kind.is_none() {
        return Err(missing("/type", "a type"));
    }
    check_kind(envelope.datacontenttype.as_deref())?;
    let time = envelope.time.as_deref().map(|time| {
        time::parse(time).ok_or_else(|| FieldError::at("/time", "invalid", "it must be an RFC 3339 time"))
    });
    Ok(Draft {
        id: envelope.id.ok_or_else(|| missing("/id", "an id"))?,
        source: envelope.source,
        subject: envelope.subject,
        time: time.transpose()?,
        call,
    })
}

/// Refuses data that says that it is no JSON. What says nothing is JSON.
fn check_kind(datacontenttype: Option<&str>) -> Result<(), FieldError> {
    if datacontenttype.is_none_or(|kind| MediaType::new(kind).is_json()) {
        return Ok(());
    }
    let detail = "data must be JSON: application/json, or a media type that ends in +json";
    Err(FieldError::at("/datacontenttype", "unsupported", detail))
}

fn both() -> FieldError {
    FieldError::at("/data_base64", "invalid", "an event has either data or data_base64")
}

fn missing(pointer: &'static str, what: &str) -> FieldError {
    FieldError::at(pointer, "missing", format!("{what} is required"))
}
