//! One supervised child process.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    future::Future,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{StartError, child};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A server that ran this long is started again without a growing pause.
const STEADY: Duration = Duration::from_secs(10);
/// So many exits before the first answer are a failure. After SIGKILL a PostgreSQL needs a few tries until the
/// processes of the one before have gone.
const EXITS_BEFORE_GIVING_UP: u32 = 6;
const START_BOUND: Duration = Duration::from_mins(1);
/// Time that a server which is let go of has for an orderly end.
const DROP_BOUND: Duration = Duration::from_secs(10);
const LOG_LIMIT_BYTES: u64 = 16 * 1024 * 1024;
const LOG_MODE: u32 = 0o600;

/// Reads our end of the pipe; end of file without a line means that we are gone.
const WATCHDOG: &str = r#"
IFS= read -r _ && exit 0
kill -s "$1" "$2" 2>/dev/null
i=0
while kill -0 "$2" 2>/dev/null && [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done
if [ -n "$3" ]; then
    kill -s KILL "$2" 2>/dev/null
    rm -rf -- "$3"
    rmdir -- "${3%/*}" 2>/dev/null
fi
exit 0
"#;

/// A program to run, and how to end it.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    /// Makes the command anew for every start. Its input, output and process group are set here.
    pub(crate) command: Box<dyn Fn() -> Command + Send + Sync>,
    pub(crate) log: PathBuf,
    /// Asks for an orderly end.
    pub(crate) stop_signal: Signal,
    /// A directory to remove when the server has ended for good, also by the death of this process.
    pub(crate) scratch: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Status {
    pid: Option<u32>,
    exits: u32,
}

struct Running {
    child: Child,
    watchdog: Option<(Child, ChildStdin)>,
}

#[derive(Default)]
struct State {
    wanted: bool,
    closed: bool,
    running: Option<Running>,
}

struct Shared {
    spec: Spec,
    state: Mutex<State>,
    wake: Condvar,
    status: watch::Sender<Status>,
}

/// A supervised child. Dropping it asks the server to stop, and waits only when there is a directory to remove.
pub(crate) struct Process {
    shared: Arc<Shared>,
    /// Disconnected once the supervisor has ended.
    supervised: Mutex<mpsc::Receiver<()>>,
}

impl Process {
    /// Starts the supervisor; the server is wanted from now on.
    pub(crate) fn start(spec: Spec) -> Result<Self, StartError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { wanted: true, ..State::default() }),
            wake: Condvar::new(),
            status: watch::Sender::new(Status::default()),
            spec,
        });
        let thread_shared = Arc::clone(&shared);
        let (supervising, supervised) = mpsc::channel();
        thread::Builder::new()
            .name(format!("supervise-{}", shared.spec.name))
            .spawn(move || {
                supervise(&thread_shared);
                drop::<mpsc::Sender<()>>(supervising);
            })
            .map_err(|source| StartError::io("cannot start a thread", source))?;
        Ok(Self { shared, supervised: Mutex::new(supervised) })
    }

    /// The running server's process id.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.shared.status.borrow().pid
    }

    /// Waits until `probe` says that the server answers.
    pub(crate) async fn wait_ready<F, Fut>(&self, probe: F) -> Result<(), StartError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = bool>,
    {
        let started = Instant::now();
        let exits_before = self.shared.status.borrow().exits;
        loop {
            let status = *self.shared.status.borrow();
            if status.pid.is_some() && probe().await {
                return Ok(());
            }
            let exited = status.exits.saturating_sub(exits_before) >= EXITS_BEFORE_GIVING_UP;
            if exited || started.elapsed() > START_BOUND {
                return Err(StartError::DidNotStart {
                    server: self.shared.spec.name,
                    reason: last_words(&self.shared.spec.log),
                    log: self.shared.spec.log.clone(),
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Wants the server again after [`Process::stop`] or [`Process::kill`].
    pub(crate) fn resume(&self) {
        self.shared.lock().wanted = true;
        self.shared.wake.notify_all();
    }

    /// Sends SIGKILL and waits; the server stays down until [`Process::resume`].
    pub(crate) async fn kill(&self) {
        self.shared.end(Signal::SIGKILL);
        self.gone(Duration::from_secs(30)).await;
    }

    /// Sends SIGKILL only: the supervisor starts the server again, as after a crash.
    pub(crate) fn crash(&self) {
        self.shared.signal(&self.shared.lock(), Signal::SIGKILL);
    }

    /// Stops in order, by SIGKILL when that takes longer than `bound`.
    pub(crate) async fn stop(&self, bound: Duration) {
        self.shared.end(self.shared.spec.stop_signal);
        if !self.gone(bound).await {
            warn!(server = self.shared.spec.name, "did not stop in time and is killed");
            self.kill().await;
        }
    }

    async fn gone(&self, bound: Duration) -> bool {
        let mut status = self.shared.status.subscribe();
        let gone = status.wait_for(|status| status.pid.is_none());
        matches!(tokio::time::timeout(bound, gone).await, Ok(Ok(_)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.end(self.shared.spec.stop_signal);
        // A test's process ends right after; what it leaves behind stays for ever.
        if self.shared.spec.scratch.is_some() {
            let supervised = self.supervised.get_mut().unwrap_or_else(PoisonError::into_inner);
            if supervised.recv_timeout(DROP_BOUND) == Err(mpsc::RecvTimeoutError::Timeout) {
                // A server that has only just begun may not hear the first signal.
                self.shared.end(Signal::SIGKILL);
                let _ = supervised.recv_timeout(DROP_BOUND);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is left to be told of a failure; what stays is in the temporary directory.
    fn discard(&self) {
        if let Some(scratch) = &self.spec.scratch {
            let _ = fs::remove_dir_all(scratch);
            // The last of several servers takes the directory around them with it.
            let _ = scratch.parent().map(fs::remove_dir);
        }
    }

    fn end(&self, signal: Signal) {
        let mut state = self.lock();
        state.wanted = false;
        self.signal(&state, signal);
        drop(state);
        self.wake.notify_all();
    }

    /// The child is reaped under the same lock, so the process id still is its own.
    fn signal(&self, state: &State, signal: Signal) {
        if let Some(running) = &state.running
            && let Err(error) = kill(pid_of(&running.child), signal)
        {
            warn!(server = self.spec.name, %error, "could not be signalled");
        }
    }

    fn spawn(&self) -> Result<Running, StartError> {
        let name = self.spec.name;
        let log = open_log(&self.spec.log)?;
        let errors =
            log.try_clone().map_err(|source| StartError::io(format!("cannot share {name}'s log"), source))?;
        let child = (self.spec.command)()
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| StartError::io(format!("cannot start {name}"), source))?;
        let watchdog = self.watch(&child);
        if watchdog.is_none() {
            warn!(server = name, "runs without a watchdog: it may outlive a killed usage-ledger");
        }
        Ok(Running { child, watchdog })
    }

    fn watch(&self, child: &Child) -> Option<(Child, ChildStdin)> {
        let signal = self.spec.stop_signal.as_str().trim_start_matches("SIG");
        let mut watchdog = child::command("/bin/sh")
            .args(["-c", WATCHDOG, "usage-ledger-watchdog", signal, &child.id().to_string()])
            .arg(self.spec.scratch.as_deref().unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .ok()?;
        let pipe = watchdog.stdin.take()?;
        Some((watchdog, pipe))
    }
}

fn supervise(shared: &Shared) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let mut state = shared.lock();
        while !state.wanted {
            if state.closed {
                shared.discard();
                return;
            }
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let started = Instant::now();
        match shared.spawn() {
            Ok(running) => {
                let pid = running.child.id();
                state.running = Some(running);
                drop(state);
                shared.status.send_modify(|status| status.pid = Some(pid));
                info!(server = shared.spec.name, pid, "started");
                wait_without_reaping(pid);
                reap(shared);
            }
            Err(error) => {
                drop(state);
                warn!(server = shared.spec.name, error = %error, "could not be started");
                shared.status.send_modify(|status| status.exits += 1);
            }
        }
        if started.elapsed() > STEADY {
            backoff = FIRST_BACKOFF;
        }
        let state = shared.lock();
        if state.wanted {
            warn!(server = shared.spec.name, ?backoff, "is started again after a pause");
            let waited = shared.wake.wait_timeout_while(state, backoff, |state| state.wanted);
            drop(waited);
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        } else {
            backoff = FIRST_BACKOFF;
        }
    }
}

/// Blocks until the child has ended but leaves it a zombie, so that its id cannot be given to another process before
/// [`reap`] holds the lock.
fn wait_without_reaping(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed());
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
}

fn reap(shared: &Shared) {
    let mut state = shared.lock();
    let Some(mut running) = state.running.take() else { return };
    let exit = running.child.wait();
    if state.closed {
        // Before the watchdog is dismissed: this process may be about to end.
        shared.discard();
    }
    if let Some((mut watchdog, mut pipe)) = running.watchdog.take() {
        // When the line cannot be written the watchdog is gone already.
        let _ = pipe.write_all(b"stopped\n");
        drop(pipe);
        let _ = watchdog.wait();
    }
    let wanted = state.wanted;
    drop(state);
    match exit {
        Ok(exit) if wanted => warn!(server = shared.spec.name, %exit, "ended unasked"),
        Ok(exit) => info!(server = shared.spec.name, %exit, "stopped"),
        Err(error) => warn!(server = shared.spec.name, %error, "could not be waited for"),
    }
    shared.status.send_modify(|status| {
        status.pid = None;
        status.exits += 1;
    });
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Appends, and starts over when the file has grown large. What servers say is for its owner alone, also where an
/// earlier version made the file.
fn open_log(path: &Path) -> Result<File, StartError> {
    let large = path.metadata().is_ok_and(|metadata| metadata.len() > LOG_LIMIT_BYTES);
    let mut options = OpenOptions::new();
    options.create(true).mode(LOG_MODE);
    if large {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    let open = || {
        let file = options.open(path)?;
        file.set_permissions(Permissions::from_mode(LOG_MODE))?;
        Ok(file)
    };
    open().map_err(|source| StartError::io(format!("cannot write {}", path.display()), source))
}

/// The last line of a log that is not empty, within its last 4 KiB.
pub(crate) fn last_words(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned())
    };
    read().unwrap_or_else(|error| format!("its log cannot be read: {error}"))
}
