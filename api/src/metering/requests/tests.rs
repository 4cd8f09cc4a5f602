//! What is remembered of requests, for how long, and of how many.

use chrono::TimeDelta;
use ledger::Category;

use super::*;

fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

fn start() -> DateTime<Utc> {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

fn hash(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn recorded(at: DateTime<Utc>, seq: u64) -> Recorded {
    let call_id = Uuid::from_u128(seq.into());
    Recorded { call_id, seq, at, category: Category::Other, standing: None, would_block: None }
}

/// Asks as `once` does, and records what is undecided.
fn ask(requests: &Requests, user: UserId, hash: Uuid, now: DateTime<Utc>) -> Arc<Call> {
    let mut call = requests.ask(user, hash, now);
    loop {
        let mut fate = call.fate.try_lock().unwrap();
        match fate.repeat() {
            Repetition::Recorded(_) => break,
            Repetition::Undecided => {
                *fate = Fate::recorded(recorded(now, 1));
                break;
            }
            Repetition::UsedUp => {
                drop(fate);
                call = requests.ask_another(user, hash, &call, now);
            }
        }
    }
    call
}

#[test]
fn ten_repetitions_are_one_call_and_the_eleventh_is_another() {
    let requests = Requests::default();
    let ask = |at: i64| ask(&requests, user(1), hash(1), start() + TimeDelta::seconds(at));
    let first = ask(0);
    assert_eq!(first.used_up, 0);
    for _ in 0..10 {
        assert!(Arc::ptr_eq(&ask(10), &first));
    }
    let second = ask(20);
    assert!(!Arc::ptr_eq(&second, &first));
    assert_eq!(second.used_up, 1);
    // A minute of the second one, not of the first.
    assert!(Arc::ptr_eq(&ask(79), &second));
    let third = ask(80);
    assert!(!Arc::ptr_eq(&third, &second));
    assert_eq!(third.used_up, 0, "another request");
}

#[test]
fn what_has_no_answer_uses_up_no_repetition() {
    let (call_id, at) = (hash(2), start());
    for fate in [Fate::Open, Fate::Refused, Fate::Unknown { call_id, at }] {
        let requests = Requests::default();
        let first = requests.ask(user(1), hash(1), start());
        *first.fate.try_lock().unwrap() = fate;
        for _ in 0..30 {
            let again = requests.ask(user(1), hash(1), start());
            assert!(Arc::ptr_eq(&again, &first));
            assert!(matches!(again.fate.try_lock().unwrap().repeat(), Repetition::Undecided));
        }
        for _ in 0..11 {
            assert!(Arc::ptr_eq(&ask(&requests, user(1), hash(1), start()), &first));
        }
    }
}

/// Those who hear at once that the repetitions are used up are one further call.
#[test]
fn a_call_that_is_used_up_has_one_successor() {
    let requests = Requests::default();
    let first = ask(&requests, user(1), hash(1), start());
    let second = requests.ask_another(user(1), hash(1), &first, start());
    assert!(Arc::ptr_eq(&requests.ask_another(user(1), hash(1), &first, start()), &second));
    assert_eq!(second.used_up, 1);
}

/// Whatever is asked when: calls of the same hash that this process takes for different ones are a minute apart, so
/// that the projector takes them for different ones too.
#[test]
fn two_calls_of_one_hash_are_never_within_a_minute() {
    for step_s in [1, 3, 5, 6, 7, 11, 29, 31, 59, 60, 61] {
        let requests = Requests::default();
        let mut last: HashMap<u32, (Arc<Call>, DateTime<Utc>)> = HashMap::new();
        for number in 0..2_000 {
            let now = start() + TimeDelta::milliseconds(number * step_s * 100);
            let call = ask(&requests, user(1), hash(1), now);
            let at = DateTime::from_timestamp_micros(call.at_us.load(Ordering::Relaxed)).unwrap();
            if let Some((before, before_at)) = last.insert(call.used_up, (Arc::clone(&call), at))
                && !Arc::ptr_eq(&before, &call)
            {
                assert!(!is_same_request(before_at, at), "{step_s}: {before_at} {at}");
            }
        }
    }
}

#[test]
fn a_user_has_thousands_of_requests_in_flight() {
    let requests = Requests::default();
    let now = start();
    let calls: Vec<_> = (0..4_096).map(|n| ask(&requests, user(1), hash(n), now)).collect();
    for (n, call) in (0..).zip(&calls) {
        let later = now + TimeDelta::seconds(59);
        assert!(Arc::ptr_eq(&requests.ask(user(1), hash(n), later), call), "{n}");
    }
    assert_eq!(requests.forgotten_seq(user(1)), 0);
}

/// What makes room within its minute is noted, so that it can be looked up once it is projected.
#[test]
fn what_is_forgotten_too_soon_is_known_by_its_position() {
    let requests = Requests::default();
    for n in 0..5_000_u32 {
        let call = requests.ask(user(1), hash(n.into()), start());
        *call.fate.try_lock().unwrap() = Fate::recorded(recorded(start(), u64::from(n) + 1));
    }
    assert_eq!(requests.forgotten_seq(user(1)), 5_000 - 4_096);
    // What is older than a minute is no loss.
    let later = start() + TimeDelta::seconds(60);
    for n in 0..10_000 {
        ask(
            &requests,
            user(1),
            hash(1 << 64 | n),
            later + TimeDelta::milliseconds(20) * i32::try_from(n).unwrap(),
        );
    }
    assert_eq!(requests.forgotten_seq(user(1)), 5_000 - 4_096);
    let place = requests.place(user(1)).lock();
    assert!(place.order.len() <= 3_001, "{} of a minute", place.order.len());
}

#[test]
fn a_flood_is_bounded_and_forgets_few_of_the_others() {
    let requests = Requests::default();
    let others: Vec<_> = (0..2_000).map(|n| requests.ask(user(n), hash(n), start())).collect();
    for n in 0..100_000 {
        requests.ask(user(1 << 70), hash(1 << 64 | n), start());
    }
    for (n, call) in (0..).zip(&others) {
        assert!(Arc::ptr_eq(&requests.ask(user(n), hash(n), start()), call), "{n}: the flood is one user's");
    }
    for n in 0..300_000 {
        requests.ask(user(n % 1_000), hash(1 << 65 | n), start());
    }
    let mut all = 0;
    for place in &requests.places {
        let place = place.lock();
        assert!(place.order.len() <= REQUESTS_OF_PLACE);
        assert_eq!(place.order.len(), place.by_hash.len());
        assert!(place.of_user.values().all(|own| own.len() <= REQUESTS_OF_USER));
        all += place.order.len();
    }
    assert!(all <= 131_072);
    // Both maps and the list are at most twice as large as what is in them.
    let in_maps = size_of::<(Uuid, Request)>() + size_of::<(u64, UserId, Uuid)>() + size_of::<u64>();
    let bytes = 2 * in_maps + size_of::<Call>() + 2 * size_of::<usize>();
    assert!(bytes <= 400, "{bytes}");
}

/// A request asked about again and again, a call each time, leaves nothing behind.
#[test]
fn what_is_replaced_leaves_nothing_behind() {
    let requests = Requests::default();
    for n in 0..10_000_u32 {
        requests.ask(user(1), hash((n % 3).into()), start() + TimeDelta::minutes(i64::from(n)));
    }
    let place = requests.place(user(1)).lock();
    assert!(place.order.len() <= 3 && place.by_hash.len() <= 3);
    assert!(place.of_user.values().all(|own| own.len() <= 3));
}
