//! The commit log: checksummed frames, each the whole effect of one batch.
//!
//! Frame: `u32 magic | u32 length | u32 crc32c(length, payload) | payload`, little endian.
//! Payload: a kind byte, then what [`Frame`] says; a batch's body is zstd over plain columns.
//! A frame is checked before anything in it is decoded.

use std::fs::File;
use std::path::{Path, PathBuf};

use expman_model::codec::{Reader, put_bytes};
use expman_model::limits::FRAME_BYTES_MAX;
use expman_model::record::ValueRef;
use expman_model::{CodecError, RunId, WriterId};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::rows::{Row, Rows};

const MAGIC: u32 = u32::from_le_bytes(*b"EXPW");
const HEADER_BYTES: usize = 12;
/// A frame that claims more is damaged.
const PAYLOAD_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;
/// Compression of bodies: fastest level.
const ZSTD_LEVEL: i32 = 1;

/// A writer as the log knows it; batches name it by its index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalWriter {
    /// Who.
    #[serde(flatten)]
    pub id: WriterId,
    /// Which incarnation of its rank: 0, 1, 2 …
    pub attempt: u32,
    /// Last sequence number before this log.
    pub upto_seq: u64,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
}

/// The first frame of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalHeader {
    /// Format of the log.
    pub format: u32,
    /// Which run.
    pub run_id: Option<RunId>,
    /// Row at which the log starts.
    pub lo: u64,
    /// Owner that wrote it.
    pub epoch: u64,
    /// Lengths of `run.log` and `console.log` when it started.
    pub text_ends: [u64; 2],
    /// Every writer known when it started.
    pub writers: Vec<WalWriter>,
}

/// The effect of one batch of one writer.
#[derive(Debug, Clone, Default)]
pub struct BatchFrame {
    /// Index of the writer: the header's list, then the log's own.
    pub writer: u32,
    /// Everything of the writer up to here is in the log.
    pub upto_seq: u64,
    /// Lengths of `run.log` and `console.log` with this batch.
    pub text_ends: [u64; 2],
    /// Metric rows.
    pub rows: Rows,
    /// The batch's other records, in their own bytes.
    pub others: Vec<u8>,
}

/// One frame.
#[derive(Debug, Clone)]
pub enum Frame {
    /// Opens the log.
    Header(WalHeader),
    /// A writer that joined.
    Writer(WalWriter),
    /// A batch.
    Batch(Box<BatchFrame>),
}

const KIND_HEADER: u8 = 1;
const KIND_WRITER: u8 = 2;
const KIND_BATCH: u8 = 3;

fn frame(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.push(kind);
    fill(out);
    let length = u32::try_from(out.len() - start - HEADER_BYTES)
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&length);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &out[start + HEADER_BYTES..]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

/// Builds frames; remembers which names the log has been told.
#[derive(Debug, Default)]
pub(crate) struct FrameEncoder {
    told: Vec<bool>,
    raw: Vec<u8>,
}

impl FrameEncoder {
    /// Starts a log.
    pub(crate) fn header(&mut self, out: &mut Vec<u8>, header: &WalHeader) {
        self.told.clear();
        let json = serde_json::to_vec(header).unwrap_or_default();
        frame(out, KIND_HEADER, |out| out.extend_from_slice(&json));
    }

    /// Adds a writer.
    pub(crate) fn writer(out: &mut Vec<u8>, writer: &WalWriter) {
        let json = serde_json::to_vec(writer).unwrap_or_default();
        frame(out, KIND_WRITER, |out| out.extend_from_slice(&json));
    }

    /// Adds a batch whose metric rows are those of `rows` from `from` on.
    pub(crate) fn batch(
        &mut self,
        out: &mut Vec<u8>,
        head: &BatchHead,
        rows: &Rows,
        from: usize,
        others: &[u8],
    ) -> std::io::Result<()> {
        let mut raw = std::mem::take(&mut self.raw);
        raw.clear();
        self.columns(&mut raw, rows, from);
        put_bytes(&mut raw, others);
        let body = zstd::bulk::compress(&raw, ZSTD_LEVEL)?;
        frame(out, KIND_BATCH, |out| {
            out.extend_from_slice(&head.writer.to_le_bytes());
            for n in [head.upto_seq, head.text_ends[0], head.text_ends[1]] {
                out.extend_from_slice(&n.to_le_bytes());
            }
            for n in [rows.len() - from, raw.len()] {
                out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
            }
            out.extend_from_slice(&body);
        });
        self.raw = raw;
        Ok(())
    }

