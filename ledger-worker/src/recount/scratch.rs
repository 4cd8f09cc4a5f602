//! Room on disk for what does not fit into memory: one file without a name, in blocks, of which each run has its own.
//!
//! Memory: the last, unfinished block of each run.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const BLOCK_BYTES: usize = 16 * 1024;
/// What an unfinished block grows by.
const TAIL_STEP_BYTES: usize = 1_024;

/// Failure of the file that holds what does not fit into memory.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The disk is full, or the directory takes no files.
    #[error(
        "what is counted does not fit under {}, some 100 bytes an event; what was mended is right, name another directory and run it again",
        dir.display()
    )]
    Disk {
        /// The directory.
        dir: PathBuf,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// What is read is not what was written.
    #[error("the temporary file under {} is damaged", dir.display())]
    Damaged {
        /// The directory.
        dir: PathBuf,
    },
}

/// The file.
#[derive(Debug)]
pub(super) struct Scratch {
    file: File,
    dir: PathBuf,
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// Number of blocks that the file has.
    made: u32,
    /// Those that nobody needs any more.
    free: Vec<u32>,
}

impl Scratch {
    /// Makes the file. It has no name, so that nothing of it is left whatever ends the process.
    pub(super) fn new(dir: &Path) -> Result<Arc<Self>, ScratchError> {
        let file = tempfile::tempfile_in(dir);
        let file = file.map_err(|source| ScratchError::Disk { dir: dir.to_owned(), source })?;
        Ok(Self::of(file, dir))
    }

    fn of(file: File, dir: &Path) -> Arc<Self> {
        Arc::new(Self { file, dir: dir.to_owned(), blocks: Mutex::default() })
    }

    fn take_block(&self) -> u32 {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.free.pop().unwrap_or_else(|| {
            blocks.made += 1;
            blocks.made - 1
        })
    }

    fn give_back(&self, given: &mut Vec<u32>) {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).free.append(given);
    }

    fn write(&self, block: u32, bytes: &[u8]) -> Result<(), ScratchError> {
        self.file.write_all_at(bytes, offset(block)).map_err(|source| self.disk(source))
    }

    fn read(&self, block: u32, bytes: &mut [u8]) -> Result<(), ScratchError> {
        self.file.read_exact_at(bytes, offset(block)).map_err(|source| self.disk(source))
    }

    fn disk(&self, source: io::Error) -> ScratchError {
        ScratchError::Disk { dir: self.dir.clone(), source }
    }

    fn damaged(&self) -> ScratchError {
        ScratchError::Damaged { dir: self.dir.clone() }
    }
}

fn offset(block: u32) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}

/// Records in the order in which they were put in.
#[derive(Debug)]
pub(super) struct Run {
    scratch: Arc<Scratch>,
    blocks: Vec<u32>,
    tail: Vec<u8>,
}

impl Run {
    pub(super) fn new(scratch: &Arc<Scratch>) -> Self {
        Self { scratch: Arc::clone(scratch), blocks: Vec::new(), tail: Vec::new() }
    }

    pub(super) fn scratch(&self) -> &Arc<Scratch> {
        &self.scratch
    }

    /// Puts a record behind the others, of less than 64 KiB.
    pub(super) fn push(&mut self, record: &[u8]) -> Result<(), ScratchError> {
        let length = u16::try_from(record.len()).map_err(|_| self.scratch.damaged())?;
        self.append(&length.to_le_bytes())?;
        self.append(record)
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), ScratchError> {
        while !bytes.is_empty() {
            let fitting = bytes.len().min(BLOCK_BYTES - self.tail.len());
            if self.tail.capacity() < self.tail.len() + fitting {
                self.tail.reserve_exact(fitting.max(TAIL_STEP_BYTES).min(BLOCK_BYTES - self.tail.len()));
            }
            self.tail.extend_from_slice(&bytes[..fitting]);
            bytes = &bytes[fitting..];
            if self.tail.len() == BLOCK_BYTES {
                let block = self.scratch.take_block();
                self.blocks.push(block);
                self.scratch.write(block, &self.tail)?;
                self.tail.clear();
            }
        }
        Ok(())
    }

