//! The api and the worker in this process, for `dev` and `serve`.

use anyhow::{Context as _, Result};
use ledger::Clock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;

/// Both, running. They are stopped by [`Processes::stop`].
pub(crate) struct Processes {
    api: Part,
    worker: Part,
}

struct Part {
    name: &'static str,
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<()>>>,
}

impl Processes {
    /// Starts the worker and the api. The api lets nobody in until the worker has caught up.
    pub(crate) fn start(settings: &Settings, clock: &Clock, allow_unsafe_log: bool) -> Result<Self> {
        let (mut api, mut worker) = (settings.api(clock.clone())?, settings.worker(clock.clone())?);
        api.log.allow_unsafe |= allow_unsafe_log;
        worker.allow_unsafe_log |= allow_unsafe_log;
        let (api_shutdown, worker_shutdown) = (CancellationToken::new(), CancellationToken::new());
        let shutdown = api_shutdown.clone();
        let api_task = tokio::spawn(async move { Ok(api::run(api, shutdown).await?) });
        let shutdown = worker_shutdown.clone();
        let worker_task =
            tokio::spawn(async move { Ok(Box::pin(ledger_worker::run(worker, shutdown)).await?) });
        Ok(Self {
            api: Part { name: "api", shutdown: api_shutdown, task: Some(api_task) },
            worker: Part { name: "worker", shutdown: worker_shutdown, task: Some(worker_task) },
        })
    }

    /// Waits until one of them ends by itself, which is always an error.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.api.failed() => error,
            error = self.worker.failed() => error,
        }
    }

    /// Stops the api, which answers what is in flight, and then the worker.
    pub(crate) async fn stop(self) -> Result<()> {
        let api = self.api.stop().await;
        let worker = self.worker.stop().await;
        api.and(worker)
    }
}

impl Part {
    async fn failed(&mut self) -> anyhow::Error {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let ended = task.await;
        self.task = None;
        match flatten(ended) {
            Ok(()) => anyhow::anyhow!("the {} ended by itself", self.name),
            Err(error) => error.context(format!("the {} ended", self.name)),
        }
    }

    async fn stop(mut self) -> Result<()> {
        self.shutdown.cancel();
        let Some(task) = self.task.take() else { return Ok(()) };
        flatten(task.await).with_context(|| format!("the {} did not stop in order", self.name))
    }
}

fn flatten(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.context("a panic")?
}
