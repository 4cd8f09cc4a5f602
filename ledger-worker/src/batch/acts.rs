//! Acts for the security log: every event of an audit chain but the uses of tokens (`audited`), each change of a plan,
//! each reset.

use events::{Actor, Event, PlanChanged, UsageReset, event_type};
use ledger::UserId;
use store::Position;
use store::projection::audit_chain::security_log::Act;

/// The change of a user's plan; the method is the plan's name.
pub(super) fn of_plan(user: UserId, position: Position, event: &Event<'_>, changed: &PlanChanged<'_>) -> Act {
    let act = of_ledger(user, position, event, event_type::PLAN_CHANGED, &changed.actor);
    Act { method: Some(changed.plan_name.as_str().to_owned()), ..act }
}

/// The reset of a user's month, which is the method.
pub(super) fn of_reset(user: UserId, position: Position, event: &Event<'_>, reset: &UsageReset<'_>) -> Act {
    let act = of_ledger(user, position, event, event_type::USAGE_RESET, &reset.actor);
    Act { method: Some(reset.month.to_string()), ..act }
}

fn of_ledger(
    user: UserId,
    position: Position,
    event: &Event<'_>,
    event_type: &'static str,
    actor: &Actor<'_>,
) -> Act {
    Act {
        user,
        position,
        at: event.time,
        action: name(event_type),
        method: None,
        object_id: None,
        actor_kind: actor.kind.as_str(),
        actor_id: actor.id.clone().into_owned(),
        ip_address: None,
        user_agent: None,
    }
}

/// A type without its prefix and version.
pub(super) fn name(event_type: &'static str) -> &'static str {
    event_type.split('.').nth(1).unwrap_or(event_type)
}
