//! Packed pieces: independent zstd frames of 1 MiB of text each, and a table by which a reader finds any of them.
//!
//! It is zstd's seekable format, so `zstdcat`, `zstdgrep` and `zstdless` read it, too: behind the frames stands a frame
//! that they skip, with the packed and the plain length of each one, their number and a magic number.
//! Each frame has a checksum.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use zstd::bulk::{Compressor, Decompressor};

use crate::durable::{self, Prepared};
use crate::error::{At, Result, StorageError};
use crate::lock::Fence;

/// Text of a frame, in bytes; the last one has what is left.
pub(super) const FRAME_BYTES: usize = 1 << 20;
/// How hard it is packed: what comes faster than a disk writes.
const ZSTD_LEVEL: i32 = 3;
/// A packed frame is never much longer than its text.
const PACKED_BYTES_MAX: u64 = 2 * FRAME_BYTES as u64;
/// What skippable frames begin with; the last digit is that of the seekable format.
const SKIPPABLE: u32 = 0x184D_2A5E;
/// What the table ends with.
const SEEKABLE: u32 = 0x8F92_EAB1;
/// Number of frames, flags, magic number.
const FOOTER_BYTES: u64 = 9;
/// Magic number and length of the table's frame.
const HEADER_BYTES: u64 = 8;
/// Two lengths.
const ENTRY_BYTES: usize = 8;
/// Entries of a table that are read at once.
const ENTRIES: usize = 1 << 12;

/// Packs a file and gives the result its name, unless `stop` says that there is no time; false then.
///
/// # Errors
/// When reading or writing fails, or the run has another owner.
pub(crate) fn pack(plain: &Path, to: &Path, fence: &Fence, stop: &AtomicBool) -> Result<bool> {
    let file = durable::open_read(plain)?;
    let next = Prepared::new(to)?;
    let mut compressor = Compressor::new(ZSTD_LEVEL).at("pack", plain)?;
    compressor.include_checksum(true).at("pack", plain)?;
    let (mut read, mut written) = (0, 0);
    let mut table = Vec::new();
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let text = durable::read_at(&file, plain, read, FRAME_BYTES)?;
        if text.is_empty() {
            break;
        }
        let frame = compressor.compress(&text).at("pack", plain)?;
        durable::write_at(&next.file, &next.tmp, &frame, written)?;
        for length in [frame.len(), text.len()] {
            table.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
        read += text.len() as u64;
        written += frame.len() as u64;
    }
    let frames = u32::try_from(table.len() / ENTRY_BYTES).unwrap_or(u32::MAX);
    let length = table.len() as u64 + FOOTER_BYTES;
    let mut end = SKIPPABLE.to_le_bytes().to_vec();
    end.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    end.extend_from_slice(&table);
    end.extend_from_slice(&frames.to_le_bytes());
    end.push(0);
    end.extend_from_slice(&SEEKABLE.to_le_bytes());
    durable::write_at(&next.file, &next.tmp, &end, written)?;
    next.publish(Some(fence))?;
    Ok(true)
}

