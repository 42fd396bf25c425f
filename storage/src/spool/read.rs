//! Reading spool files, whose bytes may be anything.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use expman_model::limits::FRAME_BYTES_MAX;
use rustix::fs::OFlags;

use super::{
    FRAME_HEADER_BYTES, HEADER_BYTES_MAX, MAGIC, PREFIX_BYTES, SPOOL_FORMAT, SpoolHeader, damaged,
};
use crate::durable;
use crate::error::{At, Result, StorageError};

/// Whole records out of a spool file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolFrame {
    /// Sequence number of the first.
    pub first_seq: u64,
    /// Sequence number of the last.
    pub last_seq: u64,
    /// Their bytes; what they say was not looked at.
    pub records: Vec<u8>,
}

/// Reads a spool file from its front to its end or to the first frame that is no frame.
#[derive(Debug)]
pub struct SpoolReader {
    path: PathBuf,
    file: File,
    header: SpoolHeader,
    offset: u64,
    problem: Option<StorageError>,
}

pub(super) enum Read {
    Frame(SpoolFrame),
    End,
    Bad(String),
}

impl SpoolReader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When it can't be read, or is no spool file that this version understands.
    pub fn open(path: &Path) -> Result<Self> {
        // Neither through a link nor waiting at a pipe: the folder may be a stranger's.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .at("open", path)?;
        if !file.metadata().at("stat", path)?.is_file() {
            return Err(damaged(path, 0, "no regular file"));
        }
        let prefix = durable::read_at(&file, path, 0, PREFIX_BYTES)?;
        if prefix.len() < PREFIX_BYTES || !prefix.starts_with(MAGIC) {
            return Err(damaged(path, 0, "no spool file"));
        }
        let (length, crc) = (word(&prefix[8..]) as usize, word(&prefix[12..]));
        if length > HEADER_BYTES_MAX {
            return Err(damaged(path, 8, format!("a header of {length} bytes")));
        }
        let json = durable::read_at(&file, path, PREFIX_BYTES as u64, length)?;
        if json.len() < length || crc32c::crc32c(&json) != crc {
            return Err(damaged(path, 8, "the header is cut off or changed"));
        }
        let header: SpoolHeader =
            serde_json::from_slice(&json).map_err(|e| damaged(path, 16, e.to_string()))?;
        if header.format > SPOOL_FORMAT {
            return Err(StorageError::Format {
                path: path.to_owned(),
                found: header.format,
                known: SPOOL_FORMAT,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            offset: (PREFIX_BYTES + length) as u64,
            problem: None,
        })
    }

    /// Whose records they are.
    #[must_use]
    pub const fn header(&self) -> &SpoolHeader {
        &self.header
    }

    /// The next frame; `None` at the end, or in front of what is no whole frame: see [`SpoolReader::problem`].
    ///
    /// # Errors
    /// When reading fails.
    #[expect(
        clippy::should_implement_trait,
        reason = "it fails, and borrows nothing"
    )]
    pub fn next(&mut self) -> Result<Option<SpoolFrame>> {
        if self.problem.is_some() {
            return Ok(None);
        }
        match read_frame(&self.file, &self.path, self.offset)? {
            Read::Frame(frame) => {
                self.offset += (FRAME_HEADER_BYTES + frame.records.len()) as u64;
                Ok(Some(frame))
            }
            Read::End => Ok(None),
            Read::Bad(what) => {
                self.problem = Some(damaged(&self.path, self.offset, what));
                Ok(None)
            }
        }
    }

    /// Why the file ended before its end. A torn last frame is what a writer that was killed leaves.
    #[must_use]
    pub const fn problem(&self) -> Option<&StorageError> {
        self.problem.as_ref()
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn long(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

pub(super) fn read_frame(file: &File, path: &Path, offset: u64) -> Result<Read> {
    let head = durable::read_at(file, path, offset, FRAME_HEADER_BYTES)?;
    if head.is_empty() {
        return Ok(Read::End);
    }
    if head.len() < FRAME_HEADER_BYTES {
        return Ok(Read::Bad("a frame is cut off in its header".to_owned()));
    }
    let (length, crc) = (word(&head) as usize, word(&head[4..]));
    if length > FRAME_BYTES_MAX {
        return Ok(Read::Bad(format!("a frame of {length} bytes")));
    }
    let size = file.metadata().at("stat", path)?.len();
    if offset + (FRAME_HEADER_BYTES + length) as u64 > size {
        return Ok(Read::Bad("a frame is cut off".to_owned()));
    }
    let records = durable::read_at(file, path, offset + FRAME_HEADER_BYTES as u64, length)?;
    if crc32c::crc32c_append(crc32c::crc32c(&head[8..]), &records) != crc {
        return Ok(Read::Bad("a frame's checksum does not match".to_owned()));
    }
    let (first_seq, last_seq) = (long(&head[8..]), long(&head[16..]));
    if first_seq > last_seq {
        return Ok(Read::Bad(format!("a frame from {first_seq} to {last_seq}")));
    }
    Ok(Read::Frame(SpoolFrame {
        first_seq,
        last_seq,
        records,
    }))
}
