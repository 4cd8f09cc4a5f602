//! Calls, written into the log as the api writes them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use data_keys::{KeyConfig, Keys};
use events::{ApiCalled, Body, Event, Personal, SealedJson};
use ledger::{Category, Clock, IdSource, UserId};
use nats::{EncodedEvent, Log, Publisher, PublisherConfig};
use store::identity::users::NewUser;
use uuid::Uuid;
use vault::{DataKey, OsEntropy};

use crate::process::Machine;

/// Events of a frame.
pub(crate) const EVENTS_PER_FRAME: usize = 1_000;
/// Frames that are on their way at a time.
const FRAMES_IN_FLIGHT: usize = 8;
/// The client's address, and as text.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
pub(crate) const ADDRESS_TEXT: &str = "203.0.113.7";
/// The client's user agent: 60 bytes.
pub(crate) const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko Firefox/140.";

/// Users' data keys, by user.
pub(crate) type DataKeys = HashMap<UserId, Arc<DataKey>>;

/// The `n`th user of the benchmark.
pub(crate) fn user(n: usize) -> UserId {
    UserId::new(Uuid::from_u128(0xbe9c << 64 | n as u128))
}

/// The log of this machine, with its stream.
pub(crate) async fn log_of(machine: &Machine) -> anyhow::Result<Log> {
    let stream = machine.environment.get("NATS_STREAM").map_or("LEDGER", String::as_str).parse()?;
    let log = nats::connect(&nats::Connection::new(machine.variable("NATS_URL")?, stream)).await?;
    log.ensure_stream(1).await?;
    Ok(log)
}

/// Accounts of the first `users` users, with a data key each.
pub(crate) async fn data_keys(machine: &Machine, users: usize) -> anyhow::Result<DataKeys> {
    let (url, clock) = (machine.variable("DATABASE_URL")?, Clock::system());
    let users: Vec<UserId> = (0..users).map(user).collect();
    let accounts = users.iter().map(|user| NewUser::unnamed(user.get())).collect();
    let mut conn = store::connect(url, store::Schema::Live).await?;
    store::identity::users::provision(&mut conn, accounts, clock.now()).await?;
    let config = KeyConfig::read(&|name| machine.environment.get(name).cloned());
    let keys = Keys::start(url, &config, &clock).await?.get_or_make_many(&mut conn, &users).await?;
    keys.into_iter().map(|(user, key)| Ok((user, key?))).collect()
}

/// Writes `calls` admitted calls: the `n`th is of the user and the time that `who` says. With `keys` each has a sealed
/// address and user agent.
pub(crate) async fn write(
    log: &Log,
    calls: usize,
    keys: Option<&DataKeys>,
    mut who: impl FnMut(usize) -> (UserId, DateTime<Utc>),
) -> anyhow::Result<()> {
    let clock = Clock::system();
    let (ids, producers) = (IdSource::new(clock.clone()), IdSource::new(clock));
    let publisher = Publisher::start(log, PublisherConfig::default(), move || producers.random_id()).await?;
    let mut in_flight = std::collections::VecDeque::new();
    for first in (0..calls).step_by(EVENTS_PER_FRAME) {
        let frame: Vec<EncodedEvent> = (first..(first + EVENTS_PER_FRAME).min(calls))
            .map(|n| {
                let (user, time) = who(n);
                let id = ids.event_id();
                let sealed = match keys {
                    Some(keys) => Some(seal(&keys[&user], &id.to_string())?),
                    None => None,
                };
                Ok(EncodedEvent::of(&Event::by_api(id, user, time, called(n, sealed))))
            })
            .collect::<anyhow::Result<_>>()?;
        if in_flight.len() == FRAMES_IN_FLIGHT
            && let Some(oldest) = in_flight.pop_front()
        {
            acknowledged(oldest).await?;
        }
        let publisher = publisher.clone();
        in_flight.push_back(tokio::spawn(async move { publisher.publish_all(frame).await.map(drop) }));
    }
    for frame in in_flight {
        acknowledged(frame).await?;
    }
    publisher.close().await;
    Ok(())
}

async fn acknowledged(frame: tokio::task::JoinHandle<Result<(), nats::PublishError>>) -> anyhow::Result<()> {
    Ok(frame.await??)
}

fn seal(key: &DataKey, event_id: &str) -> anyhow::Result<SealedJson<'static>> {
    let personal = Personal::of_client(Some(ADDRESS), Some(AGENT.into()));
    let sealed = key.seal_personal(event_id, &personal.to_json(), &OsEntropy)?;
    Ok(SealedJson::new(sealed.to_compact_json())?)
}

fn called(n: usize, personal: Option<SealedJson<'static>>) -> Body<'static> {
    Body::ApiCalled(ApiCalled {
        // 16 bytes.
        endpoint: format!("/api/items/{:05}", n % 500).into(),
        method: Some("GET".into()),
        status_code: Some(200),
        response_time_ms: Some(u32::try_from(n % 90).unwrap_or_default()),
        personal,
        request_size: None,
        response_size: Some(512),
        units: 1,
        category: Category::Other,
        counted: true,
        key_id: None,
        reservation_id: None,
        lease: None,
        actor: None,
        request: None,
    })
}