/// A packed piece that is open for reading at any place.
pub(super) struct Packed {
    path: PathBuf,
    file: File,
    /// Where each frame begins in the file, and where the last one ends.
    starts: Vec<u64>,
    /// Bytes of text.
    length: u64,
    decompressor: Decompressor<'static>,
    /// The frame that was read last.
    last: Option<(usize, Vec<u8>)>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Packed {
    /// Opens a piece of `length` bytes of text.
    ///
    /// # Errors
    /// When it can't be read, or its table says something else than its name and its length.
    pub(super) fn open(path: &Path, length: u64) -> Result<Self> {
        let file = durable::open_read(path)?;
        let bytes = file.metadata().at("stat", path)?.len();
        let starts = read_table(&file, path, bytes, length)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            starts,
            length,
            decompressor: Decompressor::new().at("unpack", path)?,
            last: None,
        })
    }

    /// At most `max` bytes of text from `offset` on.
    ///
    /// # Errors
    /// When it can't be read or is damaged.
    pub(super) fn read_at(&mut self, offset: u64, max: usize) -> Result<Vec<u8>> {
        let end = offset.saturating_add(max as u64).min(self.length);
        let mut text = Vec::with_capacity(usize::try_from(end.saturating_sub(offset)).unwrap_or(0));
        let mut at = offset;
        while at < end {
            let frame = usize::try_from(at / FRAME_BYTES as u64).unwrap_or(usize::MAX);
            let within = usize::try_from(at % FRAME_BYTES as u64).unwrap_or(0);
            let bytes = self.frame(frame)?;
            let rest = usize::try_from(end - at).unwrap_or(usize::MAX);
            let taken = &bytes[within..bytes.len().min(within.saturating_add(rest))];
            text.extend_from_slice(taken);
            at += taken.len() as u64;
        }
        Ok(text)
    }

    fn frame(&mut self, n: usize) -> Result<&[u8]> {
        if self.last.as_ref().is_none_or(|(known, _)| *known != n) {
            let (from, to) = (self.starts[n], self.starts[n + 1]);
            let packed = usize::try_from(to - from).unwrap_or(0);
            let packed = durable::read_at(&self.file, &self.path, from, packed)?;
            let before = n as u64 * FRAME_BYTES as u64;
            let expected = (self.length - before).min(FRAME_BYTES as u64);
            let text = self.decompressor.decompress(&packed, FRAME_BYTES);
            let text = text.map_err(|e| damaged(&self.path, from, &e.to_string()))?;
            if text.len() as u64 != expected {
                let what = format!(
                    "a frame has {} bytes of text instead of {expected}",
                    text.len()
                );
                return Err(damaged(&self.path, from, &what));
            }
            self.last = Some((n, text));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, text)| text))
    }
}

/// Reads all of a packed piece, so that any damage is told.
///
/// # Errors
/// When it can't be read or is damaged.
pub(crate) fn check(path: &Path, length: u64) -> Result<()> {
    let mut packed = Packed::open(path, length)?;
    (0..packed.starts.len() - 1).try_for_each(|n| packed.frame(n).map(drop))
}

/// Where the frames begin; every length is checked against what is there before anything of it is believed.
fn read_table(file: &File, path: &Path, bytes: u64, length: u64) -> Result<Vec<u64>> {
    let wrong = |what: &str| damaged(path, bytes.saturating_sub(FOOTER_BYTES), what);
    let u32_at = |from: &[u8], at: usize| {
        let word = from.get(at..at + 4).and_then(|w| w.try_into().ok());
        word.map_or(0, u32::from_le_bytes)
    };
    let footer_at = bytes.saturating_sub(FOOTER_BYTES);
    let footer = durable::read_at(file, path, footer_at, 9)?;
    if footer.len() != 9 || u32_at(&footer, 5) != SEEKABLE || footer[4] != 0 {
        return Err(wrong("it does not end with a table of its frames"));
    }
    let frames = u64::from(u32_at(&footer, 0));
    if frames != length.div_ceil(FRAME_BYTES as u64) {
        return Err(wrong(
            "its table has another number of frames than its name says",
        ));
    }
    let table_bytes = HEADER_BYTES + frames * ENTRY_BYTES as u64 + FOOTER_BYTES;
    let Some(table_at) = bytes.checked_sub(table_bytes) else {
        return Err(wrong("its table is longer than the file"));
    };
    let header = durable::read_at(file, path, table_at, 8)?;
    if u32_at(&header, 0) != SKIPPABLE
        || u64::from(u32_at(&header, 4)) + HEADER_BYTES != table_bytes
    {
        return Err(wrong("its table does not begin as one"));
    }
    let mut starts = vec![0];
    let (mut end, mut rest) = (0, length);
    // Piece by piece: what a hole in the file claims to be is not read as a whole.
    while rest > 0 {
        let at = table_at + HEADER_BYTES + (starts.len() as u64 - 1) * ENTRY_BYTES as u64;
        let left = usize::try_from(rest.div_ceil(FRAME_BYTES as u64)).unwrap_or(usize::MAX);
        let entries = durable::read_at(file, path, at, left.min(ENTRIES) * ENTRY_BYTES)?;
        if entries.len() < ENTRY_BYTES {
            return Err(wrong("its table ends early"));
        }
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let (packed, text) = (u64::from(u32_at(entry, 0)), u64::from(u32_at(entry, 4)));
            if packed > PACKED_BYTES_MAX || text != rest.min(FRAME_BYTES as u64) {
                return Err(wrong("its table has impossible lengths"));
            }
            rest -= text;
            end += packed;
            starts.push(end);
        }
    }
    if end != table_at {
        return Err(wrong("its frames do not end where its table begins"));
    }
    Ok(starts)
}

