//! The spool of a process: records that its owner has not written yet, in files that outlive both.
//!
//! `.expman/spool/r<rank>-<incarnation>.<number>.spool`: `magic | u32 length | u32 crc32c | JSON of the header`, then
//! frames `u32 length of the records | u32 crc32c | u64 first seq | u64 last seq | records`, little endian;
//! a checksum covers all that stands behind it in its part. Nothing is synced: the spool is for the death of
//! processes, not for a power cut. Whoever reads one treats the bytes as a stranger's.

mod read;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use expman_model::limits::SPOOL_FILE_BYTES;
use expman_model::{Incarnation, WriterId};
use serde::{Deserialize, Serialize};

use self::read::{Read, read_frame};
pub use self::read::{SpoolFrame, SpoolReader};
use crate::error::{At, Result, StorageError};
use crate::layout::{RunDir, names};

/// The format that this version writes.
pub const SPOOL_FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"EXPSPOOL";
/// Bytes in front of the header's JSON.
const PREFIX_BYTES: usize = 16;
/// Bytes in front of a frame's records.
const FRAME_HEADER_BYTES: usize = 24;
/// A header that claims more is damaged.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Whose records they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolHeader {
    /// See [`SPOOL_FORMAT`].
    pub format: u32,
    /// Who logged them.
    #[serde(flatten)]
    pub id: WriterId,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// The launch that it belongs to.
    pub launch_key: String,
}

/// Where one or more frames of a [`Spool`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    file: u64,
    offset: u64,
    bytes: u64,
}

impl Slot {
    /// Both as one, when they lie behind each other.
    #[must_use]
    pub fn joined(self, next: Self) -> Option<Self> {
        (self.file == next.file && self.offset + self.bytes == next.offset).then_some(Self {
            bytes: self.bytes + next.bytes,
            ..self
        })
    }
}

/// The writer of one process's spool. Dropping it keeps the files.
#[derive(Debug)]
pub struct Spool {
    dir: RunDir,
    header: SpoolHeader,
    /// Oldest first; the last one is written to. Kept open, so that a folder that was moved loses nothing.
    files: VecDeque<Open>,
    next_number: u64,
    bytes_max: u64,
}

#[derive(Debug)]
struct Open {
    number: u64,
    path: PathBuf,
    file: File,
    /// Length up to the last whole frame.
    end: u64,
    last_seq: u64,
    /// What stands behind the last whole frame could not be cut off: nothing may follow it.
    is_torn: bool,
}

impl Spool {
    /// A spool of at most `bytes_max` bytes; no file is made before there is something to write.
    #[must_use]
    pub const fn new(dir: RunDir, header: SpoolHeader, bytes_max: u64) -> Self {
        Self {
            dir,
            header,
            files: VecDeque::new(),
            next_number: 1,
            bytes_max,
        }
    }

    /// Writes one frame behind the others; `None` when the spool is full.
    ///
    /// # Errors
    /// When it can't be written; what was spooled before stays readable.
    pub fn append(
        &mut self,
        first_seq: u64,
        last_seq: u64,
        records: &[u8],
    ) -> Result<Option<Slot>> {
        let bytes = (FRAME_HEADER_BYTES + records.len()) as u64;
        if self.bytes() + bytes > self.bytes_max {
            return Ok(None);
        }
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + records.len());
        frame.extend_from_slice(
            &u32::try_from(records.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&first_seq.to_le_bytes());
        frame.extend_from_slice(&last_seq.to_le_bytes());
        frame.extend_from_slice(records);
        let crc = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        let fits = |open: &Open| !open.is_torn && open.end + bytes <= SPOOL_FILE_BYTES;
        if !self.files.back().is_some_and(fits) {
            let fresh = self.create()?;
            self.files.push_back(fresh);
        }
        let Some(open) = self.files.back_mut() else {
            return Ok(None);
        };
        if let Err(e) = open
            .file
            .write_all_at(&frame, open.end)
            .at("write", &open.path)
        {
            open.is_torn = open.file.set_len(open.end).is_err();
            return Err(e);
        }
        let slot = Slot {
            file: open.number,
            offset: open.end,
            bytes,
        };
        open.end += bytes;
        open.last_seq = last_seq;
        Ok(Some(slot))
    }

