//! Tests of the limit decision.

use proptest::prelude::*;

use super::*;

const FREE: Limits = Limits { total: Some(50), analyze: Some(10) };

fn used(total: u64, analyze: u64) -> Used {
    Used { total, analyze }
}

fn units(units: u64) -> Units {
    Units::new(units).unwrap()
}

#[test]
fn analyze_at_its_limit_blocks_analyze_alone() {
    let refused = |meter| Decision::Refused { meter };
    assert_eq!(
        decide(FREE, used(9, 9), Units::ONE, Category::Analyze),
        Decision::Allowed { used_after: used(10, 10) }
    );
    assert_eq!(decide(FREE, used(10, 10), Units::ONE, Category::Analyze), refused(Meter::Analyze));
    for category in [Category::Auth, Category::Other] {
        assert_eq!(
            decide(FREE, used(49, 10), Units::ONE, category),
            Decision::Allowed { used_after: used(50, 10) }
        );
        assert_eq!(decide(FREE, used(50, 10), Units::ONE, category), refused(Meter::Total));
    }
    assert_eq!(decide(FREE, used(50, 10), Units::ONE, Category::Analyze), refused(Meter::Total));
    let both: Vec<Meter> = violated(FREE, used(50, 10), Units::ONE, Category::Analyze).collect();
    assert_eq!(both, Meter::ALL);
}

#[test]
fn units_are_granted_all_or_none() {
    assert_eq!(
        decide(FREE, used(0, 0), units(11), Category::Analyze),
        Decision::Refused { meter: Meter::Analyze }
    );
    assert_eq!(
        decide(FREE, used(45, 0), units(5), Category::Other),
        Decision::Allowed { used_after: used(50, 0) }
    );
    assert_eq!(
        decide(FREE, used(45, 0), units(6), Category::Other),
        Decision::Refused { meter: Meter::Total }
    );
}

#[test]
fn a_limit_of_zero_grants_nothing_and_none_grants_all() {
    let nothing = Limits { total: None, analyze: Some(0) };
    assert_eq!(
        decide(nothing, used(0, 0), Units::ONE, Category::Analyze),
        Decision::Refused { meter: Meter::Analyze }
    );
    let far = used(u64::MAX, u64::MAX);
    assert_eq!(
        decide(Limits::UNLIMITED, far, Units::MAX, Category::Analyze),
        Decision::Allowed { used_after: far }
    );
    let highest = Limits { total: Some(u64::MAX), analyze: None };
    assert_eq!(decide(highest, far, Units::ONE, Category::Other), Decision::Refused { meter: Meter::Total });
}

#[test]
fn status_changes_at_80_and_100_percent() {
    let statuses: Vec<Status> = [39, 40, 49, 50, 51].into_iter().map(|used| status(used, Some(50))).collect();
    assert_eq!(statuses, [Status::Ok, Status::Warning, Status::Warning, Status::Blocked, Status::Blocked]);
    assert_eq!(status(0, Some(0)), Status::Blocked);
    assert_eq!(status(0, Some(1)), Status::Ok);
    assert_eq!(status(u64::MAX, None), Status::Ok);
    assert_eq!(status(u64::MAX - 1, Some(u64::MAX)), Status::Warning);
    // 80 % of 7 is 5.6: five are below, six are past it.
    assert_eq!((status(5, Some(7)), status(6, Some(7))), (Status::Ok, Status::Warning));
    assert_eq!(worst_status(FREE, used(12, 8)), Status::Warning);
    assert_eq!(worst_status(FREE, used(50, 0)), Status::Blocked);
}

#[test]
fn percentages_are_rounded_down_and_not_capped() {
    let shown = |used, limit| percentage(used, limit).map(|share| share.to_string());
    assert_eq!(shown(12, Some(50)).as_deref(), Some("24.0"));
    assert_eq!(shown(2, Some(3)).as_deref(), Some("66.6"));
    assert_eq!(shown(999_999, Some(1_000_000)).as_deref(), Some("99.9"));
    assert_eq!(shown(75, Some(50)).as_deref(), Some("150.0"));
    assert_eq!(shown(1, Some(0)), None);
    assert_eq!(shown(1, None), None);
    assert_eq!(percentage(u64::MAX, Some(1)), Some(Percentage::from_tenths(u64::MAX)));
}

#[test]
fn the_tightest_meter_is_one_that_the_call_uses() {
    assert_eq!(tightest(FREE, used(0, 0), Category::Analyze), Meter::Analyze);
    assert_eq!(tightest(FREE, used(45, 0), Category::Analyze), Meter::Total);
    assert_eq!(tightest(FREE, used(40, 0), Category::Analyze), Meter::Total);
    assert_eq!(tightest(FREE, used(0, 10), Category::Other), Meter::Total);
    assert_eq!(tightest(Limits::UNLIMITED, used(0, 0), Category::Analyze), Meter::Total);
    let analyze_only = Limits { total: None, analyze: Some(u64::MAX) };
    assert_eq!(tightest(analyze_only, used(0, 0), Category::Analyze), Meter::Total);
    assert_eq!(tightest(analyze_only, used(1, 1), Category::Analyze), Meter::Analyze);
}

fn limit() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 4 => (0..60_u64).prop_map(Some), 1 => any::<u64>().prop_map(Some)]
}

fn category() -> impl Strategy<Value = Category> {
    prop::sample::select(Category::ALL.to_vec())
}

proptest! {
    #[test]
    fn no_sequence_of_calls_passes_a_limit(
        total in limit(),
        analyze in limit(),
        calls in prop::collection::vec((category(), 1..30_u64), 0..60),
    ) {
        let limits = Limits { total, analyze };
        let mut used = Used::default();
        for (category, count) in calls {
            match decide(limits, used, units(count), category) {
                Decision::Allowed { used_after } => {
                    prop_assert_eq!(used_after, used.plus(category, count));
                    used = used_after;
                }
                Decision::Refused { meter } => {
                    prop_assert!(category.meters().contains(&meter));
                    prop_assert!(used.of(meter) + count > limits.of(meter).expect("only a limit refuses"));
                }
            }
            for meter in Meter::ALL {
                prop_assert!(limits.of(meter).is_none_or(|limit| used.of(meter) <= limit));
            }
        }
    }

    #[test]
    fn nothing_is_granted_at_or_above_a_limit(
        limit in any::<u64>(),
        above in any::<u64>(),
        count in 1..=1_000_000_u64,
        category in category(),
    ) {
        let used = Used { total: limit.saturating_add(above), analyze: 0 };
        let limits = Limits { total: Some(limit), analyze: None };
        prop_assert_eq!(decide(limits, used, units(count), category), Decision::Refused { meter: Meter::Total });
        prop_assert_eq!(status(used.total, Some(limit)), Status::Blocked);
        prop_assert_eq!(remaining(used.total, Some(limit)), Some(0));
    }

    #[test]
    fn status_percentage_and_remaining_agree(used in any::<u64>(), limit in 1..=u64::MAX) {
        let tenths = percentage(used, Some(limit)).expect("limited").tenths();
        let status = status(used, Some(limit));
        prop_assert_eq!(status == Status::Blocked, tenths >= 1_000);
        prop_assert_eq!(status >= Status::Warning, tenths >= 800);
        prop_assert_eq!(remaining(used, Some(limit)) == Some(0), status == Status::Blocked);
        prop_assert_eq!(reached(used, limit, 80), status >= Status::Warning);
        prop_assert_eq!(reached(used, limit, 100), status == Status::Blocked);
    }
}
