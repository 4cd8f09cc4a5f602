//! Recording of calls that ask to be admitted, for proxies and services alike.

use uuid::Uuid;

use super::Metering;
use super::call::{Metered, MeteredCall, Particulars};
use super::error::MeteringError;
use super::recent::RecentCall;

impl Metering {
    /// Admits the call and records it under this id, on disk before this returns; it may be completed from then on.
    pub(super) async fn record(
        &self,
        call: &MeteredCall,
        call_id: Uuid,
        particulars: Particulars<'_>,
    ) -> Result<Metered, MeteringError> {
        let parts = &*self.0;
        let metered = call.record(&parts.limits, &parts.sealer, call_id, particulars).await?;
        if let Metered::Recorded(recorded) = &metered {
            let recent = RecentCall {
                user: call.user,
                at: call.at,
                seq: recorded.seq,
                counted: call.classified.counted,
                is_named: call.request.is_some(),
                completion: None,
            };
            parts.recent.put(call_id, recent, parts.writer.now());
        }
        Ok(metered)
    }
}
