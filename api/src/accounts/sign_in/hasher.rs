//! Hashing of passwords: in few threads of their own, at a lower priority than what decides about calls.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use credentials::password::{self, HashError, Parameters, Password, Policy, Verified};
use tokio::sync::{Semaphore, oneshot};
use vault::{Entropy as _, OsEntropy};

use super::error::SignInError;
use super::password_text::{PasswordText, weak};

/// Passwords that wait for their turn; who comes then is told to come again.
const QUEUE: usize = 64;
/// What is added to the threads' niceness: with it a thread has about a tenth of what the others have of a busy core.
const NICER_BY: i32 = 10;

/// Hashes passwords. Cheap to clone; its threads end with the last of the clones.
#[derive(Clone)]
pub(crate) struct Hasher(Arc<Parts>);

struct Parts {
    parameters: Parameters,
    /// Verified against where there is no user, so that it takes as long as with one.
    decoy: String,
    places: Semaphore,
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Hasher {
    /// Hashes with these parameters, in half as many threads as there are cores.
    pub(crate) fn new(parameters: Parameters) -> Self {
        let threads = thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..threads {
            let waiting = Arc::clone(&waiting);
            let named = thread::Builder::new().name(format!("passwords-{number}"));
            if let Err(error) = named.spawn(move || work(&waiting)) {
                tracing::error!(%error, "a thread for passwords cannot be started");
            }
        }
        let decoy = password::decoy(&parameters);
        Self(Arc::new(Parts { parameters, decoy, places: Semaphore::new(QUEUE), jobs }))
    }

    /// The hash of a password.
    pub(super) async fn hash(&self, password: Arc<Password>) -> Result<String, SignInError> {
        let mut salt = [0; password::SALT_BYTES];
        OsEntropy.fill(&mut salt)?;
        let parameters = self.0.parameters;
        self.run(move || password::hash(&password, &salt, &parameters)).await
    }

    /// The hash of a password that somebody chooses, if it is strong enough. `words` are what whoever knows its user
    /// would try. To tell how strong it is may take as long as to hash it.
    pub(super) async fn choose(&self, chosen: &PasswordText, words: &[&str]) -> Result<String, SignInError> {
        let password = chosen.chosen()?;
        let words: Vec<String> = words.iter().copied().map(str::to_owned).collect();
        let judged = Arc::clone(&password);
        let judge = move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            Ok(Policy::default().check(&judged, &words))
        };
        self.run(judge).await?.map_err(|error| weak(error.to_string()))?;
        self.hash(password).await
    }

    /// Whether the password is the one of this hash; where there is none it takes as long to say no.
    pub(super) async fn verify(
        &self,
        password: Arc<Password>,
        phc: Option<String>,
    ) -> Result<Verified, SignInError> {
        let (parameters, is_there) = (self.0.parameters, phc.is_some());
        let phc = phc.unwrap_or_else(|| self.0.decoy.clone());
        let verified = self.run(move || password::verify(&password, &phc, &parameters)).await?;
        Ok(if is_there { verified } else { Verified::No })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, SignInError> {
        let _place = self.0.places.try_acquire().map_err(|_| SignInError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let job = move || {
            // Who has hung up is not waited for.
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        };
        self.0.jobs.send(Box::new(job)).map_err(|_| SignInError::Busy)?;
        Ok(answered.await.map_err(|_| SignInError::Busy)??)
    }
}

/// Does what waits, one after the other, until nobody can ask any more.
fn work(waiting: &Mutex<mpsc::Receiver<Job>>) {
    // Of this thread alone: Linux has a niceness for each.
    if let Err(error) = rustix::process::nice(NICER_BY) {
        tracing::debug!(%error, "passwords are hashed at the priority of all else");
    }
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(),
            Err(mpsc::RecvError) => return,
        }
    }
}
