//! Unpacking of gzip with a bound, in the place of librdkafka's own, which has none: a batch of 0.9 MB can hold 900 MiB.
//!
//! librdkafka calls `rd_gz_decompress`; the linker gives it the function of this file instead (`--wrap`, see build.rs). A batch
//! beyond the bound is to librdkafka one that does not unpack, so its partition stands and is named. zstd is bounded by
//! librdkafka (`receive.message.max.bytes`, 100 MB), snappy and lz4 by their form (some 21 and 255 times their bytes). Must
//! not: be used where librdkafka is a shared library; there its own function stays.

#![expect(unsafe_code, reason = "stands in for a function of librdkafka's, and hands it memory to free")]

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use flate2::read::{GzDecoder, ZlibDecoder};

/// Bytes that a batch may unpack to (inclusive), for every consumer of the process.
static BYTES_MAX: AtomicU64 = AtomicU64::new(128 << 20);

/// Batches beyond the bound that are remembered, by the bytes that they have as they are packed; the newest stay.
const REMEMBERED_MAX: usize = 64;
static OVERSIZED: Mutex<VecDeque<usize>> = Mutex::new(VecDeque::new());

fn remember(packed_bytes: usize) {
    let mut remembered = OVERSIZED.lock().unwrap_or_else(PoisonError::into_inner);
    if remembered.contains(&packed_bytes) {
        return;
    }
    if remembered.len() >= REMEMBERED_MAX {
        remembered.pop_front();
    }
    remembered.push_back(packed_bytes);
}

/// Whether librdkafka's words about a batch of gzip's that it could not unpack are about one that is beyond the bound: then
/// better words. It names the batch by its packed bytes, which is how such batches are remembered.
pub(super) fn oversized(reason: &str) -> Option<String> {
    let packed_bytes = reason.strip_prefix("Decompression (codec 0x1)")?.split(" of ").last()?.split(' ').next()?;
    let packed_bytes: usize = packed_bytes.parse().ok()?;
    let is_remembered = OVERSIZED.lock().unwrap_or_else(PoisonError::into_inner).contains(&packed_bytes);
    let bytes_max = BYTES_MAX.load(Ordering::Relaxed);
    is_remembered
        .then(|| format!("a batch of {packed_bytes} bytes unpacks to more than {bytes_max} (ingest.batch-bytes-max)"))
}

/// Sets that bound.
pub fn set_batch_bytes_max(bytes: u64) {
    // So that the function is part of every program, whatever the order in which the linker meets those who call it.
    std::hint::black_box(__wrap_rd_gz_decompress as *const () as usize);
    BYTES_MAX.store(bytes, Ordering::Relaxed);
}

/// Gzip or zlib, as librdkafka takes both; one member of gzip's.
fn unpacked(packed: &[u8]) -> Box<dyn Read + '_> {
    if packed.starts_with(&[0x1f, 0x8b]) {
        Box::new(GzDecoder::new(packed))
    } else {
        Box::new(ZlibDecoder::new(packed))
    }
}

/// To how many bytes it unpacks; None where it does not, or to more than `max`, which is remembered.
fn measured(packed: &[u8], max: u64) -> Option<usize> {
    let bytes = io::copy(&mut unpacked(packed).take(max.saturating_add(1)), &mut io::sink()).ok()?;
    if bytes > max {
        remember(packed.len());
        return None;
    }
    usize::try_from(bytes).ok()
}

/// What `rd_gz_decompress` does: answers with memory of `malloc`'s, which librdkafka frees, one byte longer than what was
/// unpacked, and its length; null where it does not unpack, or is too much.
///
/// # Safety
/// `packed` has `packed_bytes` bytes, and `bytes` can be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_gz_decompress(
    packed: *const c_void,
    packed_bytes: c_int,
    bytes: *mut u64,
) -> *mut c_void {
    let none = std::ptr::null_mut();
    let Ok(packed_bytes) = usize::try_from(packed_bytes) else { return none };
    if packed.is_null() || bytes.is_null() {
        return none;
    }
    // SAFETY: as the caller promises.
    let packed = unsafe { std::slice::from_raw_parts(packed.cast::<u8>(), packed_bytes) };
    let Some(len) = measured(packed, BYTES_MAX.load(Ordering::Relaxed)) else { return none };
    // SAFETY: any size may be asked for.
    let memory = unsafe { libc::calloc(len + 1, 1) }.cast::<u8>();
    if memory.is_null() {
        return none;
    }
    // SAFETY: `len` bytes that were just given, all of them zero, and nobody else's.
    let room = unsafe { std::slice::from_raw_parts_mut(memory, len) };
    if unpacked(packed).read_exact(room).is_err() {
        // SAFETY: given above, and freed once.
        unsafe { libc::free(memory.cast()) };
        return none;
    }
    // SAFETY: as the caller promises.
    unsafe { *bytes = len as u64 };
    memory.cast()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    /// What librdkafka would get.
    fn through(packed: &[u8]) -> Option<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the bytes are alive; what is answered has `len` bytes, and is freed once.
        unsafe {
            let memory =
                __wrap_rd_gz_decompress(packed.as_ptr().cast(), packed.len().try_into().unwrap(), &raw mut len);
            if memory.is_null() {
                return None;
            }
            let unpacked = std::slice::from_raw_parts(memory.cast::<u8>(), len.try_into().unwrap()).to_vec();
            libc::free(memory);
            Some(unpacked)
        }
    }

    #[test]
    fn what_was_packed_comes_back_from_either_form() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(through(&gzip(&bytes)), Some(bytes.clone()));
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&bytes).unwrap();
        assert_eq!(through(&packed.finish().unwrap()), Some(bytes));
        assert_eq!(through(&gzip(b"")), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_gzip_or_is_cut_off_is_refused() {
        let packed = gzip(&[7; 10_000]);
        assert_eq!(through(b""), None);
        assert_eq!(through(b"neither"), None);
        assert_eq!(through(&packed[..packed.len() - 9]), None);
        assert_eq!(through(&packed[1..]), None);
    }

    #[test]
    fn the_bound_is_inclusive_and_nothing_is_taken_beyond_it() {
        let packed = gzip(&[0; 5_000]);
        assert_eq!((measured(&packed, 5_000), measured(&packed, 4_999)), (Some(5_000), None));
        // The bound that holds for the process.
        let packed = gzip(&vec![0; (128 << 20) + 1]);
        assert_eq!(through(&packed), None);
        let said = |bytes: usize| format!("Decompression (codec 0x1) of message at 7 of {bytes} bytes failed: bad");
        assert!(oversized(&said(packed.len())).is_some_and(|words| words.contains("ingest.batch-bytes-max")));
        assert_eq!(oversized(&said(packed.len() + 1)), None, "another one, that is spoiled");
        assert_eq!(oversized("anything else"), None);
    }
}
