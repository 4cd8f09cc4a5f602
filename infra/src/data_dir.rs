//! The directory of one private installation: locked by one process, with the secrets that it made.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rand::Rng;

use crate::StartError;

/// A data directory held by this process until it is dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Closing alone is not enough: a process that another thread is starting holds the file too until it runs its
        // own program.
        let _ = self.lock.unlock();
    }
}

impl DataDir {
    /// Makes the directory where there is none and takes its lock.
    ///
    /// # Errors
    /// [`StartError::InUse`] when another process holds it.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let cannot = |source| StartError::io(format!("cannot make the directory {}", path.display()), source);
        fs::create_dir_all(path).map_err(cannot)?;
        let path = path.canonicalize().map_err(cannot)?;
        let lock_path = path.join("lock");
        let lock =
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&lock_path)
                .map_err(|source| StartError::io(format!("cannot write {}", lock_path.display()), source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, lock }),
            Err(TryLockError::WouldBlock) => Err(StartError::InUse(path)),
            Err(TryLockError::Error(source)) => {
                Err(StartError::io(format!("cannot lock {}", lock_path.display()), source))
            }
        }
    }

    /// The directory's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret of this name: 32 random bytes in hex, made at first use and kept in a file of mode 0600.
    ///
    /// # Errors
    /// [`StartError::NotASecret`] when the file is there and holds something else.
    pub fn secret(&self, name: &str) -> Result<String, StartError> {
        made_secret(&self.path, name)
    }

    /// Replaces the file `name` in one step with `text`, mode 0600.
    pub fn write_private(&self, name: &str, text: &str) -> Result<PathBuf, StartError> {
        write_private(&self.path, name, text)
    }

    /// Removes the file `name`; that there is none is no error.
    pub fn remove(&self, name: &str) -> Result<(), StartError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StartError::io(format!("cannot remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn made_secret(dir: &Path, name: &str) -> Result<String, StartError> {
    let secrets = dir.join("secrets");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&secrets)
        .map_err(|source| StartError::io(format!("cannot make {}", secrets.display()), source))?;
    let path = secrets.join(name);
    match fs::read_to_string(&path) {
        Ok(text) if is_secret(text.trim()) => return Ok(text.trim().to_owned()),
        // Never replaced: what was sealed or signed with it may still be there, and a hand may have only slipped.
        Ok(_) => return Err(StartError::NotASecret(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(StartError::io(format!("cannot read {}", path.display()), error)),
    }
    let secret = random_hex();
    write_private(&secrets, name, &secret)?;
    Ok(secret)
}

fn is_secret(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(crate) fn write_private(dir: &Path, name: &str, text: &str) -> Result<PathBuf, StartError> {
    let path = dir.join(name);
    let new = dir.join(format!("{name}.new"));
    let write = || -> io::Result<()> {
        // A file left by an interrupted run may have another mode.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|source| StartError::io(format!("cannot write {}", path.display()), source))?;
    Ok(path)
}

#[expect(clippy::disallowed_methods, reason = "a secret is made once per data directory and never replayed")]
fn random_hex() -> String {
    use std::fmt::Write as _;
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
