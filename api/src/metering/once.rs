//! A call of a request that a trusted proxy names, recorded once.

use events::{is_same_request, request_hash};
use ledger::ids::event_id_at;
use uuid::Uuid;

use super::Metering;
use super::call::{Metered, MeteredCall, Particulars, Recorded};
use super::error::MeteringError;
use super::original::Original;
use super::requests::Fate;
use crate::limits::{Preview, Refusal};

impl Metering {
    /// Records the call unless its request is one that was recorded before, and answers the same call then. Of those
    /// that ask at the same time one decides, the others wait for it.
    pub(super) async fn record_once(
        &self,
        call: MeteredCall,
        original: &Original<'_>,
        id: &[u8],
        particulars: Particulars<'_>,
    ) -> Result<Metered, MeteringError> {
        let parts = &self.0;
        let hash = |used_up| request_hash(call.user, original.method, &original.uri, id, used_up);
        let first_hash = hash(0);
        let (known, used_up) = parts.requests.ask(call.user, first_hash, call.at);
        let mut fate = known.fate.lock().await;
        match &*fate {
            Fate::Recorded(recorded) => return Ok(Metered::Recorded(recorded.clone())),
            Fate::Refused => {
                if let Some(refusal) = self.would_be_refused(&call).await? {
                    return Ok(Metered::Refused(refusal));
                }
            }
            Fate::Open => {}
        }
        // It may have waited for others.
        let at = parts.writer.now();
        let request = if used_up == 0 { first_hash } else { hash(used_up) };
        let call = MeteredCall { at, request: Some(request), ..call };
        if let Some(recorded) = self.recorded_earlier(&call, request).await? {
            known.set_at(recorded.at);
            *fate = Fate::Recorded(recorded.clone());
            return Ok(Metered::Recorded(recorded));
        }
        known.set_at(at);
        let metered = call.record(&parts.limits, &parts.sealer, event_id_at(at), particulars).await?;
        *fate = match &metered {
            Metered::Recorded(recorded) => Fate::Recorded(recorded.clone()),
            Metered::Refused(_) => Fate::Refused,
        };
        Ok(metered)
    }

    async fn would_be_refused(&self, call: &MeteredCall) -> Result<Option<Refusal>, MeteringError> {
        if !call.classified.counted {
            return Ok(None);
        }
        Ok(match self.0.limits.preview(call.user, call.ask()).await? {
            Preview::Allowed(_) => None,
            Preview::Refused(refusal) => Some(refusal),
        })
    }

    /// The request's call that was recorded before this process started, where that would be refused now: it may have
    /// taken the last unit. Any other is recorded anew, and the projector counts one of them. What was recorded before
    /// is projected, or nothing would be decided yet.
    async fn recorded_earlier(
        &self,
        call: &MeteredCall,
        request: Uuid,
    ) -> Result<Option<Recorded>, MeteringError> {
        if !self.0.requests.may_be_earlier(call.at) {
            return Ok(None);
        }
        let Some(refusal) = self.would_be_refused(call).await? else { return Ok(None) };
        let mut conn = self.0.projections.connection().await?;
        let found = store::read::requests::last_call(&mut conn, request).await?;
        Ok(found.filter(|found| is_same_request(found.created_at, call.at)).map(|found| Recorded {
            call_id: found.call_id,
            seq: found.seq,
            at: found.created_at,
            category: call.classified.category,
            standing: Some(refusal.standing().clone()),
            would_block: None,
        }))
    }
}
