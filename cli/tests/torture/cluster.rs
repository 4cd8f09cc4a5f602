//! An api and a worker as processes apart, on servers of their own; each of the four can be killed and started again.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result};
use ledger::{Clock, IdSource};
use nix::sys::signal::Signal;
use sqlx::PgPool;
use testkit::{Client, Database, PrivateServers, Role, Token, wait_until};

use crate::program::{DataDir, Output, Program, output};

/// Time that anything may take to come back.
pub(crate) const BOUND: Duration = Duration::from_mins(1);

const LOG_LINES: usize = 60;
const STREAM: &str = "TORTURE";

/// Process that can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Api,
    Worker,
    Nats,
    Postgres,
}

impl Victim {
    pub(crate) const ALL: [Self; 4] = [Self::Api, Self::Worker, Self::Nats, Self::Postgres];
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The variables of every process, and where the api listens.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) address: String,
    variables: Vec<(&'static str, String)>,
}

impl Settings {
    /// For processes on these servers.
    pub(crate) fn new(database_url: &str, nats_url: &str, monitor_url: &str) -> Result<Self> {
        let address = format!("127.0.0.1:{}", infra::free_port()?);
        let variables = [
            ("DATABASE_URL", database_url),
            ("NATS_URL", nats_url),
            ("NATS_MONITOR_URL", monitor_url),
            ("NATS_STREAM", STREAM),
            ("LISTEN_ADDR", &address),
            ("JWT_SECRET", testkit::JWT_SECRET),
            ("ENCRYPTION_KEY", testkit::ENCRYPTION_KEY),
            ("AUTO_PROVISION", "true"),
            ("TRUSTED_PROXIES", "127.0.0.1/32"),
        ];
        let variables = variables.map(|(name, value)| (name, value.to_owned())).to_vec();
        Ok(Self { address, variables })
    }

    pub(crate) fn as_pairs(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// The same with one variable changed.
    pub(crate) fn with<'a>(&'a self, name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut pairs = self.as_pairs();
        pairs.retain(|(other, _)| *other != name);
        pairs.push((name, value));
        pairs
    }

    /// Changes a variable that is set.
    pub(crate) fn change(&mut self, name: &str, by: impl FnOnce(&str) -> Result<String>) -> Result<()> {
        let (_, value) = self.variables.iter_mut().find(|(known, _)| *known == name).context("not set")?;
        *value = by(value)?;
        Ok(())
    }

    /// The same for a second api, which listens at an address of its own.
    pub(crate) fn elsewhere(&self) -> Result<Self> {
        let mut settings = self.clone();
        settings.address = format!("127.0.0.1:{}", infra::free_port()?);
        let address = settings.address.clone();
        settings.change("LISTEN_ADDR", |_| Ok(address))?;
        Ok(settings)
    }

    /// The status that `/readyz` answers; none while nobody answers.
    pub(crate) async fn ready(&self) -> Option<u16> {
        let client = Client::new(format!("http://{}", self.address)).ok()?;
        Some(client.get("/readyz").send().await.ok()?.status.as_u16())
    }

    /// A client with an hour's token of this user.
    pub(crate) fn client(&self, subject: &str, role: Role) -> Result<Client> {
        let token = Token::new(&Clock::system(), subject, role).mint();
        Ok(Client::new(format!("http://{}", self.address))?.with_token(token))
    }
}

/// The four of them.
pub(crate) struct Cluster {
    pub(crate) settings: Settings,
    dir: DataDir,
    // Programs first: fields are dropped in order, and the database is dropped while its server runs.
    api: Option<Program>,
    worker: Option<Program>,
    database: Database,
    servers: PrivateServers,
}

