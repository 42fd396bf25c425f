//! Frames: what travels on a link, and their bytes.
//!
//! `u32 length of kind and body | u32 crc32c of kind and body | u8 kind | body`, little endian.
//! Data frames carry records as they lie in the ring; everything else is JSON.

use bytes::{BufMut, Bytes, BytesMut};
use expman_model::forwarding::{Forwarding, ForwardingChange};
use expman_model::limits::FRAME_BYTES_MAX;
use expman_model::{FlushReport, FlushScope, Health, Incarnation, RunId, RunStatus, Version};
use serde::{Deserialize, Serialize};

use crate::error::{MeshError, Result};

/// Both sides must speak the same one.
pub const PROTOCOL: u32 = 4;
/// Bytes in front of kind and body.
pub const HEADER_BYTES: usize = 8;

/// A process introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// Equal in all ranks of one launch.
    pub launch_key: String,
    /// Joins a run of another launch.
    pub resume: bool,
    /// Its rank; none when the owner shall give it one.
    pub rank: Option<u32>,
    /// Number of ranks that its launch announced.
    pub world_size: Option<u32>,
    /// Random per process.
    pub incarnation: Incarnation,
    /// Where it runs.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// The run's setting, as far as it knows: an owner may have died with a later one than it had saved.
    #[serde(default)]
    pub forwarding: Forwarding,
}

/// The owner takes it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The run's id.
    pub run_id: RunId,
    /// The process's rank.
    pub rank: u32,
    /// Which incarnation of the rank it is.
    pub attempt: u32,
    /// Number of ranks, as far as known.
    pub world_size: Option<u32>,
    /// The owner's epoch.
    pub epoch: u64,
    /// Everything up to here is durable already.
    pub durable_seq: u64,
    /// Unacknowledged bytes that the process may have on the wire.
    pub credit: usize,
    /// The run's setting.
    pub forwarding: Forwarding,
}

/// A caller asks for a flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushRequest {
    /// Tells the answers of one process apart.
    pub id: u64,
    /// Who must be durable.
    pub scope: FlushScope,
    /// Also bring everything into `metrics.parquet`.
    pub publish: bool,
    /// A name for this cut.
    pub tag: Option<String>,
    /// The deadline, from the request on.
    pub timeout_ms: u64,
}

/// Everything that travels.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Process to owner, first.
    Hello(Hello),
    /// Owner to process, first.
    Welcome(Welcome),
    /// Owner to process, instead of a welcome.
    Refused(String),
    /// Process to owner: whole records up to a sequence number.
    Data(Data),
    /// Owner to process: how far its records are.
    Ack(Ack),
    /// Owner to process: send everything, then the marker.
    Barrier(Version),
    /// Process to owner: everything up to the sequence number came before this.
    Marker(Marker),
    /// Process to owner.
    Flush(FlushRequest),
    /// Owner to process.
    FlushDone(FlushDone),
    /// Process to owner: nothing follows.
    Bye(RunStatus),
    /// Owner to process: everything of it is durable; whether the run is closed, too.
    Farewell(bool),
    /// Either way, when a link was silent.
    Ping,
    /// Process to owner: how its sending is doing; now and then when it changed, and right before the goodbye.
    Health(Health),
    /// Owner to process: what keeps it from writing; empty when that is over.
    Trouble(String),
    /// Process to owner: which text all ranks shall forward.
    Forward(ForwardingChange),
    /// Owner to every process: which text they shall forward from now on.
    Forwarding(Forwarding),
}

/// See [`Frame::Ack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// Everything up to here survives a power cut.
    pub durable_seq: u64,
    /// Everything up to here survives the death of both processes: it is in the commit log's file, synced or not.
    pub written_seq: u64,
}

impl Ack {
    /// What both together say.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            durable_seq: self.durable_seq.max(other.durable_seq),
            written_seq: self.written_seq.max(other.written_seq),
        }
    }
}

/// See [`Frame::Data`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Of the first record.
    pub first_seq: u64,
    /// Of the last record.
    pub last_seq: u64,
    /// The records.
    pub records: Bytes,
}

/// See [`Frame::Marker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Which barrier.
    pub version: Version,
    /// Last sequence number in front of it.
    pub upto_seq: u64,
}

/// See [`Frame::FlushDone`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlushDone {
    /// The request's id.
    pub id: u64,
    /// The outcome.
    pub report: FlushReport,
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;
const DATA: u8 = 4;
const ACK: u8 = 5;
const BARRIER: u8 = 6;
const MARKER: u8 = 7;
const FLUSH: u8 = 8;
const FLUSH_DONE: u8 = 9;
const BYE: u8 = 10;
const FAREWELL: u8 = 11;
const PING: u8 = 12;
const HEALTH: u8 = 13;
const TROUBLE: u8 = 14;
const FORWARD: u8 = 15;
const FORWARDING: u8 = 16;

