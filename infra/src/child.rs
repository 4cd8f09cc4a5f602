//! Commands whose programs see nothing of our environment: it holds secrets, and some variables change what a program
//! does (`LD_PRELOAD`, `PG*`, `NATS_*`, `GOTRACEBACK`).

use std::{ffi::OsStr, process::Command};

/// A program with the few variables that every program may see. Whatever else it needs, its caller adds.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // The locale and the time zone decide what servers write into their logs; TMPDIR stays the system's own.
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .current_dir("/");
    command
}
