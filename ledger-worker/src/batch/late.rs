//! Events that come after an end: units after their month's closing, which are in its summary and no part of its
//! statement, and calls of users who were erased.

use std::collections::BTreeSet;

use ledger::{Month, UserId};
use sqlx::PgConnection;
use store::Position;
use store::projection::erased_users;
use store::projection::periods::{self, LateUnits};
use store::projection::summaries::Added;

use super::item::{Call, Item};

/// Blanks the calls among the items whose users were erased before: a key that was not forgotten yet may have opened
/// what they hold.
pub(super) async fn blank_calls_of_erased(
    conn: &mut PgConnection,
    items: &[Item],
) -> Result<(), store::Error> {
    let opened = items.iter().filter_map(|item| match item {
        Item::Call(call) if call.opened => Some(call),
        _ => None,
    });
    let opened: Vec<_> = opened.collect();
    if opened.is_empty() {
        return Ok(());
    }
    let users: BTreeSet<UserId> = opened.iter().map(|call| call.user).collect();
    let users: Vec<UserId> = users.into_iter().collect();
    let erased = erased_users::open_among(conn, &users).await?;
    let calls = opened.into_iter().filter(|call| erased.contains(&call.user));
    let calls: Vec<_> = calls.map(Call::row_key).collect();
    if calls.is_empty() { Ok(()) } else { erased_users::blank_calls(conn, &calls).await }
}

/// Notes what was added to closed months; the other months are left out. Out of the log's order `late_for` is the place
/// in the log of what was applied, and what follows from the log is told from what follows from the delay.
pub(super) async fn note(
    conn: &mut PgConnection,
    mut added: Vec<Added>,
    late_for: Option<Position>,
) -> Result<(), store::Error> {
    added.retain(|(_, units)| *units != [0; 3]);
    let mut months: Vec<Month> = added.iter().map(|((_, month), _)| *month).collect();
    months.sort_unstable();
    months.dedup();
    if months.is_empty() {
        return Ok(());
    }
    let closed = periods::closings(conn, &months).await?;
    if closed.is_empty() {
        return Ok(());
    }
    let now = periods::last_number(conn).await?;
    let place = match late_for {
        Some(position) => Some((position, periods::number_before(conn, position).await?)),
        None => None,
    };
    let mut late = Vec::new();
    for ((user, month), units) in added {
        let Some(closing) = closed.iter().find(|closing| closing.month == month) else { continue };
        let of = |closings, units, retried| LateUnits { user, of_month: month, closings, units, retried };
        match place {
            None => late.push(of(now, units, [0; 3])),
            // At its place the log had closed the month already: a recount expects it there.
            Some((position, before)) if closing.position < position => {
                if before == now {
                    late.push(of(now, units, [0; 3]));
                } else {
                    late.push(of(before, [0; 3], units.map(|units| -units)));
                    late.push(of(now, units, units));
                }
            }
            Some(_) => late.push(of(now, units, units)),
        }
    }
    if late.is_empty() { Ok(()) } else { periods::add_late(conn, &late).await }
}
