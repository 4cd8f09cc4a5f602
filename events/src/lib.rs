//! Wire types of the log: CloudEvents, their versions and their golden files.
