//! What a process left for its owner: files of its spool, and the ring in its memory.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use expman_actors::ring::layout;
use expman_actors::ring::leftover::Leftover;
use expman_model::Record;
use expman_storage::RunDir;
use expman_storage::spool::{SpoolReader, files};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::folder;
use crate::input::Input;

/// Bytes in front of a frame's records: length, checksum, first and last number.
const FRAME_HEADER_BYTES: usize = 24;
/// Bytes in front of the header's JSON.
const PREFIX_BYTES: usize = 16;

/// A spool file, as it is or with its checksums set right: every frame that is told is whole and in order.
pub fn file(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut spool = if input.byte().is_multiple_of(2) {
        input.rest().to_vec()
    } else {
        mended(input.rest())
    };
    spool.truncate(1 << 20);
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path());
    std::fs::create_dir_all(dir.spool()).expect("a folder in a temporary folder");
    folder::put(&dir.spool().join("r1-0000000000000002.1.spool"), &spool);
    for found in files(&dir).expect("list the spool") {
        let Ok(mut reader) = SpoolReader::open(&found.path) else {
            continue;
        };
        let mut told = PREFIX_BYTES;
        while let Some(frame) = reader.next().expect("read a file that is there") {
            assert!(frame.first_seq <= frame.last_seq);
            told += FRAME_HEADER_BYTES + frame.records.len();
        }
        assert!(told <= spool.len(), "more is told than there is");
        assert!(
            reader.next().expect("read again").is_none(),
            "it ends twice"
        );
    }
}

/// The ring of a process that died at any moment, or wrote what it liked: 29 bytes choose its header.
pub fn ring(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    let mut header = vec![0; layout::HEADER_BYTES];
    if choice != 1 {
        header[..8].copy_from_slice(layout::MAGIC);
    }
    let capacity = input.take(4);
    let (head, length) = (input.take(4), input.take(4));
    for (at, field) in [
        (layout::CAPACITY_AT, capacity),
        (layout::PLACE_AT, length),
        (layout::PLACE_AT + 4, head),
        (layout::LAST_SEQ_AT, input.take(8)),
        (layout::FIRST_UNTOLD_AT, input.take(8)),
    ] {
        header[at..at + field.len()].copy_from_slice(field);
    }
    let memory = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let mut memory = File::from(memory.expect("memory"));
    memory.write_all(&header).expect("write to memory");
    memory.write_all(input.rest()).expect("write to memory");
    // A ring is mostly empty: as large as it claims, within reason.
    let claimed = capacity
        .try_into()
        .map_or(0, u32::from_le_bytes)
        .min(1 << 20);
    let length = layout::HEADER_BYTES as u64 + u64::from(claimed);
    if length > memory.metadata().expect("stat memory").len() && choice != 2 {
        memory.set_len(length).expect("grow memory");
    }
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW).expect("seal memory");
    let Ok(left) = Leftover::read(memory.as_fd()) else {
        return;
    };
    let (mut rest, mut last) = (&left.records[..], 0);
    while !rest.is_empty() {
        let (record, used) = Record::decode(rest).expect("whole records");
        assert!(record.seq > last, "numbers rise");
        (last, rest) = (record.seq, &rest[used..]);
    }
    assert!(left.last_seq >= last);
    if let Some((from, to, count)) = left.gap {
        assert!(
            from > last && from <= to && to <= left.last_seq,
            "a gap that overlaps"
        );
        assert!(count <= to - from + 1, "more is missing than fits");
    }
}

/// Sets the checksums of the header and of every frame whose length is possible.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let word = |out: &[u8], at: usize| {
        let bytes = out.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let set = |out: &mut Vec<u8>, at: usize, crc: u32| {
        out[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    };
    let Some(json) =
        word(&out, 8).and_then(|n| out.get(PREFIX_BYTES..PREFIX_BYTES.checked_add(n)?))
    else {
        return out;
    };
    let (crc, mut at) = (crc32c::crc32c(json), PREFIX_BYTES + json.len());
    set(&mut out, 12, crc);
    out[..8].copy_from_slice(b"EXPSPOOL");
    while let Some(length) = word(&out, at) {
        let Some(content) = length
            .checked_add(at + FRAME_HEADER_BYTES)
            .and_then(|end| out.get(at + 8..end))
        else {
            break;
        };
        let crc = crc32c::crc32c(content);
        set(&mut out, at + 4, crc);
        at += FRAME_HEADER_BYTES + length;
    }
    out
}
