//! What is logged, to look for secrets in.

use std::string::FromUtf8Error;
use std::sync::Arc;

use parking_lot::Mutex;

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// All of it.
    pub(crate) fn text(&self) -> Result<String, FromUtf8Error> {
        String::from_utf8(self.0.lock().clone())
    }
}
