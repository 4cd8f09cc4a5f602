//! Writing events in their canonical layout: `specversion id source type subject time data`, no white space, times in
//! microseconds.

use ledger::time;
use serde::Serialize;

use crate::body::{ApiCalled, Body};
use crate::event::Event;

/// Appends the event's JSON. An event of an unknown type has no body to write: it is read only.
pub fn encode(event: &Event<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"specversion":"1.0","id":"#);
    string(&event.id, out);
    out.extend_from_slice(br#","source":"#);
    string(&event.source, out);
    out.extend_from_slice(br#","type":"#);
    string(&event.body.event_type(), out);
    if let Some(subject) = event.subject {
        out.extend_from_slice(br#","subject":""#);
        uuid(subject.get(), out);
        out.push(b'"');
    }
    out.extend_from_slice(br#","time":""#);
    out.extend_from_slice(&time::format(event.time));
    out.extend_from_slice(br#"","data":"#);
    match &event.body {
        Body::ApiCalled(call) => api_called(call, out),
        Body::CallCompleted(body) => json(body, out),
        Body::LimitRejected(body) => json(body, out),
        Body::LimitThresholdCrossed(body) => json(body, out),
        Body::UsageReset(body) => json(body, out),
        Body::PlanChanged(body) => json(body, out),
        Body::PeriodClosed(body) => json(body, out),
        Body::GapAccepted(body) => json(body, out),
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

fn api_called(call: &ApiCalled<'_>, out: &mut Vec<u8>) {
    json(call, out);
}

fn string(text: &str, out: &mut Vec<u8>) {
    json(text, out);
}

fn uuid(id: uuid::Uuid, out: &mut Vec<u8>) {
    out.extend_from_slice(id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes());
}

fn json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value)
        .expect("our own types have string keys and finite numbers, and a Vec takes every write");
}