impl Cluster {
    /// Everything running.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_on(PrivateServers::start().await?).await
    }

    /// Api and worker on these servers.
    pub(crate) async fn start_on(servers: PrivateServers) -> Result<Self> {
        Self::start_by(servers, |_| Ok(())).await
    }

    /// Api and worker on these servers, with settings that are changed before.
    pub(crate) async fn start_by(
        servers: PrivateServers,
        change: impl FnOnce(&mut Settings) -> Result<()>,
    ) -> Result<Self> {
        let dir = DataDir::new()?;
        let ids = IdSource::new(Clock::system());
        let database = Database::create(&servers.postgres.url("postgres"), &ids).await?;
        let mut settings = Settings::new(database.url(), &servers.nats.url(), &servers.nats.monitor_url())?;
        change(&mut settings)?;
        let mut cluster = Self { settings, dir, api: None, worker: None, database, servers };
        cluster.revive(Victim::Worker).await?;
        cluster.revive(Victim::Api).await?;
        cluster.until_ready().await;
        Ok(cluster)
    }

    /// Waits until the api takes calls.
    pub(crate) async fn until_ready(&self) {
        wait_until(BOUND, || async { self.ready().await.is_some_and(|status| status == 200) }).await;
    }

    /// The status that `/readyz` answers; none while nobody answers.
    pub(crate) async fn ready(&self) -> Option<u16> {
        self.settings.ready().await
    }

    /// The id of its process; PostgreSQL's is that of the one that starts all the others.
    pub(crate) fn pid(&self, victim: Victim) -> Result<u32> {
        let pid = match victim {
            Victim::Api => self.api.as_ref().and_then(Program::pid),
            Victim::Worker => self.worker.as_ref().and_then(Program::pid),
            Victim::Nats => self.servers.nats.pid(),
            Victim::Postgres => self.servers.postgres.pid(),
        };
        pid.with_context(|| format!("{victim} does not run"))
    }

    /// Another process beside the cluster's own, with some variables of its own.
    pub(crate) fn another(&self, command: &str, variables: &[(&str, &str)]) -> Result<Program> {
        let mut all = self.settings.as_pairs();
        all.retain(|(name, _)| variables.iter().all(|(own, _)| own != name));
        all.extend_from_slice(variables);
        Program::start(&self.dir, &[command], &all)
    }

    /// SIGKILL; it is gone when this answers.
    pub(crate) async fn kill(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Api => end(&mut self.api, Signal::SIGKILL).await.map(drop),
            Victim::Worker => end(&mut self.worker, Signal::SIGKILL).await.map(drop),
            Victim::Nats => {
                self.servers.nats.kill().await;
                Ok(())
            }
            Victim::Postgres => {
                self.servers.postgres.kill().await;
                Ok(())
            }
        }
    }

    /// Starts it again, on the same port and data.
    pub(crate) async fn revive(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Api | Victim::Worker => self.start_program(victim)?,
            Victim::Nats => self.servers.nats.resume().await?,
            Victim::Postgres => self.servers.postgres.resume().await?,
        }
        Ok(())
    }

    /// Starts api and worker again if they have refused to start, as whoever runs them would: a server may have died at
    /// that moment.
    ///
    /// # Errors
    /// When one has ended that had started: whatever is away, they wait for it.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        for (victim, started) in [(Victim::Api, "the api is listening"), (Victim::Worker, "the projector")] {
            let program = if victim == Victim::Api { &mut self.api } else { &mut self.worker };
            let Some((status, said)) = program.as_mut().map(Program::ended).transpose()?.flatten() else {
                continue;
            };
            let refused =
                status.code() == Some(1) && !said.contains(started) && said.contains("usage-ledger: ");
            anyhow::ensure!(refused, "{victim} ended by itself with {status}: {said}");
            eprintln!("{victim} is started again: {}", said.lines().last().unwrap_or_default());
            self.start_program(victim)?;
        }
        Ok(())
    }

    fn start_program(&mut self, victim: Victim) -> Result<()> {
        let start = |name| Program::start(&self.dir, &[name], &self.settings.as_pairs());
        match victim {
            Victim::Api => self.api = Some(start("api")?),
            Victim::Worker => self.worker = Some(start("worker")?),
            Victim::Nats | Victim::Postgres => {}
        }
        Ok(())
    }

    /// Asks the api to end; it must do so in order.
    pub(crate) async fn stop_api(&mut self) -> Result<()> {
        let code = end(&mut self.api, Signal::SIGTERM).await?;
        anyhow::ensure!(code == Some(0), "the api ended with {code:?}");
        Ok(())
    }

    /// The log, for a test that writes into it.
    pub(crate) async fn log(&self) -> Result<nats::Log> {
        Ok(nats::connect(&nats::Connection::new(self.servers.nats.url(), STREAM.parse()?)).await?)
    }

    /// Waits until what is in the log now is projected, so long at most; more may come all the time.
    pub(crate) async fn projects(&self, bound: Duration) -> Result<()> {
        let last = i64::try_from(self.log().await?.state().await?.last_seq)?;
        let pool = self.pool().await?;
        wait_until(bound, || async {
            let seq = sqlx::query_scalar("SELECT seq FROM projection_checkpoint").fetch_one(&pool).await;
            seq.is_ok_and(|seq: i64| seq >= last)
        })
        .await;
        Ok(())
    }

    /// Waits until every frame of the log is projected.
    pub(crate) async fn projected(&self) -> Result<()> {
        let log = self.log().await?;
        let pool = self.pool().await?;
        wait_until(BOUND, || async {
            let last = log.state().await.map(|state| state.last_seq);
            let seq: Result<i64, _> =
                sqlx::query_scalar("SELECT seq FROM projection_checkpoint").fetch_one(&pool).await;
            matches!((last, seq), (Ok(last), Ok(seq)) if u64::try_from(seq) == Ok(last))
        })
        .await;
        Ok(())
    }

    /// `/readyz` and the last lines of the programs' logs, for a failure.
    pub(crate) async fn state(&self) -> String {
        let client = Client::new(format!("http://{}", self.settings.address));
        let ready = match client {
            Ok(client) => client.get("/readyz").send().await.map(|answer| answer.text()),
            Err(error) => Err(error),
        };
        let logs = ["api", "worker"].map(|name| {
            let text =
                std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            format!("{name}:\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
        });
        format!("{ready:?}\n{}", logs.join("\n"))
    }

    pub(crate) fn database_url(&self) -> &str {
        self.database.url()
    }

    pub(crate) async fn pool(&self) -> Result<PgPool> {
        self.database.pool().await
    }

    /// Runs another command of the program on the same ledger.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Result<Output> {
        output(&self.dir, arguments, &self.settings.as_pairs()).await
    }
}

async fn end(program: &mut Option<Program>, signal: Signal) -> Result<Option<i32>> {
    let mut program = program.take().context("it does not run")?;
    program.signal(signal)?;
    Ok(program.wait().await?.code())
}
