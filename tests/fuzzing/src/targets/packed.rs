//! A packed piece of a text, which other tools may write or damage.

use std::sync::LazyLock;

use expman_storage::text::{LogKind, LogLine};
use expman_storage::{RunDir, TextTail};
use zstd::bulk::Compressor;

use super::sum::changed;
use crate::folder;
use crate::input::Input;

/// Lines of the good text.
const LINES: usize = 40;

/// A text, and the piece that it is packed as.
static GOOD: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let line = |n| {
        format!(
            "[2026-01-01T00:00:00.000000Z] [rank {} out {n}] line {n}\n",
            n % 3
        )
    };
    let text = (0..LINES).map(line).collect::<String>().into_bytes();
    let piece = pack(&[&text]);
    (text, piece)
});

/// The first byte chooses what becomes of the rest: a file of any length of text as it is, or changes to a good one,
/// which must show or change nothing.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte().is_multiple_of(2) {
        let length = input.short() | usize::from(input.byte()) << 16;
        let (lines, told) = read(length.max(1), input.rest());
        let (again, told_again) = read(length.max(1), input.rest());
        assert_eq!((lines, told), (again, told_again), "it reads differently");
        return;
    }
    let (text, piece) = &*GOOD;
    let (lines, told) = read(text.len(), &changed(piece, input));
    if told == text.len() {
        let (good, _) = read(text.len(), piece);
        assert_eq!((good.len(), &lines), (LINES, &good), "a change that shows");
    } else {
        assert!(lines.is_empty(), "half a frame is told");
    }
}

/// The lines of a piece up to its first damage, and how far they reach.
fn read(length: usize, piece: &[u8]) -> (Vec<LogLine>, usize) {
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path());
    let name = format!("console-{:016x}-{length:016x}.log.zst", 0);
    folder::put(&dir.root().join(name), piece);
    let mut tail = TextTail::new(&dir, LogKind::Console, 0);
    let mut lines = Vec::new();
    let is_whole = loop {
        match tail.poll() {
            Ok(more) if more.is_empty() => break true,
            Ok(more) => lines.extend(more),
            Err(_) => break false,
        }
    };
    let told = usize::try_from(tail.offset()).expect("an offset");
    assert!(told <= length, "more is told than there is");
    assert!(!is_whole || told == length, "less is told than there is");
    for back in [0, 1, length as u64 / 2, u64::MAX] {
        drop(TextTail::near_end(&dir, LogKind::Console, back));
    }
    (lines, told)
}

/// Packs frames of text as the seekable format has it.
fn pack(frames: &[&[u8]]) -> Vec<u8> {
    let mut compressor = Compressor::new(3).expect("zstd");
    compressor.include_checksum(true).expect("zstd");
    let (mut out, mut table) = (Vec::new(), Vec::new());
    let word = |n: usize| u32::try_from(n).expect("a short length").to_le_bytes();
    for text in frames {
        let frame = compressor.compress(text).expect("zstd");
        table.extend_from_slice(&[word(frame.len()), word(text.len())].concat());
        out.extend(frame);
    }
    out.extend_from_slice(&0x184D_2A5E_u32.to_le_bytes());
    out.extend_from_slice(&word(table.len() + 9));
    out.extend(table);
    out.extend_from_slice(&word(frames.len()));
    out.push(0);
    out.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    out
}
