//! The file that is imported, or stdin.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::{Context as _, bail};

use super::call::Quoted;

const BUFFER_BYTES: usize = 256 * 1024;

/// A file's content, and its length where it is known. `-` is stdin.
pub(crate) fn open(path: &Path) -> anyhow::Result<(Box<dyn BufRead + Send>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin())), None));
    }
    let name = Quoted::new(&path.to_string_lossy());
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let metadata = file.metadata().with_context(|| format!("cannot look at {name}"))?;
    if metadata.is_dir() {
        bail!("{name} is a directory");
    }
    let bytes = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::with_capacity(BUFFER_BYTES, file)), bytes))
}
