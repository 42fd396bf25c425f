//! The commit log: checksummed frames, each the whole effect of one batch.
//!
//! Frame: `u32 magic | u32 length | u32 crc32c(length, payload) | payload`, little endian.
//! Payload: a kind byte, then what [`Frame`] says; a batch's calls are in `calls`.
//! Format 1 had batches of another kind, zstd over plain columns, which are still read.
//! A frame is checked before anything in it is decoded.

mod calls;
mod read;
#[cfg(test)]
mod tests;

use std::ops::Range;

use expman_model::codec::put_bytes;
use expman_model::limits::FRAME_BYTES_MAX;
use expman_model::{RunId, WriterId};
use serde::{Deserialize, Serialize};

pub(crate) use self::read::WRONG_LENGTH;
pub use self::read::{FrameDecoder, Next, WalReader};
use crate::rows::Rows;

const MAGIC: u32 = u32::from_le_bytes(*b"EXPW");
const HEADER_BYTES: usize = 12;
/// A frame that claims more is damaged.
const PAYLOAD_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;

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
/// A batch of format 1.
const KIND_COLUMNS: u8 = 3;
const KIND_CALLS: u8 = 4;

/// The checksum of a frame: over the length of its payload, then the payload.
fn checksum(payload: &[u8]) -> u32 {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), payload)
}

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
    let crc = checksum(&out[start + HEADER_BYTES..]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

/// Builds frames; remembers which names the log has been told.
#[derive(Default)]
pub(crate) struct FrameEncoder {
    told: Vec<bool>,
    /// Names that a frame tells.
    new: Vec<u32>,
    calls: Vec<u8>,
    rest: Vec<u8>,
    /// Kept, because making one costs more than a small body.
    packer: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameEncoder")
            .field("names_told", &self.told.len())
            .finish_non_exhaustive()
    }
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

    /// Adds a batch whose metric rows are those in `range` of `rows`.
    pub(crate) fn batch(
        &mut self,
        out: &mut Vec<u8>,
        head: &BatchHead,
        rows: &Rows,
        range: Range<usize>,
        others: &[u8],
    ) -> std::io::Result<()> {
        let Self {
            told,
            new,
            calls,
            rest,
            packer,
        } = self;
        told.resize(rows.keys.len(), false);
        new.clear();
        calls.clear();
        rest.clear();
        calls::put(calls, rows, range.clone(), |id| {
            if !std::mem::replace(&mut told[id as usize], true) {
                new.push(id);
            }
        });
        put_u32(rest, new.len());
        for &id in &*new {
            rest.extend_from_slice(&id.to_le_bytes());
            put_bytes(rest, rows.keys.name(id).as_bytes());
        }
        if !rows.texts.is_empty() {
            calls::put_texts(rest, rows, range.clone());
        }
        put_bytes(rest, others);
        let packed = calls::packed(rest, packer)?;
        let stored = packed.as_deref().unwrap_or(rest);
        frame(out, KIND_CALLS, |out| {
            out.extend_from_slice(&head.writer.to_le_bytes());
            for n in [head.upto_seq, head.text_ends[0], head.text_ends[1]] {
                out.extend_from_slice(&n.to_le_bytes());
            }
            for n in [range.len(), rest.len(), stored.len()] {
                put_u32(out, n);
            }
            out.extend_from_slice(stored);
            out.extend_from_slice(calls);
        });
        Ok(())
    }
}

fn put_u32(out: &mut Vec<u8>, n: usize) {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    out.extend_from_slice(&n.to_le_bytes());
}

/// The fixed part of a batch frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchHead {
    pub(crate) writer: u32,
    pub(crate) upto_seq: u64,
    pub(crate) text_ends: [u64; 2],
}
