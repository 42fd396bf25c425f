//! Reading a commit log: every frame is checked before anything in it is decoded.

use std::fs::File;
use std::path::{Path, PathBuf};

use expman_model::CodecError;
use expman_model::codec::Reader;
use expman_model::record::ValueRef;

use super::{
    BatchFrame, Frame, HEADER_BYTES, KIND_CALLS, KIND_COLUMNS, KIND_HEADER, KIND_WRITER, MAGIC,
    PAYLOAD_BYTES_MAX, WalHeader, WalWriter, calls, checksum,
};
use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::rows::{BOOL, FLOAT, INT, Row, Rows, TEXT};

/// So many zeros at the end of a log are none that a frame ends with.
const BLANK_BYTES: usize = 16;
/// A frame of up to so many bytes is read without asking first whether it is all there.
const UNSEEN_BYTES_MAX: usize = 64 << 10;

/// Turns payloads back into frames; remembers the names that the log told.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    names: std::collections::HashMap<u32, String>,
    writers: Vec<WalWriter>,
}

impl FrameDecoder {
    /// The writers told so far, by index.
    #[must_use]
    pub fn writers(&self) -> &[WalWriter] {
        &self.writers
    }

    fn decode(&mut self, payload: &[u8]) -> Result<Frame, String> {
        let (&kind, rest) = payload.split_first().ok_or("empty frame")?;
        match kind {
            KIND_HEADER => {
                let header: WalHeader = serde_json::from_slice(rest).map_err(|e| e.to_string())?;
                self.writers.clone_from(&header.writers);
                self.names.clear();
                Ok(Frame::Header(header))
            }
            KIND_WRITER => {
                let writer: WalWriter = serde_json::from_slice(rest).map_err(|e| e.to_string())?;
                self.writers.push(writer.clone());
                Ok(Frame::Writer(writer))
            }
            KIND_COLUMNS | KIND_CALLS => {
                let batch = self.batch(kind, rest).map_err(|e| e.to_string())?;
                Ok(Frame::Batch(Box::new(batch)))
            }
            other => Err(format!("unknown frame kind {other}")),
        }
    }

    fn batch(&mut self, kind: u8, payload: &[u8]) -> Result<BatchFrame, CodecError> {
        let mut r = Reader::new(payload);
        let mut batch = BatchFrame {
            writer: r.u32("writer")?,
            upto_seq: r.u64("seq")?,
            text_ends: [r.u64("run.log end")?, r.u64("console.log end")?],
            ..BatchFrame::default()
        };
        let n = r.u32("row count")? as usize;
        let id = self
            .writers
            .get(batch.writer as usize)
            .ok_or(CodecError::Unknown {
                what: "writer",
                value: batch.writer.into(),
            })?;
        let process = (id.id.rank, id.attempt);
        if kind == KIND_COLUMNS {
            self.columns(&mut r, n, process, &mut batch)?;
        } else {
            self.calls(&mut r, n, process, &mut batch)?;
        }
        Ok(batch)
    }

    fn take_names(&mut self, r: &mut Reader<'_>) -> Result<(), CodecError> {
        for _ in 0..r.u32("name count")? {
            let id = r.u32("name number")?;
            self.names.insert(id, r.str("metric name")?.to_owned());
        }
        Ok(())
    }

    fn calls(
        &mut self,
        r: &mut Reader<'_>,
        n: usize,
        process: (u32, u32),
        batch: &mut BatchFrame,
    ) -> Result<(), CodecError> {
        let rest = calls::take_rest(r)?;
        let mut rest = Reader::new(&rest);
        self.take_names(&mut rest)?;
        let name = |rows: &mut Rows, id: u32| {
            let name = self.names.get(&id).ok_or(CodecError::Unknown {
                what: "metric name",
                value: id.into(),
            })?;
            Ok(rows.keys.intern(name))
        };
        calls::take(r, n, &mut batch.rows, process, name, || {
            rest.str("text value")
        })?;
        batch.others = rest.bytes("other records")?.to_vec();
        if rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Unknown {
                what: "bytes behind a batch",
                value: rest.rest().len() as u64,
            })
        }
    }

    /// A batch of format 1.
    fn columns(
        &mut self,
        r: &mut Reader<'_>,
        n: usize,
        (rank, attempt): (u32, u32),
        batch: &mut BatchFrame,
    ) -> Result<(), CodecError> {
        let raw_len = r.u32("body length")? as usize;
        let raw = zstd::bulk::decompress(r.rest(), raw_len.min(PAYLOAD_BYTES_MAX * 4))
            .map_err(|_bad| CodecError::Truncated("batch body"))?;
        let mut r = Reader::new(&raw);
        self.take_names(&mut r)?;
        let column = |r: &mut Reader<'_>, what| -> Result<Vec<u64>, CodecError> {
            Ok(r.take(n.saturating_mul(8), what)?
                .chunks_exact(8)
                .map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
                .collect())
        };
        let keys: Vec<u32> = r
            .take(n.saturating_mul(4), "keys")?
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap_or_default()))
            .collect();
        let steps = column(&mut r, "steps")?;
        let timestamps = column(&mut r, "timestamps")?;
        let seqs = column(&mut r, "seqs")?;
        let has_step = r.take(n, "step flags")?;
        let kinds = r.take(n, "kinds")?;
        let bits = column(&mut r, "values")?;
        for i in 0..n {
            let value = match kinds[i] {
                FLOAT => ValueRef::Float(f64::from_bits(bits[i])),
                INT => ValueRef::Int(bits[i].cast_signed()),
                BOOL => ValueRef::Bool(bits[i] != 0),
                TEXT => ValueRef::Text(r.str("text value")?),
                other => {
                    return Err(CodecError::Unknown {
                        what: "value kind",
                        value: other.into(),
                    });
                }
            };
            let key = self.names.get(&keys[i]).ok_or(CodecError::Unknown {
                what: "metric name",
                value: keys[i].into(),
            })?;
            batch.rows.push_row(&Row {
                key,
                rank,
                step: (has_step[i] != 0).then_some(steps[i].cast_signed()),
                timestamp_us: timestamps[i].cast_signed(),
                attempt,
                seq: seqs[i],
                value,
            });
        }
        batch.others = r.bytes("other records")?.to_vec();
        Ok(())
    }
}

