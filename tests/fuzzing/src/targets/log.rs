//! A commit log, as a crash or a stranger leaves it.

use expman_storage::wal::{Frame, WalReader};

use crate::folder;
use crate::input::Input;

/// Bytes in front of a payload: magic, length, checksum.
const HEADER_BYTES: usize = 12;

/// An even first byte takes the log as it is, an odd one with its checksums set right.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let log = chosen(input.byte(), input.rest());
    let folder = folder::fresh();
    let path = folder.path().join("x.wal");
    folder::put(&path, &log);
    let first = read(&path, log.len());
    assert_eq!(first, read(&path, log.len()), "a second reading differs");
}

/// The log, with right checksums if chosen.
pub fn chosen(choice: u8, bytes: &[u8]) -> Vec<u8> {
    if choice.is_multiple_of(2) {
        bytes.to_vec()
    } else {
        mended(bytes)
    }
}

/// How far the log reads, the rows on the way, and why it ends.
fn read(path: &std::path::Path, length: usize) -> (u64, usize, String) {
    let mut reader = WalReader::open(path).expect("open a file that was just written");
    let mut rows = 0;
    loop {
        let before = reader.offset();
        match reader.next_frame().expect("read a file that is there") {
            Ok(frame) => {
                assert!(reader.offset() > before, "a frame without bytes");
                if let Frame::Batch(batch) = frame {
                    rows += batch.rows.len();
                    assert!((batch.writer as usize) < reader.writers().len());
                    assert_eq!(batch.rows.iter().count(), batch.rows.len());
                }
            }
            Err(end) => {
                assert_eq!(reader.offset(), before, "it moved over what is no frame");
                assert!(before <= length as u64, "it read behind the end");
                return (before, rows, format!("{end:?}"));
            }
        }
    }
}

/// Sets magic and checksum of every frame whose length is possible.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 0;
    while let Some(header) = out.get(at..at + HEADER_BYTES) {
        let length: [u8; 4] = header[4..8].try_into().expect("four bytes");
        let body = at + HEADER_BYTES;
        let Some(payload) = body
            .checked_add(u32::from_le_bytes(length) as usize)
            .and_then(|end| out.get(body..end))
        else {
            break;
        };
        let end = body + payload.len();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&length), payload);
        out[at..at + 4].copy_from_slice(b"EXPW");
        out[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
    out
}
