//! Unpacking of bodies that come as `Content-Encoding: gzip` or `zstd`.
//!
//! A few kilobytes may unpack to gigabytes, so everything is bounded: the packed body, what it unpacks to, the window
//! of zstd, and the memory of all that is unpacked at the same time. It happens off the threads that answer requests.

use std::io::{self, Read};
use std::ops::Deref;
use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::extract::{Coding, MAX_INGEST_BYTES, read_packed};
use crate::http::problem::{Code, Problem};

/// Largest body once it is unpacked, in bytes: as large as one that never was packed.
const MAX_UNPACKED_BYTES: usize = MAX_INGEST_BYTES;
/// The window that every reader of zstd must have and no sender may pass, 8 MiB (RFC 9659), as a power of two.
const WINDOW_LOG: u32 = 23;
/// Room for all unpacked bodies that are at work, in KiB.
const ROOM_KIB: usize = 128 * 1024;
/// Room that the largest body takes while it is unpacked, in KiB: a buffer that grows is half empty at times.
const UNPACKING_KIB: u32 = 16 * 1024;

/// Reads bodies, packed or not. Cheap to clone.
#[derive(Clone)]
pub(super) struct Unpacker(Arc<Semaphore>);

/// A body as it was before it was packed, with the room that it takes.
pub(super) struct Unpacked {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Deref for Unpacked {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB)))
    }

    /// The body: 415 for a coding that is not known, 400 when it cannot be unpacked, 413 when it is too large before or
    /// after.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Unpacked, Problem> {
        let coding = Coding::of(headers)?;
        let packed = read_packed(headers, body, MAX_INGEST_BYTES).await?;
        let Some(coding) = coding else { return Ok(Unpacked { bytes: packed, _room: None }) };
        let room = Arc::clone(&self.0).acquire_many_owned(UNPACKING_KIB).await;
        let mut room = room.map_err(|closed| Problem::internal(&closed))?;
        // The room goes with the work, which goes on when nobody waits for it any more.
        let work = tokio::task::spawn_blocking(move || {
            let bytes = unpack(coding, &packed)?;
            let kept = room.split(bytes.len().div_ceil(1024));
            Ok(Unpacked { bytes: bytes.into(), _room: kept })
        });
        work.await.map_err(|panicked| Problem::internal(&panicked))?
    }
}