    fn create(&mut self) -> Result<Open> {
        let folder = self.dir.spool();
        // Never the folders above it: a run that was deleted must not come back as an empty one.
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(e).at("create folder", &folder);
            }
            _ => {}
        }
        let number = self.next_number;
        let path = folder.join(file_name(self.header.id, number));
        let json = serde_json::to_vec(&self.header).unwrap_or_default();
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(&json).to_le_bytes());
        head.extend_from_slice(&json);
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(0o640)
            .open(&path)
            .at("create", &path)?;
        self.next_number += 1;
        if let Err(e) = file.write_all_at(&head, 0).at("write", &path) {
            remove(&path);
            return Err(e);
        }
        Ok(Open {
            number,
            path,
            file,
            end: head.len() as u64,
            last_seq: 0,
            is_torn: false,
        })
    }

    /// The records at a slot.
    ///
    /// # Errors
    /// When the file can't be read or is not what was written.
    pub fn read(&self, slot: Slot) -> Result<Vec<u8>> {
        let gone = || StorageError::Damaged {
            path: self.dir.spool(),
            offset: slot.offset,
            what: format!("file {} of {} was released", slot.file, self.header.id),
        };
        let open = self
            .files
            .iter()
            .find(|open| open.number == slot.file)
            .ok_or_else(gone)?;
        let mut records = Vec::new();
        let mut offset = slot.offset;
        while offset < slot.offset + slot.bytes {
            match read_frame(&open.file, &open.path, offset)? {
                Read::Frame(frame) => {
                    offset += (FRAME_HEADER_BYTES + frame.records.len()) as u64;
                    records.extend_from_slice(&frame.records);
                }
                Read::End => return Err(damaged(&open.path, offset, "a frame is missing")),
                Read::Bad(what) => return Err(damaged(&open.path, offset, what)),
            }
        }
        Ok(records)
    }

    /// Deletes the files whose records are all durable.
    pub fn release(&mut self, durable_seq: u64) {
        let done = |open: &Open| open.last_seq <= durable_seq;
        while self.files.front().is_some_and(done)
            && let Some(open) = self.files.pop_front()
        {
            remove(&open.path);
        }
    }

    /// Bytes of the files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|open| open.end).sum()
    }

    /// Leaves no empty folder behind, when this was the last spool of the run.
    pub fn tidy(&self) {
        if self.files.is_empty() && self.next_number > 1 {
            let folder = self.dir.spool();
            if let Err(e) = fs::remove_dir(&folder) {
                tracing::debug!("{}: {e}", folder.display());
            }
        }
    }
}

fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        tracing::debug!("{}: {e}", path.display());
    }
}

fn file_name(id: WriterId, number: u64) -> String {
    format!("r{}-{}.{number}.spool", id.rank, id.incarnation)
}

fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> StorageError {
    StorageError::Damaged {
        path: path.to_owned(),
        offset,
        what: what.into(),
    }
}

/// A spool file by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpoolFile {
    /// Whose it says it is.
    pub id: WriterId,
    /// Its place among the files of this writer.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// Every spool file of a run, by writer and in the order in which each wrote them.
///
/// # Errors
/// When the folder can't be listed.
pub fn files(dir: &RunDir) -> Result<Vec<SpoolFile>> {
    let mut found = Vec::new();
    for (name, path) in names(&dir.spool())? {
        if let Some((id, number)) = parse_name(&name) {
            found.push(SpoolFile { id, number, path });
        }
    }
    found.sort();
    Ok(found)
}