impl Frame {
    /// Appends the frame's bytes.
    ///
    /// # Errors
    /// When it is larger than [`FRAME_BYTES_MAX`].
    pub fn encode(&self, out: &mut BytesMut) -> Result<()> {
        let start = out.len();
        out.put_bytes(0, HEADER_BYTES);
        match self {
            Self::Hello(x) => json(out, HELLO, x),
            Self::Welcome(x) => json(out, WELCOME, x),
            Self::Refused(x) => json(out, REFUSED, x),
            Self::Data(x) => {
                out.put_u8(DATA);
                out.put_u64_le(x.first_seq);
                out.put_u64_le(x.last_seq);
                out.put_slice(&x.records);
            }
            Self::Ack(x) => {
                out.put_u8(ACK);
                out.put_u64_le(x.durable_seq);
                out.put_u64_le(x.written_seq);
            }
            Self::Barrier(x) => json(out, BARRIER, x),
            Self::Marker(x) => json(out, MARKER, x),
            Self::Flush(x) => json(out, FLUSH, x),
            Self::FlushDone(x) => json(out, FLUSH_DONE, x),
            Self::Bye(x) => json(out, BYE, x),
            Self::Farewell(x) => json(out, FAREWELL, x),
            Self::Ping => out.put_u8(PING),
            Self::Health(x) => json(out, HEALTH, x),
            Self::Trouble(x) => json(out, TROUBLE, x),
            Self::Forward(x) => json(out, FORWARD, x),
            Self::Forwarding(x) => json(out, FORWARDING, x),
        }
        let bytes = out.len() - start;
        if bytes > FRAME_BYTES_MAX {
            out.truncate(start);
            return Err(MeshError::FrameTooLarge {
                bytes,
                max: FRAME_BYTES_MAX,
            });
        }
        let length = u32::try_from(bytes - HEADER_BYTES).unwrap_or(u32::MAX);
        let crc = crc32c::crc32c(&out[start + HEADER_BYTES..]);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// The length and checksum in a header.
    ///
    /// # Errors
    /// When the length is zero or over the limit; nothing is allocated for it.
    pub fn header(header: [u8; HEADER_BYTES]) -> Result<(usize, u32)> {
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = word(0) as usize;
        if length == 0 {
            return Err(MeshError::Protocol("a frame without a kind".to_owned()));
        }
        if length > FRAME_BYTES_MAX - HEADER_BYTES {
            return Err(MeshError::FrameTooLarge {
                bytes: length,
                max: FRAME_BYTES_MAX,
            });
        }
        Ok((length, word(4)))
    }

    /// Reads kind and body.
    ///
    /// # Errors
    /// When the checksum does not match or the frame is not understood.
    pub fn decode(bytes: &Bytes, crc: u32) -> Result<Self> {
        if crc32c::crc32c(bytes) != crc {
            return Err(MeshError::Protocol(
                "a frame's checksum does not match".to_owned(),
            ));
        }
        let body = bytes.slice(1..);
        Ok(match bytes[0] {
            HELLO => Self::Hello(parse(&body)?),
            WELCOME => Self::Welcome(parse(&body)?),
            REFUSED => Self::Refused(parse(&body)?),
            DATA => {
                let mut r = expman_model::codec::Reader::new(&body);
                let (first_seq, last_seq) = (r.u64("first seq")?, r.u64("last seq")?);
                Self::Data(Data {
                    first_seq,
                    last_seq,
                    records: body.slice(16..),
                })
            }
            ACK => {
                let mut r = expman_model::codec::Reader::new(&body);
                Self::Ack(Ack {
                    durable_seq: r.u64("durable seq")?,
                    written_seq: r.u64("written seq")?,
                })
            }
            BARRIER => Self::Barrier(parse(&body)?),
            MARKER => Self::Marker(parse(&body)?),
            FLUSH => Self::Flush(parse(&body)?),
            FLUSH_DONE => Self::FlushDone(parse(&body)?),
            BYE => Self::Bye(parse(&body)?),
            FAREWELL => Self::Farewell(parse(&body)?),
            PING => Self::Ping,
            HEALTH => Self::Health(parse(&body)?),
            TROUBLE => Self::Trouble(parse(&body)?),
            FORWARD => Self::Forward(parse(&body)?),
            FORWARDING => Self::Forwarding(parse(&body)?),
            other => return Err(MeshError::Protocol(format!("frame kind {other}"))),
        })
    }
}

fn json<T: Serialize>(out: &mut BytesMut, kind: u8, value: &T) {
    out.put_u8(kind);
    out.put_slice(&serde_json::to_vec(value).unwrap_or_default());
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| MeshError::Protocol(e.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(frame: &Frame) -> Frame {
        let mut out = BytesMut::new();
        frame.encode(&mut out).unwrap();
        let bytes = out.freeze();
        let (length, crc) = Frame::header(bytes[..HEADER_BYTES].try_into().unwrap()).unwrap();
        assert_eq!(length, bytes.len() - HEADER_BYTES);
        Frame::decode(&bytes.slice(HEADER_BYTES..), crc).unwrap()
    }

    #[test]
    fn frames_come_back() {
        let version = Version {
            epoch: 2,
            number: 9,
        };
        for frame in [
            Frame::Data(Data {
                first_seq: 1,
                last_seq: 2,
                records: Bytes::from_static(b"abc"),
            }),
            Frame::Ack(Ack {
                durable_seq: 77,
                written_seq: 78,
            }),
            Frame::Health(Health {
                accepted_seq: 5,
                last_error: Some("x".to_owned()),
                ..Health::default()
            }),
            Frame::Trouble("write /x: No space left on device".to_owned()),
            Frame::Barrier(version),
            Frame::Marker(Marker {
                version,
                upto_seq: 4,
            }),
            Frame::Bye(RunStatus::Failed),
            Frame::Ping,
        ] {
            assert_eq!(round_trip(&frame), frame);
        }
    }

    #[test]
    fn hostile_lengths_are_refused_before_allocating() {
        for length in [0u32, u32::MAX, 1 << 31, (16 << 20) + 1] {
            let mut header = [0; HEADER_BYTES];
            header[..4].copy_from_slice(&length.to_le_bytes());
            assert!(Frame::header(header).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            let crc = crc32c::crc32c(&bytes);
            let _ignored = Frame::decode(&bytes.into(), crc);
        }
    }
}