fn unpack(coding: Coding, packed: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let read = match coding {
        Coding::Gzip => bounded(MultiGzDecoder::new(packed), &mut bytes),
        Coding::Zstd => zstd_decoder(packed).and_then(|decoder| bounded(decoder, &mut bytes)),
    };
    if bytes.len() > MAX_UNPACKED_BYTES {
        let detail = format!("The body unpacks to more than {MAX_UNPACKED_BYTES} bytes.");
        return Err(Problem::too_large(detail));
    }
    if packed.is_empty() || read.is_err() {
        let window = if coding == Coding::Zstd { ", or needs a window of more than 8 MiB" } else { "" };
        let detail = format!("The body is not {}, or ends too soon{window}.", coding.name());
        return Err(Problem::malformed(Code::MalformedEncoding, detail));
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

fn zstd_decoder(packed: &[u8]) -> io::Result<zstd::stream::read::Decoder<'static, &[u8]>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(decoder)
}

/// Reads one byte more than may be, at most.
fn bounded(decoder: impl Read, bytes: &mut Vec<u8>) -> io::Result<usize> {
    decoder.take(MAX_UNPACKED_BYTES as u64 + 1).read_to_end(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).unwrap()
    }

    /// The length of what comes out, or the status of the refusal.
    fn outcome(coding: Coding, packed: &[u8]) -> Result<usize, u16> {
        unpack(coding, packed).map(|bytes| bytes.len()).map_err(|refused| refused.status().as_u16())
    }

    #[test]
    fn what_is_whole_comes_out_as_it_was() {
        let text = b"[{}]".repeat(1_000);
        for packed in [gzip(&text), [gzip(&text[..10]), gzip(b""), gzip(&text[10..])].concat()] {
            assert_eq!(unpack(Coding::Gzip, &packed).unwrap(), text);
        }
        for packed in [zstd(&text), [zstd(&text[..10]), zstd(b""), zstd(&text[10..])].concat()] {
            assert_eq!(unpack(Coding::Zstd, &packed).unwrap(), text);
        }
        let largest = vec![b' '; MAX_UNPACKED_BYTES];
        assert_eq!(outcome(Coding::Gzip, &gzip(&largest)), Ok(MAX_UNPACKED_BYTES));
        assert_eq!(outcome(Coding::Zstd, &zstd(&largest)), Ok(MAX_UNPACKED_BYTES));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut bomb = vec![b' '; MAX_UNPACKED_BYTES + 1];
        assert_eq!(outcome(Coding::Gzip, &gzip(&bomb)), Err(413));
        assert_eq!(outcome(Coding::Zstd, &zstd(&bomb)), Err(413));
        bomb.resize(64 * MAX_UNPACKED_BYTES, b' ');
        let (gzip, zstd) = (gzip(&bomb), zstd(&bomb));
        drop(bomb);
        assert!(gzip.len() < 1024 * 1024 && zstd.len() < 64 * 1024);
        assert_eq!(outcome(Coding::Gzip, &gzip), Err(413));
        assert_eq!(outcome(Coding::Gzip, &gzip.repeat(4)), Err(413));
        assert_eq!(outcome(Coding::Zstd, &zstd), Err(413));
        assert_eq!(outcome(Coding::Zstd, &zstd.repeat(4)), Err(413));
    }

    /// A sender that hangs up would have as much unpacked at the same time as it likes.
    #[test]
    fn the_room_of_a_body_is_taken_until_the_work_ends() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let unpacker = Unpacker::new();
            let (go_on, wait) = std::sync::mpsc::channel::<()>();
            // The only thread for such work has something else to do.
            let busy = tokio::task::spawn_blocking(move || wait.recv());
            let mut headers = HeaderMap::new();
            headers.insert("content-encoding", "gzip".parse().unwrap());
            let mut reading = Box::pin(unpacker.read(&headers, gzip(b"[{}]").into()));
            while unpacker.0.available_permits() == ROOM_KIB {
                assert!(futures_util::poll!(reading.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            drop(reading);
            tokio::task::yield_now().await;
            assert_eq!(unpacker.0.available_permits(), ROOM_KIB - UNPACKING_KIB as usize);
            go_on.send(()).unwrap();
            busy.await.unwrap().unwrap();
            let bound = std::time::Duration::from_secs(10);
            let all = unpacker.0.acquire_many(u32::try_from(ROOM_KIB).unwrap());
            assert!(tokio::time::timeout(bound, all).await.is_ok_and(|all| all.is_ok()));
        });
    }

    #[test]
    fn what_is_cut_damaged_or_something_else_is_malformed() {
        let text = b"{\"id\":\"1\"}".repeat(100);
        for (coding, packed) in [(Coding::Gzip, gzip(&text)), (Coding::Zstd, zstd(&text))] {
            for length in 0..packed.len() {
                assert_eq!(outcome(coding, &packed[..length]), Err(400), "{coding:?} cut at {length}");
            }
            let mut damaged = packed.clone();
            let middle = packed.len() / 2;
            damaged[middle] ^= 0xff;
            assert_ne!(unpack(coding, &damaged).ok(), Some(text.clone()), "{coding:?}");
            let garbage = [packed.as_slice(), b"and more"].concat();
            for other in [b"plain".as_slice(), b"[]", &text, b"\x1f\x8b", &garbage] {
                assert_eq!(outcome(coding, other), Err(400), "{coding:?} {other:?}");
            }
        }
        assert_eq!(outcome(Coding::Gzip, &zstd(&text)), Err(400));
        assert_eq!(outcome(Coding::Zstd, &gzip(&text)), Err(400));
    }

    #[test]
    fn a_window_is_no_larger_than_senders_may_ask_for() {
        for (window_log, expected) in [(23, Ok(4)), (24, Err(400)), (27, Err(400))] {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
            encoder.long_distance_matching(true).unwrap();
            encoder.window_log(window_log).unwrap();
            encoder.write_all(b"[{}]").unwrap();
            let packed = encoder.finish().unwrap();
            assert_eq!(outcome(Coding::Zstd, &packed), expected, "{window_log}");
        }
    }
}