    /// The error of one who cannot make out a record of it.
    pub(super) fn damaged(&self) -> ScratchError {
        self.scratch.damaged()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.scratch.give_back(&mut self.blocks);
    }
}

/// Reads a run from its beginning on. What is put into it meanwhile is read, too.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    block: usize,
    at: usize,
    /// The block that is being read, once it is whole.
    bytes: Vec<u8>,
    record: Vec<u8>,
}

impl Cursor {
    /// The next record; none at the end.
    pub(super) fn next(&mut self, run: &Run) -> Result<Option<&[u8]>, ScratchError> {
        let mut length = [0; 2];
        if self.block == run.blocks.len() && self.at == run.tail.len() {
            return Ok(None);
        }
        self.read(run, &mut length)?;
        let mut record = std::mem::take(&mut self.record);
        record.resize(usize::from(u16::from_le_bytes(length)), 0);
        self.read(run, &mut record)?;
        self.record = record;
        Ok(Some(&self.record))
    }

    fn read(&mut self, run: &Run, mut into: &mut [u8]) -> Result<(), ScratchError> {
        while !into.is_empty() {
            if self.at == BLOCK_BYTES {
                (self.block, self.at) = (self.block + 1, 0);
                self.bytes.clear();
            }
            let source = match run.blocks.get(self.block) {
                Some(block) => {
                    if self.bytes.is_empty() {
                        self.bytes.resize(BLOCK_BYTES, 0);
                        run.scratch.read(*block, &mut self.bytes)?;
                    }
                    &self.bytes[self.at..]
                }
                None => run.tail.get(self.at..).unwrap_or_default(),
            };
            if source.is_empty() {
                return Err(run.damaged());
            }
            let fitting = source.len().min(into.len());
            let (now, later) = into.split_at_mut(fitting);
            now.copy_from_slice(&source[..fitting]);
            into = later;
            self.at += fitting;
        }
        if self.at == BLOCK_BYTES {
            (self.block, self.at) = (self.block + 1, 0);
            self.bytes.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> Arc<Scratch> {
        Scratch::new(&std::env::temp_dir()).unwrap()
    }

    #[test]
    fn runs_give_back_what_was_put_in_and_their_room() {
        let scratch = scratch();
        let mut runs = [Run::new(&scratch), Run::new(&scratch)];
        let record = |run: usize, n: usize| vec![u8::try_from((n * 7 + run) % 251).unwrap(); n % 3_000];
        for n in 0..500 {
            for (index, run) in runs.iter_mut().enumerate() {
                run.push(&record(index, n)).unwrap();
            }
        }
        for (index, run) in runs.iter().enumerate() {
            let mut cursor = Cursor::default();
            for n in 0..500 {
                assert_eq!(cursor.next(run).unwrap(), Some(record(index, n).as_slice()), "{n}");
            }
            assert_eq!(cursor.next(run).unwrap(), None);
        }
        let made = scratch.blocks.lock().unwrap().made;
        let [first, _] = runs;
        drop(first);
        let mut third = Run::new(&scratch);
        for n in 0..500 {
            third.push(&record(2, n)).unwrap();
        }
        assert_eq!(scratch.blocks.lock().unwrap().made, made, "blocks are used again");
    }

    #[test]
    fn what_comes_while_it_is_read_is_read() {
        let mut run = Run::new(&scratch());
        let mut cursor = Cursor::default();
        for n in 0..20_000_u32 {
            run.push(&n.to_le_bytes()).unwrap();
            if n % 3 == 0 {
                while let Some(record) = cursor.next(&run).unwrap() {
                    assert!(u32::from_le_bytes(record.try_into().unwrap()) <= n);
                }
            }
        }
    }

    #[test]
    fn a_full_disk_is_said() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut run = Run::new(&Scratch::of(full, Path::new("/there")));
        let error = (0..BLOCK_BYTES).find_map(|_| run.push(&[7; 64]).err()).expect("it is full");
        assert!(error.to_string().contains("does not fit under /there"), "{error}");
        let missing = Scratch::new(Path::new("/there/is/no/such")).unwrap_err();
        assert!(missing.to_string().contains("/there/is/no/such"), "{missing}");
    }
}