    fn columns(&mut self, raw: &mut Vec<u8>, rows: &Rows, from: usize) {
        self.told.resize(rows.keys.len(), false);
        let count_at = raw.len();
        raw.extend_from_slice(&[0; 4]);
        let mut names = 0u32;
        for &id in &rows.key[from..] {
            if !std::mem::replace(&mut self.told[id as usize], true) {
                names += 1;
                raw.extend_from_slice(&id.to_le_bytes());
                put_bytes(raw, rows.keys.name(id).as_bytes());
            }
        }
        raw[count_at..count_at + 4].copy_from_slice(&names.to_le_bytes());
        for id in &rows.key[from..] {
            raw.extend_from_slice(&id.to_le_bytes());
        }
        for column in [&rows.step, &rows.timestamp, &rows.seq] {
            for x in &column[from..] {
                raw.extend_from_slice(&x.to_le_bytes());
            }
        }
        raw.extend(rows.has_step[from..].iter().map(|&b| u8::from(b)));
        raw.extend_from_slice(&rows.kind[from..]);
        for (bits, kind) in rows.bits[from..].iter().zip(&rows.kind[from..]) {
            let bits = if *kind == 3 { 0 } else { *bits };
            raw.extend_from_slice(&bits.to_le_bytes());
        }
        for (bits, _) in rows.bits[from..]
            .iter()
            .zip(&rows.kind[from..])
            .filter(|(_, k)| **k == 3)
        {
            put_bytes(
                raw,
                rows.texts[usize::try_from(*bits).unwrap_or(usize::MAX)].as_bytes(),
            );
        }
    }
}

/// The fixed part of a batch frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchHead {
    pub(crate) writer: u32,
    pub(crate) upto_seq: u64,
    pub(crate) text_ends: [u64; 2],
}

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
            KIND_BATCH => self
                .batch(rest)
                .map(|batch| Frame::Batch(Box::new(batch)))
                .map_err(|e| e.to_string()),
            other => Err(format!("unknown frame kind {other}")),
        }
    }

    fn batch(&mut self, payload: &[u8]) -> Result<BatchFrame, CodecError> {
        let mut r = Reader::new(payload);
        let writer = r.u32("writer")?;
        let upto_seq = r.u64("seq")?;
        let text_ends = [r.u64("run.log end")?, r.u64("console.log end")?];
        let n = r.u32("row count")? as usize;
        let raw_len = r.u32("body length")? as usize;
        let id = self
            .writers
            .get(writer as usize)
            .ok_or(CodecError::Unknown {
                what: "writer",
                value: writer.into(),
            })?;
        let (rank, attempt) = (id.id.rank, id.attempt);
        let raw = zstd::bulk::decompress(r.rest(), raw_len.min(PAYLOAD_BYTES_MAX * 4))
            .map_err(|_bad| CodecError::Truncated("batch body"))?;
        let mut r = Reader::new(&raw);
        for _ in 0..r.u32("name count")? {
            let id = r.u32("name number")?;
            self.names.insert(id, r.str("metric name")?.to_owned());
        }
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
        let mut rows = Rows::default();
        for i in 0..n {
            let value = match kinds[i] {
                0 => ValueRef::Float(f64::from_bits(bits[i])),
                1 => ValueRef::Int(bits[i].cast_signed()),
                2 => ValueRef::Bool(bits[i] != 0),
                3 => ValueRef::Text(r.str("text value")?),
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
            rows.push_row(&Row {
                key,
                rank,
                step: (has_step[i] != 0).then_some(steps[i].cast_signed()),
                timestamp_us: timestamps[i].cast_signed(),
                attempt,
                seq: seqs[i],
                value,
            });
        }
        Ok(BatchFrame {
            writer,
            upto_seq,
            text_ends,
            rows,
            others: r.bytes("other records")?.to_vec(),
        })
    }
}

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
        let file = File::open(path).at("open", path)?;
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
        let payload = durable::read_at(
            &self.file,
            &self.path,
            self.offset + HEADER_BYTES as u64,
            length,
        )?;
        if payload.len() < length {
            return Ok(Err(Next::End));
        }
        if crc32c::crc32c_append(crc32c::crc32c(&head[4..8]), &payload) != word(8) {
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