fn damaged(path: &Path, offset: u64, what: &str) -> StorageError {
    StorageError::Damaged {
        path: path.to_owned(),
        offset,
        what: what.to_owned(),
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "files are made and damaged on purpose"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::RunDir;
    use crate::lock::OwnerLock;

    /// A run's folder with a packed text in it.
    fn packed(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let tmp = tempfile::tempdir().unwrap();
        let lock = OwnerLock::take(&RunDir::at(tmp.path())).unwrap();
        let (plain, to) = (tmp.path().join("plain"), tmp.path().join("plain.zst"));
        std::fs::write(&plain, text).unwrap();
        let stop = AtomicBool::new(true);
        assert!(!pack(&plain, &to, &lock.fence(), &stop).unwrap() && !to.exists());
        assert!(pack(&plain, &to, &lock.fence(), &AtomicBool::new(false)).unwrap());
        (tmp, to)
    }

    fn text(length: usize) -> Vec<u8> {
        let byte = |n: usize| u8::try_from((n / 7 + n / 9000) % 251).unwrap();
        (0..length).map(byte).collect()
    }

    #[test]
    fn any_part_of_a_packed_text_reads_back_and_zstd_reads_all_of_it() {
        let text = text(2 * FRAME_BYTES + 4_321);
        let (_tmp, path) = packed(&text);
        check(&path, text.len() as u64).unwrap();
        assert_eq!(zstd::decode_all(File::open(&path).unwrap()).unwrap(), text);
        let mut packed = Packed::open(&path, text.len() as u64).unwrap();
        for (at, max) in [
            (0, 10),
            (0, text.len()),
            (FRAME_BYTES - 1, 2),
            (FRAME_BYTES, FRAME_BYTES + 1),
            (5, 2 * FRAME_BYTES),
            (text.len() - 1, 100),
            (text.len(), 100),
            (text.len() + 5, 100),
        ] {
            let expected = &text[at.min(text.len())..(at + max).min(text.len())];
            assert!(
                packed.read_at(at as u64, max).unwrap() == expected,
                "{at} {max}"
            );
        }
    }

    #[test]
    fn a_packed_text_that_is_cut_longer_or_another_one_is_damaged() {
        let text = text(FRAME_BYTES + 100);
        let (_tmp, path) = packed(&text);
        let whole = std::fs::read(&path).unwrap();
        let length = text.len() as u64;
        for wrong in [
            0,
            1,
            length - 1,
            length + 1,
            FRAME_BYTES as u64,
            u64::MAX / 2,
        ] {
            Packed::open(&path, wrong).unwrap_err();
        }
        for cut in [0, 1, 8, 9, 25, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            check(&path, length).unwrap_err();
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        check(&path, length).unwrap_err();
    }

    #[test]
    fn a_table_that_is_a_hole_of_a_file_costs_nothing() {
        use std::os::unix::fs::FileExt;
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("piece");
        let file = File::create(&path).unwrap();
        let frames = (1_u32 << 29) - 2;
        let table = frames * 8 + 9;
        let end = HEADER_BYTES + u64::from(table);
        let header = [SKIPPABLE.to_le_bytes(), table.to_le_bytes()].concat();
        let footer = [&frames.to_le_bytes()[..], &[0], &SEEKABLE.to_le_bytes()].concat();
        file.set_len(end).unwrap();
        file.write_all_at(&header, 0).unwrap();
        file.write_all_at(&footer, end - FOOTER_BYTES).unwrap();
        let length = u64::from(frames) * FRAME_BYTES as u64;
        let start = std::time::Instant::now();
        let refused = Packed::open(&path, length).unwrap_err();
        assert!(refused.to_string().contains("impossible"), "{refused}");
        // Reading four GiB takes longer.
        assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn changed_bytes_of_a_packed_text_are_told_or_change_nothing(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), near_end: bool
        ) {
            let text = text(3_000);
            let (_tmp, path) = packed(&text);
            let mut bytes = std::fs::read(&path).unwrap();
            let last = if near_end { 33 } else { bytes.len() };
            for (at, byte) in &changes {
                let at = bytes.len() - 1 - at.index(last);
                bytes[at] = *byte;
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(mut packed) = Packed::open(&path, text.len() as u64)
                && let Ok(read) = packed.read_at(0, text.len())
            {
                prop_assert_eq!(read, text);
            }
        }
    }
}
