//! History from hours and rows is history from rows, whatever came when and was compacted when.

use std::cell::RefCell;

use anyhow::Result;
use chrono::TimeDelta;
use events::{Body, Event};
use ledger::Category;
use ledger_worker::Applier;
use ledger_worker::batch::{Item, KnownDataKeys, Parsed, apply_late};
use ledger_worker::compaction::{claim, compact};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::Connection;
use store::Schema;
use store::projection::checkpoint::{self, Checkpoint};
use store::projection::hours::ClaimedDay;
use store::read::filter::{Counted, TimeRange};
use store::read::history::{Granularity, Grouping, HistoryFilter, buckets};
use uuid::Uuid;

use super::{Book, at, by_rows, completed, day, frame, open_call, sorted, user, wrong_hours};
use crate::support::call;

#[derive(Debug, Clone)]
enum Op {
    /// Calls of a user: minutes after the day's start, units, category, counted.
    Calls(Vec<(u8, i64, u32, u8, bool)>),
    /// The end of a call that is open, if this many are.
    Complete(usize, bool),
    /// A dead letter of a user is applied late, so many minutes after the day's start.
    Late(u8, i64),
    /// A user's day is one of many calls.
    Note(u8, i64),
    /// Days are claimed, of which some are still being read when other things happen.
    Claim,
    /// The last of them is put. Earlier ones may have been claimed anew.
    Put,
}

#[derive(Debug, Clone)]
struct Question {
    user: u8,
    from: i64,
    length: i64,
    granularity: u8,
    is_grouped: bool,
    counted: u8,
}

/// Two days and the ends of their neighbours; many at full hours.
fn minute() -> impl Strategy<Value = i64> {
    prop_oneof![(-120_i64..3_000), (-2_i64..50).prop_map(|hour| hour * 60)]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let call = (0_u8..2, minute(), 1_u32..5, 0_u8..3, prop::bool::weighted(0.8));
    let op = prop_oneof![
        6 => prop::collection::vec(call, 1..6).prop_map(Op::Calls),
        3 => (0_usize..8, any::<bool>()).prop_map(|(of, fails)| Op::Complete(of, fails)),
        2 => (0_u8..2, minute()).prop_map(|(user, at)| Op::Late(user, at)),
        6 => (0_u8..2, -1_i64..3).prop_map(|(user, day)| Op::Note(user, day)),
        4 => Just(Op::Claim),
        8 => Just(Op::Put),
    ];
    prop::collection::vec(op, 5..40)
}

fn questions() -> impl Strategy<Value = Vec<Question>> {
    let question = (0_u8..2, minute(), minute(), 0_u8..3, any::<bool>(), 0_u8..3).prop_map(
        |(user, from, to, granularity, is_grouped, counted)| Question {
            user,
            from: from.min(to),
            length: (to - from).abs() + 1,
            granularity,
            is_grouped,
            counted,
        },
    );
    prop::collection::vec(question, 3)
}

impl Question {
    fn filter(&self) -> HistoryFilter {
        let from = at(0, self.from);
        HistoryFilter {
            range: TimeRange { from, to: from + TimeDelta::minutes(self.length) },
            granularity: [Granularity::Hour, Granularity::Day, Granularity::Month]
                [usize::from(self.granularity)],
            grouping: if self.is_grouped { Grouping::Category } else { Grouping::None },
            counted: [Counted::Counted, Counted::Uncounted, Counted::All][usize::from(self.counted)],
            key: None,
        }
    }
}

/// The state of a case: calls that are open, and days that are claimed.
#[derive(Default)]
struct Case {
    ids: u128,
    open: Vec<Event<'static>>,
    claimed: Vec<ClaimedDay>,
    put: usize,
}

impl Case {
    async fn apply(&mut self, book: &mut Book, op: &Op) -> Result<()> {
        match op {
            Op::Calls(calls) => {
                let events: Vec<_> = calls.iter().map(|call| self.call(*call)).collect();
                book.apply(&events).await?;
                self.open.extend(events);
            }
            Op::Complete(of, fails) => {
                self.ids += 1;
                if let Some(call) = self.open.get(*of) {
                    book.apply(&[completed(self.ids, call, if *fails { 502 } else { 200 })]).await?;
                }
            }
            Op::Late(user, minute) => {
                let event = self.call((*user, *minute, 1, 1, true));
                let frame = frame(book.seq, at(60, 0), &[event]);
                let parsed = Parsed::one(&frame, 0, &KnownDataKeys::default());
                for month in parsed.items().iter().filter_map(Item::month) {
                    store::projection::partitions::ensure(&mut book.conn, month).await?;
                }
                let mut tx = book.conn.begin().await?;
                checkpoint::lock(&mut tx, 0).await?;
                apply_late(&mut tx, &parsed).await?;
                tx.commit().await?;
            }
            Op::Note(of, day_after) => {
                book.note(user(u128::from(*of)), day() + TimeDelta::days(*day_after)).await?;
            }
            Op::Claim => {
                book.make_due().await?;
                self.claimed.extend(claim(&mut book.compactor).await?.days);
            }
            Op::Put => {
                if let Some(day) = self.claimed.pop() {
                    self.put += usize::from(compact(&mut book.compactor, &day).await?);
                }
            }
        }
        Ok(())
    }

    fn call(&mut self, (of, minute, units, category, counted): (u8, i64, u32, u8, bool)) -> Event<'static> {
        self.ids += 1;
        let mut called = call(Category::ALL[usize::from(category)]);
        (called.units, called.counted, called.status_code) = (units, counted, None);
        called.response_time_ms = (units > 2).then_some(units);
        Event::by_api(Uuid::from_u128(self.ids), user(u128::from(of)), at(0, minute), Body::ApiCalled(called))
    }
}

#[test]
fn history_does_not_tell_hours_from_rows() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let book = RefCell::new(runtime.block_on(Book::start()).expect("a projection"));
    let put = RefCell::new(0);
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(ops(), questions()), |(ops, questions)| {
            let book = &mut *book.borrow_mut();
            let mut case = Case::default();
            runtime.block_on(async {
                book.execute(
                    "TRUNCATE api_usage, usage_hourly, compacted_days, hour_compaction, monthly_usage_summary;
                     UPDATE projection_checkpoint SET seq = 0, events = 0, frame_time = NULL",
                )
                .await
                .unwrap();
                (book.applier, book.seq) = (Applier::new(Schema::Live, 0, Checkpoint::default()), 0);
                // By the log's time the second day's first twelve hours are past.
                book.apply_at(at(37, 15), &[open_call(u128::MAX, user(9), at(0, 0))]).await.unwrap();
                for op in &ops {
                    case.apply(book, op).await.unwrap();
                    for question in &questions {
                        let (user, filter) = (user(u128::from(question.user)), question.filter());
                        let found = buckets(&mut book.compactor, user, &filter, &[]).await.unwrap();
                        let expected = by_rows(&mut book.compactor, user, &filter).await.unwrap();
                        prop_assert_eq!(sorted(found), expected, "{:?} after {:?}", question, op);
                    }
                }
                let hours = wrong_hours(&mut book.compactor, None).await.unwrap();
                prop_assert_eq!(hours, None);
                Ok(())
            })?;
            *put.borrow_mut() += case.put;
            Ok(())
        })
        .unwrap();
    let put = put.into_inner();
    assert!(put > 16, "{put} days were compacted in all cases");
    runtime.block_on(async move { drop(book) });
}
