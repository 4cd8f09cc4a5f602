//! Whether people who sign in slow the decisions about calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use credentials::password::{self, Parameters, Password};
use sqlx::{Connection as _, PgConnection};

use crate::load::{self, Connection};
use crate::process::{Machine, free_address};
use crate::report::{Report, Target};
use crate::tracked::{Users, start_api};

/// People who sign in at once, again and again.
const PEOPLE: u32 = 50;
const PASSWORD: &str = "correct horse battery staple 7";
/// Connections by which calls are asked about.
const CONNECTIONS: usize = 64;
const LASTS: Duration = Duration::from_secs(5);

/// Asks about calls while nobody signs in, and while fifty do.
pub(crate) async fn measure(machine: &Machine, users: &Users, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("sign-ins: {PEOPLE} people beside {CONNECTIONS} connections of calls");
    register(machine).await?;
    let address = free_address()?;
    let api = start_api(machine, &address).await?;
    let calls = users.spread("/api/forward-auth");
    // Users are read at their first call.
    load::run(&address, &calls, CONNECTIONS, LASTS, 204).await?;
    let idle = load::run(&address, &calls, CONNECTIONS, LASTS, 204).await?;
    let (is_over, signed_in) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let people: Vec<_> = (0..PEOPLE)
        .map(|number| {
            let (address, is_over, signed_in) =
                (address.clone(), Arc::clone(&is_over), Arc::clone(&signed_in));
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let request = login(number);
                while !is_over.load(Ordering::Relaxed) {
                    let status = connection.exchange(request.as_bytes()).await?;
                    ensure!(status == 200, "answer {status}: {}", connection.text());
                    signed_in.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let busy = load::run(&address, &calls, CONNECTIONS, LASTS, 204).await?;
    is_over.store(true, Ordering::Relaxed);
    for person in people {
        person.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of sign-ins")]
    let rate = signed_in.load(Ordering::Relaxed) as f64 / LASTS.as_secs_f64();
    report.add("sign_ins_per_s", rate);
    report.add("idle_p99_ms", idle.quantile_ms(0.99));
    report.add("sign_ins_p99_ms", busy.quantile_ms(0.99));
    let ratio = busy.quantile_ms(0.99) / idle.quantile_ms(0.99);
    report.hold("sign_ins_p99_vs_idle", ratio, Target::AtMost(2.0));
    report.add("sign_ins_rate_vs_idle", busy.rate() / idle.rate());
    api.stop().await
}

fn login(number: u32) -> String {
    let body = format!("{{\"email\": \"person{number}@example.com\", \"password\": \"{PASSWORD}\"}}");
    format!(
        "POST /api/auth/login HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Makes their accounts, with a hash of the usual cost.
async fn register(machine: &Machine) -> anyhow::Result<()> {
    let password = Password::new(PASSWORD)?;
    let hash = password::hash(&password, &[7; password::SALT_BYTES], &Parameters::default())?;
    let mut database = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    for number in 0..PEOPLE {
        sqlx::query(
            "WITH account AS (
                 INSERT INTO public.users (user_id, created_at, updated_at)
                 VALUES (gen_random_uuid(), now(), now()) RETURNING user_id),
             identity AS (
                 INSERT INTO public.identities (kind, subject, user_id, label, created_at)
                 SELECT 'email', $1, user_id, $1, now() FROM account)
             INSERT INTO public.passwords (user_id, hash, changed_at) SELECT user_id, $2, now() FROM account",
        )
        .bind(format!("person{number}@example.com"))
        .bind(&hash)
        .execute(&mut database)
        .await
        .context("making an account")?;
    }
    Ok(())
}
