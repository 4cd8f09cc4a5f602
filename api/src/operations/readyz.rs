//! `GET /readyz`: whether calls can be served now.

use axum::extract::State;
use axum::http::StatusCode;

use super::health::{Health, Report};
use crate::http::extract::Json;

/// Whether calls can be served now
#[utoipa::path(
    get, path = "/readyz", tag = "operations", security(()),
    description = "503 when calls would be refused with 503: the log or the database is away, or limits cannot be \
        decided here (yet).\nA projector that is behind or has stopped is told in fields, and so is whether reported \
        calls have to wait.",
    responses(
        (status = 200, description = "Ready", body = Report),
        (status = 503, description = "Log or database away, or limits not decided", body = Report),
    )
)]
pub(super) async fn readyz(State(health): State<Health>) -> (StatusCode, Json<Report>) {
    let report = health.report().await;
    let status = if report.status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report))
}
