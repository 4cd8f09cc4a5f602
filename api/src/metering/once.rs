//! A call of a request that a trusted proxy names, recorded once.

use std::sync::Arc;
use std::time::Duration;

use events::{Personal, is_same_request, request_hash};
use ledger::ids::event_id_at;
use uuid::Uuid;

use super::Metering;
use super::call::{Metered, MeteredCall, Particulars, Recorded};
use super::error::MeteringError;
use super::original::Original;
use super::requests::{Call, Fate, Repetition};
use crate::config::Enforcement;
use crate::limits::{Preview, Refusal};

/// Longest time that a call which would be refused waits for the projection of what may be the same call.
const PROJECTION_WAIT: Duration = Duration::from_secs(5);

impl Metering {
    /// Records the call unless its request is one that was recorded before, and answers the same call then. Of those
    /// that ask at the same time one decides, the others wait for it.
    ///
    /// Whoever decides does it to the end, though the proxy hangs up or the request's time is over: what becomes of the
    /// call is known then to the next one that asks.
    pub(super) async fn record_once(
        &self,
        call: MeteredCall,
        original: &Original<'_>,
        id: &[u8],
        personal: Personal<'_>,
    ) -> Result<Metered, MeteringError> {
        let parts = &self.0;
        let hash = |used_up| request_hash(call.user, original.method, &original.uri, id, used_up);
        let first_hash = hash(0);
        let mut known = parts.requests.ask(call.user, first_hash, call.at);
        // Ends, for whoever goes round again has heard that others recorded a call meanwhile.
        loop {
            let repetition = known.fate.lock().await.repeat();
            match repetition {
                Repetition::Recorded(recorded) => return Ok(Metered::Recorded(recorded)),
                Repetition::Undecided => {
                    let request = if known.used_up == 0 { first_hash } else { hash(known.used_up) };
                    let call = MeteredCall { request: Some(request), ..call.clone() };
                    let work =
                        self.clone().decide_once(Arc::clone(&known), call, personal.clone().into_owned());
                    // The task ends early only by a panic, which the panic hook has reported.
                    let decided = parts.tasks.spawn(work).await.map_err(|_| MeteringError::Panicked)?;
                    if let Some(metered) = decided? {
                        return Ok(metered);
                    }
                }
                Repetition::UsedUp => {
                    known = parts.requests.ask_another(call.user, first_hash, &known, parts.writer.now());
                }
            }
        }
    }

    /// Decides about the call that a request is, and remembers its fate; none when its repetitions are used up.
    async fn decide_once(
        self,
        known: Arc<Call>,
        call: MeteredCall,
        personal: Personal<'static>,
    ) -> Result<Option<Metered>, MeteringError> {
        let mut fate = known.fate.lock().await;
        // Others may have decided meanwhile.
        match fate.repeat() {
            Repetition::Recorded(recorded) => return Ok(Some(Metered::Recorded(recorded))),
            Repetition::UsedUp => return Ok(None),
            Repetition::Undecided => {}
        }
        let now = self.0.writer.now();
        let (call_id, at) = match *fate {
            // Id and instant are the first try's: should its frame still be on the way, both give the same row.
            Fate::Unknown { call_id, at } => (call_id, at),
            _ => (event_id_at(now), now),
        };
        let call = MeteredCall { at, ..call };
        let decided = self.decide(&known, &fate, &call, call_id, personal).await;
        match &decided {
            Ok(Metered::Recorded(recorded)) => {
                known.set_at(recorded.at);
                *fate = Fate::recorded(recorded.clone());
            }
            Ok(Metered::Refused(_)) => *fate = Fate::Refused,
            Err(MeteringError::Publish(error)) if error.may_be_recorded() => {
                *fate = Fate::Unknown { call_id, at };
            }
            Err(_) => {}
        }
        decided.map(Some)
    }

    async fn decide(
        &self,
        known: &Call,
        fate: &Fate,
        call: &MeteredCall,
        call_id: Uuid,
        personal: Personal<'static>,
    ) -> Result<Metered, MeteringError> {
        let refused = self.would_be_refused(call).await?;
        let is_refused = refused.is_some();
        if let Some(refusal) = refused {
            if matches!(fate, Fate::Refused) {
                return Ok(Metered::Refused(refusal));
            }
            if let Some(recorded) = self.recorded_earlier(call, fate, &refusal).await? {
                return Ok(Metered::Recorded(recorded));
            }
        }
        known.set_at(call.at);
        let particulars = Particulars { personal, actor: None };
        let metered = self.record(call, call_id, particulars).await?;
        match metered {
            // Others took the last units in between.
            Metered::Refused(refusal) if !is_refused => {
                Ok(match self.recorded_earlier(call, fate, &refusal).await? {
                    Some(recorded) => Metered::Recorded(recorded),
                    None => Metered::Refused(refusal),
                })
            }
            metered => Ok(metered),
        }
    }

    /// The refusal of the call if it were decided now. With `LIMIT_FAILURE_MODE=open` it is none where nothing can be
    /// decided.
    async fn would_be_refused(&self, call: &MeteredCall) -> Result<Option<Refusal>, MeteringError> {
        if !call.classified.counted {
            return Ok(None);
        }
        match self.0.limits.preview(call.user, call.ask()).await {
            Ok(Preview::Allowed(_) | Preview::Unknown) => Ok(None),
            Ok(Preview::Refused(refusal)) => Ok(Some(refusal)),
            Err(_) if self.0.limits.is_open() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The request's call that another process has recorded, or this one has forgotten, where it would be refused now:
    /// it may have taken the last unit. Any other is recorded anew, and the projector counts one of them. With
    /// `LIMIT_FAILURE_MODE=open` there is none where it cannot be looked up.
    async fn recorded_earlier(
        &self,
        call: &MeteredCall,
        fate: &Fate,
        refusal: &Refusal,
    ) -> Result<Option<Recorded>, MeteringError> {
        match self.look_up_request(call, fate, refusal).await {
            Err(_) if self.0.limits.is_open() => Ok(None),
            found => found,
        }
    }

    async fn look_up_request(
        &self,
        call: &MeteredCall,
        fate: &Fate,
        refusal: &Refusal,
    ) -> Result<Option<Recorded>, MeteringError> {
        let Some(request) = call.request else { return Ok(None) };
        let is_unknown = matches!(fate, Fate::Unknown { .. });
        let projections = &self.0.projections;
        // What others have recorded is projected, or nothing would be decided here yet.
        let seq =
            if is_unknown { projections.last_seq().await? } else { self.0.requests.forgotten_seq(call.user) };
        if !projections.wait_for(seq, PROJECTION_WAIT).await {
            return Err(MeteringError::NotProjected);
        }
        let mut conn = projections.connection().await?;
        let found = store::read::requests::last_call(&mut conn, request).await?;
        match found.filter(|found| is_same_request(found.created_at, call.at)) {
            Some(found) => Ok(Some(Recorded {
                call_id: found.call_id,
                seq: found.seq,
                at: found.created_at,
                category: call.classified.category,
                standing: Some(refusal.standing().clone()),
                would_block: self.was_forced(refusal).then(|| refusal.policy()),
            })),
            // Its units may be those that are missing, and it would count all the same.
            None if is_unknown => Err(MeteringError::FirstTryUnknown),
            None => Ok(None),
        }
    }

    /// Tells whether the user has passed the limit that refuses, as shadow mode lets them.
    fn was_forced(&self, refusal: &Refusal) -> bool {
        let (limit, used) = refusal.standing().of(refusal.policy());
        self.0.enforcement == Enforcement::Shadow && limit.is_some_and(|limit| used > limit)
    }
}