fn parse_name(name: &str) -> Option<(WriterId, u64)> {
    let (who, number) = name
        .strip_prefix('r')?
        .strip_suffix(".spool")?
        .split_once('.')?;
    let (rank, incarnation) = who.split_once('-')?;
    let id = WriterId {
        rank: rank.parse().ok()?,
        incarnation: Incarnation(u64::from_str_radix(incarnation, 16).ok()?),
    };
    Some((id, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spool(dir: &RunDir, bytes_max: u64) -> Spool {
        fs::create_dir_all(dir.hidden()).unwrap();
        let header = SpoolHeader {
            format: SPOOL_FORMAT,
            id: WriterId {
                rank: 3,
                incarnation: Incarnation(0xabc),
            },
            host: "here".to_owned(),
            pid: 12,
            launch_key: "k".to_owned(),
        };
        Spool::new(dir.clone(), header, bytes_max)
    }

    fn read(path: &Path) -> Result<(Vec<SpoolFrame>, bool)> {
        let mut reader = SpoolReader::open(path)?;
        let mut frames = Vec::new();
        while let Some(frame) = reader.next()? {
            frames.push(frame);
        }
        assert_eq!(reader.next()?, None);
        Ok((frames, reader.problem().is_some()))
    }

    fn frame(first_seq: u64, last_seq: u64, records: &[u8]) -> SpoolFrame {
        SpoolFrame {
            first_seq,
            last_seq,
            records: records.to_vec(),
        }
    }

    /// A file of five frames, and what is in them.
    fn written(dir: &RunDir) -> (PathBuf, Vec<SpoolFrame>) {
        let mut spool = spool(dir, 1 << 20);
        let frames: Vec<_> = (1..6u8)
            .map(|n| frame(u64::from(n) * 10, u64::from(n) * 10 + 9, &vec![n; n.into()]))
            .collect();
        for f in &frames {
            spool.append(f.first_seq, f.last_seq, &f.records).unwrap();
        }
        (files(dir).unwrap()[0].path.clone(), frames)
    }

    #[test]
    fn what_was_spooled_is_read_back_by_slot_and_by_file() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path());
        let mut spool = spool(&dir, 1 << 20);
        assert!(
            files(&dir).unwrap().is_empty(),
            "nothing before the first frame"
        );
        let a = spool.append(1, 2, b"first").unwrap().unwrap();
        let b = spool.append(3, 3, b"second").unwrap().unwrap();
        assert_eq!(spool.read(a).unwrap(), b"first");
        assert_eq!(spool.read(a.joined(b).unwrap()).unwrap(), b"firstsecond");
        assert_eq!(b.joined(a), None);
        let found = files(&dir).unwrap();
        assert_eq!((found[0].id, found[0].number), (spool.header.id, 1));
        assert_eq!(
            SpoolReader::open(&found[0].path).unwrap().header(),
            &spool.header
        );
        let expected = vec![frame(1, 2, b"first"), frame(3, 3, b"second")];
        assert_eq!(read(&found[0].path).unwrap(), (expected, false));
        spool.release(2);
        assert_eq!(files(&dir).unwrap().len(), 1, "one record of it is needed");
        spool.release(3);
        assert!(files(&dir).unwrap().is_empty() && spool.bytes() == 0);
        assert!(spool.read(b).is_err());
        spool.tidy();
        assert!(!dir.spool().exists());
    }

    #[test]
    fn files_are_cut_at_their_size_and_together_bounded() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path());
        let mut spool = spool(&dir, 3 * SPOOL_FILE_BYTES);
        let records = vec![7; 6 << 20];
        let mut seq = 0;
        while spool.append(seq + 1, seq + 1, &records).unwrap().is_some() {
            seq += 1;
        }
        let found = files(&dir).unwrap();
        assert_eq!((seq, found.len()), (7, 4));
        let sizes = found.iter().map(|f| fs::metadata(&f.path).unwrap().len());
        assert!(sizes.clone().all(|n| n <= SPOOL_FILE_BYTES));
        assert_eq!(sizes.sum::<u64>(), spool.bytes());
        spool.release(4);
        assert_eq!(files(&dir).unwrap().len(), 2);
        assert!(spool.append(8, 8, &records).unwrap().is_some());
    }

    #[test]
    fn a_moved_folder_loses_nothing_and_a_deleted_one_does_not_come_back() {
        let tmp = tempfile::tempdir().unwrap();
        let (here, there) = (tmp.path().join("here"), tmp.path().join("there"));
        let mut spool = spool(&RunDir::at(&here), 1 << 20);
        let slot = spool.append(1, 1, b"one").unwrap().unwrap();
        fs::rename(&here, &there).unwrap();
        assert_eq!(spool.read(slot).unwrap(), b"one");
        spool.release(1);
        assert!(spool.append(2, 2, b"two").is_err());
        assert!(!here.exists());
    }

    #[test]
    fn a_file_cut_anywhere_gives_a_prefix() {
        let tmp = tempfile::tempdir().unwrap();
        let (path, frames) = written(&RunDir::at(tmp.path()));
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() as u64 {
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(length)
                .unwrap();
            if let Ok((read, _)) = read(&path) {
                assert!(
                    read.len() < frames.len() && frames.starts_with(&read),
                    "{length}"
                );
            }
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all_at(&whole, 0)
                .unwrap();
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_are_noticed_and_what_stands_in_front_of_them_is_kept(
            at in 0.0..1.0f64, noise in 1u8..
        ) {
            let tmp = tempfile::tempdir().unwrap();
            let (path, frames) = written(&RunDir::at(tmp.path()));
            let mut bytes = fs::read(&path).unwrap();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a small file")]
            let at = (at * bytes.len() as f64) as usize;
            bytes[at] ^= noise;
            File::options().write(true).open(&path).unwrap().write_all_at(&bytes, 0).unwrap();
            if let Ok((read, has_problem)) = read(&path) {
                prop_assert!(has_problem && read.len() < frames.len() && frames.starts_with(&read));
            }
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>, with_magic: bool) {
            let tmp = tempfile::tempdir().unwrap();
            let path = tmp.path().join("x");
            let mut all = if with_magic { MAGIC.to_vec() } else { Vec::new() };
            all.extend(bytes);
            File::create(&path).unwrap().write_all_at(&all, 0).unwrap();
            let _ignored = read(&path).is_ok();
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        let (path, _) = written(&RunDir::at(tmp.path()));
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(SpoolReader::open(&link).is_err());
        let pipe = tmp.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(SpoolReader::open(&pipe).is_err());
    }
}
