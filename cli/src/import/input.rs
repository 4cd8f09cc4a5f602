//! The file that is imported, or stdin: opened once, read as often as it takes, unpacked on the way.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use flate2::read::MultiGzDecoder;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::call::Quoted;
use super::kind::{HEAD_BYTES, Kind};

const BUFFER_BYTES: usize = 256 * 1024;

/// A file to import. Every pass over it reads the same bytes: those that it had when it was opened, although its server
/// may go on writing.
pub(crate) struct Input(Kept);

enum Kept {
    File {
        file: Arc<File>,
        bytes: u64,
    },
    /// A pipe, which can be read once.
    Stream(Box<dyn Read + Send>),
}

impl Input {
    /// Opens a file; `-` is stdin.
    ///
    /// # Errors
    /// Also when a file holds no lines; of a pipe that is told when it is read.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self(Kept::Stream(Box::new(io::stdin()))));
        }
        let name = Quoted::new(&path.to_string_lossy());
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let metadata = file.metadata().with_context(|| format!("cannot look at {name}"))?;
        if metadata.is_dir() {
            bail!("{name} is a directory");
        }
        if !metadata.is_file() {
            return Ok(Self(Kept::Stream(Box::new(file))));
        }
        let mut input = Self(Kept::File { file: Arc::new(file), bytes: metadata.len() });
        input.pass().lines().with_context(|| format!("{name} cannot be imported"))?;
        Ok(input)
    }

    /// The input in a form that can be read more than once. A pipe goes through a temporary file without a name: to
    /// memory it could be too large. None when it was stopped.
    pub(crate) async fn kept(self, stop: &CancellationToken) -> anyhow::Result<Option<Self>> {
        let Kept::Stream(mut stream) = self.0 else { return Ok(Some(self)) };
        let (done, copied) = oneshot::channel();
        // Not one of the runtime's threads: those must end before the program does, and a pipe may stay silent.
        std::thread::spawn(move || {
            // A receiver that is gone was stopped.
            let _ = done.send(spool(&mut stream));
        });
        let copied = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            copied = copied => copied.context("stdin could not be read")?,
        };
        let (file, bytes) = copied.context(
            "stdin is kept in a temporary file until it is known to be good, and cannot be: \
             give the file itself, set TMPDIR to where there is room, or say --yes",
        )?;
        Ok(Some(Self(Kept::File { file: Arc::new(file), bytes })))
    }

    /// One pass over it, from its beginning. A pipe has one alone; a second one is empty.
    pub(crate) fn pass(&mut self) -> Pass {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let (reader, total): (Box<dyn Read + Send>, _) = match &mut self.0 {
            Kept::File { file, bytes } => {
                (Box::new(At { file: Arc::clone(file), position: 0, end: *bytes }), Some(*bytes))
            }
            Kept::Stream(stream) => (std::mem::replace(stream, Box::new(io::empty())), None),
        };
        let reader = Counted { reader, bytes_read: Arc::clone(&bytes_read) };
        Pass { reader: Box::new(reader), total, bytes_read }
    }
}

fn spool(stream: &mut dyn Read) -> io::Result<(File, u64)> {
    let mut file = tempfile::tempfile()?;
    let bytes = io::copy(stream, &mut file)?;
    Ok((file, bytes))
}

/// A pass over a file.
pub(crate) struct Pass {
    reader: Box<dyn Read + Send>,
    /// The file's length, where it is known.
    total: Option<u64>,
    bytes_read: Arc<AtomicU64>,
}

impl Pass {
    /// The file's length, where it is known; packed, if it is packed.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// Counts the bytes of the file that were read so far.
    pub(crate) fn bytes_read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes_read)
    }

    /// The file's lines, unpacked. Reads its beginning.
    ///
    /// # Errors
    /// When it holds none.
    pub(crate) fn lines(self) -> io::Result<Box<dyn BufRead + Send>> {
        let (kind, reader) = sniffed(self.reader)?;
        let reader: Box<dyn Read + Send> = match kind {
            Kind::Text => return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, reader))),
            Kind::Other(other) => return Err(io::Error::new(io::ErrorKind::InvalidData, other)),
            Kind::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, reader))),
            Kind::Zstd => Box::new(zstd::Decoder::new(reader)?),
        };
        let (kind, reader) = sniffed(Box::new(Unpacked(reader)))?;
        match kind {
            Kind::Text => Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, reader))),
            Kind::Other(other) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("unpacked, {other}")))
            }
            Kind::Gzip | Kind::Zstd => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is packed twice: unpack it once, and give what comes out",
            )),
        }
    }
}

/// The kind of what comes, and all of it still.
fn sniffed(mut reader: Box<dyn Read + Send>) -> io::Result<(Kind, Box<dyn Read + Send>)> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let mut part = [0; HEAD_BYTES];
    while head.len() < HEAD_BYTES {
        let read = match reader.read(&mut part[head.len()..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            break;
        }
        head.extend_from_slice(&part[head.len()..][..read]);
        // A pipe's first line may be all that comes for long.
        if head.len() > 16 && head.ends_with(b"\n") {
            break;
        }
    }
    Ok((Kind::of(&head), Box::new(Cursor::new(head).chain(reader))))
}

/// A file from a place on, up to where it ended when it was opened. The file's own position stays as it is.
struct At {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let part = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..part], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

struct Counted {
    reader: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Unpacked content, whose errors say that it was packed.
struct Unpacked(Box<dyn Read + Send>);

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, format!("what is packed in it is damaged or cut short ({error})")),
        })
    }
}

#[cfg(test)]
mod tests;
