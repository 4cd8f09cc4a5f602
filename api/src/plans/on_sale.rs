//! Plans on sale, as they were read last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::read::plans::SoldPlan;
use tokio::sync::Mutex;

use crate::facts::Projections;
use crate::http::problem::Problem;

/// Time for which the plans hold once they are read.
const HOLDS: Duration = Duration::from_secs(1);

type Read = Result<Arc<[SoldPlan]>, Problem>;

/// The plans on sale, or why they are not known, and when that was read. Anybody may ask for them without a credential,
/// so they are read by one request at a time, for which the others wait, and not again for a second.
#[derive(Default)]
pub(crate) struct OnSale(Mutex<Option<(Instant, Read)>>);

impl OnSale {
    pub(super) async fn get(&self, projections: &Projections) -> Read {
        let mut last = self.0.lock().await;
        if let Some((at, read)) = &*last
            && at.elapsed() < HOLDS
        {
            return read.clone();
        }
        let read = sold(projections).await.map_err(Problem::from);
        *last = Some((Instant::now(), read.clone()));
        read
    }
}

async fn sold(projections: &Projections) -> Result<Arc<[SoldPlan]>, store::Error> {
    let mut conn = projections.connection().await?;
    Ok(store::read::plans::sold(&mut conn).await?.into())
}
