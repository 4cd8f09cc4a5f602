//! Writing events in their canonical layout: `specversion id source type subject time data`, no white space, times in
//! microseconds.

use ledger::time;
use serde::Serialize;
use uuid::Uuid;

use crate::actor::Actor;
use crate::body::{ApiCalled, Body};
use crate::event::Event;
use crate::sealed::SealedJson;

/// Appends the event's JSON. An event of an unknown type has no body to write: it is read only.
pub fn encode(event: &Event<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"specversion":"1.0","id":"#);
    string(&event.id, out);
    out.extend_from_slice(br#","source":"#);
    string(&event.source, out);
    out.extend_from_slice(br#","type":"#);
    string(&event.body.event_type(), out);
    if let Some(subject) = event.subject {
        out.extend_from_slice(br#","subject":"#);
        quoted_uuid(subject.get(), out);
    }
    out.extend_from_slice(br#","time":""#);
    out.extend_from_slice(&time::format(event.time));
    out.extend_from_slice(br#"","data":"#);
    match &event.body {
        Body::ApiCalled(call) => api_called(call, out),
        Body::CallCompleted(body) => json(body, out),
        Body::LimitRejected(body) => json(body, out),
        Body::OwnCalls(body) => json(body, out),
        Body::LimitThresholdCrossed(body) => json(body, out),
        Body::UsageReset(body) => json(body, out),
        Body::PlanChanged(body) => json(body, out),
        Body::PeriodClosed(body) => json(body, out),
        Body::ClaimsTurned(body) => json(body, out),
        Body::GapAccepted(body) => json(body, out),
        Body::TokenStored(body) => json(body, out),
        Body::TokenDeleted(body) => json(body, out),
        Body::TokenUsed(body) => json(body, out),
        Body::UserErased(body) => json(body, out),
        Body::ApiKeyCreated(body) | Body::ApiKeyChanged(body) => json(body, out),
        Body::ApiKeyRotated(body) => json(body, out),
        Body::ApiKeyRevoked(body) => json(body, out),
        Body::Account(_, body) => json(body, out),
        Body::AuthFailed(body) => json(body, out),
        Body::Unknown { .. } => out.extend_from_slice(b"{}"),
    }
    out.push(b'}');
}

/// Appends a frame's body of these events.
pub fn encode_batch<'e, 'a: 'e>(events: impl IntoIterator<Item = &'e Event<'a>>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, event) in events.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        encode(event, out);
    }
    out.push(b']');
}

/// Writes by hand what nearly every event is, in the order of the type's fields, as serde would write them.
fn api_called(call: &ApiCalled<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"endpoint":"#);
    string(&call.endpoint, out);
    optional(br#","method":"#, call.method.as_deref(), string, out);
    optional(br#","status_code":"#, call.status_code, integer, out);
    optional(br#","response_time_ms":"#, call.response_time_ms, integer, out);
    optional(br#","personal":"#, call.personal.as_ref(), raw, out);
    optional(br#","request_size":"#, call.request_size, integer, out);
    optional(br#","response_size":"#, call.response_size, integer, out);
    out.extend_from_slice(br#","units":"#);
    integer(call.units, out);
    out.extend_from_slice(br#","category":""#);
    out.extend_from_slice(call.category.as_str().as_bytes());
    out.extend_from_slice(if call.counted { br#"","counted":true"# } else { br#"","counted":false"# });
    optional(br#","key_id":"#, call.key_id, quoted_uuid, out);
    optional(br#","reservation_id":"#, call.reservation_id, quoted_uuid, out);
    optional(br#","lease":"#, call.lease, quoted_uuid, out);
    optional(br#","actor":"#, call.actor.as_ref(), actor, out);
    optional(br#","request":"#, call.request, quoted_uuid, out);
    out.push(b'}');
}

fn actor(actor: &Actor<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"kind":""#);
    out.extend_from_slice(actor.kind.as_str().as_bytes());
    out.extend_from_slice(br#"","id":"#);
    string(&actor.id, out);
    out.push(b'}');
}

fn optional<T>(key: &[u8], value: Option<T>, write: impl FnOnce(T, &mut Vec<u8>), out: &mut Vec<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        write(value, out);
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        return json(text, out);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// JSON already, in one line of our own making or of the event that it was read from.
fn raw(sealed: &SealedJson<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(sealed.as_str().as_bytes());
}

fn integer(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn quoted_uuid(id: Uuid, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
    out.push(b'"');
}

fn json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value)
        .expect("our own types have string keys and finite numbers, and a Vec takes every write");
}
