//! `GET /healthz`: the process is there. Whether it can serve is `/readyz`'s business.

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::extract::Json;

/// The process answers.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
pub(super) struct Alive {
    /// Always `ok`.
    status: &'static str,
}

/// Whether the process is there
#[utoipa::path(get, path = "/healthz", tag = "operations", security(()), responses((status = 200, body = Alive)))]
pub(super) async fn healthz() -> Json<Alive> {
    Json(Alive { status: "ok" })
}