/// What [`WalReader::frame_behind`] finds.
pub(crate) const WRONG_LENGTH: &str =
    "a frame claims to be longer than the log, and is not cut off";

/// Reads a log from its start, also while it grows and after it was unlinked.
#[derive(Debug)]
pub struct WalReader {
    path: PathBuf,
    file: File,
    offset: u64,
    decoder: FrameDecoder,
}

/// What stood behind the last good frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing, or a frame that is not whole yet.
    End,
    /// Bytes that are no frame.
    Bad(String),
}

impl WalReader {
    /// Opens a log.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = durable::open_read(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            offset: 0,
            decoder: FrameDecoder::default(),
        })
    }

    /// Where the next frame begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The writers told so far.
    #[must_use]
    pub fn writers(&self) -> &[WalWriter] {
        self.decoder.writers()
    }

    /// Where the log is, or was.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next frame, or why there is none.
    ///
    /// # Errors
    /// When reading fails.
    pub fn next_frame(&mut self) -> Result<std::result::Result<Frame, Next>> {
        let head = durable::read_at(&self.file, &self.path, self.offset, HEADER_BYTES)?;
        if head.len() < HEADER_BYTES {
            return Ok(Err(Next::End));
        }
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = word(4) as usize;
        if word(0) != MAGIC || length > PAYLOAD_BYTES_MAX {
            return Ok(Err(Next::Bad("no frame begins here".to_owned())));
        }
        // A torn frame may claim much, and is looked at again and again: nothing is made ready for what is not there.
        let end = self.offset + (HEADER_BYTES + length) as u64;
        if length > UNSEEN_BYTES_MAX && self.file.metadata().at("stat", &self.path)?.len() < end {
            return Ok(Err(Next::End));
        }
        let payload = durable::read_at(
            &self.file,
            &self.path,
            self.offset + HEADER_BYTES as u64,
            length,
        )?;
        if payload.len() < length {
            return Ok(Err(Next::End));
        }
        if checksum(&payload) != word(8) {
            return Ok(Err(Next::Bad("checksum does not match".to_owned())));
        }
        match self.decoder.decode(&payload) {
            Ok(frame) => {
                self.offset += (HEADER_BYTES + length) as u64;
                Ok(Ok(frame))
            }
            Err(what) => Ok(Err(Next::Bad(what))),
        }
    }

    /// Whether the log ends in zeros, as no frame does.
    pub(crate) fn ends_blank(&self) -> Result<bool> {
        let size = self.file.metadata().at("stat", &self.path)?.len();
        let from = size.saturating_sub(BLANK_BYTES as u64);
        let end = durable::read_at(&self.file, &self.path, from, BLANK_BYTES)?;
        Ok(end.len() == BLANK_BYTES && end.iter().all(|&byte| byte == 0))
    }

    /// Whether what stands at an offset is more than a tail that was cut off: a frame is whole but for its length,
    /// or another one begins behind it.
    pub(crate) fn frame_behind(&self, offset: u64) -> Result<bool> {
        let size = self.file.metadata().at("stat", &self.path)?.len();
        let rest = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = durable::read_at(&self.file, &self.path, offset, rest)?;
        let magic = MAGIC.to_le_bytes();
        let whole = |at: usize| {
            let head = bytes.get(at..at + HEADER_BYTES)?;
            let word = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
            let payload = bytes.get(at + HEADER_BYTES..)?.get(..word(4)? as usize)?;
            (checksum(payload) == word(8)?).then_some(())
        };
        let is_last = bytes
            .get(8..HEADER_BYTES)
            .is_some_and(|known| known == checksum(&bytes[HEADER_BYTES..]).to_le_bytes());
        Ok(is_last
            || (1..bytes.len().saturating_sub(HEADER_BYTES))
                .filter(|&at| bytes[at..].starts_with(&magic))
                .any(|at| whole(at).is_some()))
    }

    /// The first frame, which must be a header.
    ///
    /// # Errors
    /// When reading fails, or something else stands there.
    pub fn header(&mut self) -> Result<Option<WalHeader>> {
        match self.next_frame()? {
            Ok(Frame::Header(header)) => Ok(Some(header)),
            Ok(_) => Err(StorageError::Damaged {
                path: self.path.clone(),
                offset: 0,
                what: "the log does not begin with a header".to_owned(),
            }),
            Err(Next::End) => Ok(None),
            Err(Next::Bad(what)) => Err(StorageError::Damaged {
                path: self.path.clone(),
                offset: 0,
                what,
            }),
        }
    }
}
