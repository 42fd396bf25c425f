//! Records: what a rank logs, one per `log_*` call or console line, and their bytes.
//!
//! Layout, little endian: `u32 length of the rest | u8 kind | u64 seq | i64 timestamp_us | body`.
//! The same bytes lie in the ring, in the spool and in a data frame.

mod console;

use serde::{Deserialize, Serialize};

use self::console::put_console_body;
pub use self::console::{KIND_CONSOLE, put_console, take_console};
use crate::codec::{CodecError, Reader, put_bytes};
pub use crate::level::Level;
use crate::param::Param;
use crate::status::RunStatus;
use crate::value::Value;
pub use crate::value::{ValueRef, put_value, take_value};

/// Bytes in front of a record's body, its length field included.
pub const RECORD_HEADER_BYTES: usize = 4 + 1 + 8 + 8;

/// One metric of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The metric's name.
    pub key: String,
    /// Its value.
    pub value: Value,
}

impl Point {
    /// A point.
    #[must_use]
    pub fn new(key: impl Into<String>, value: Value) -> Self {
        Self {
            key: key.into(),
            value,
        }
    }
}

/// Which of the two output streams of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Descriptor 1.
    Out,
    /// Descriptor 2.
    Err,
}

/// The logger of exceptions that nobody caught, one message each.
pub const UNCAUGHT: &str = "uncaught";

/// What was logged.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordBody {
    /// `log_metrics`: every point of one call.
    Metrics {
        /// The caller's step; any order, repeats allowed.
        step: Option<i64>,
        /// At least one point.
        points: Vec<Point>,
    },
    /// `log_message` and Python logging.
    Message {
        /// Severity.
        level: Level,
        /// The logger's name; empty for direct calls.
        logger: String,
        /// The source file that logged it; empty when that is not known.
        file: String,
        /// The line in it, from 1; 0 when that is not known.
        line: u32,
        /// The text, newlines and all.
        text: String,
    },
    /// A line (or a chunk of a long one) of captured output, without its newline.
    Console {
        /// Which stream.
        stream: Stream,
        /// False when the line goes on in the next record of this stream.
        ends_line: bool,
        /// Raw bytes.
        bytes: Vec<u8>,
    },
    /// `log_scalar`: only the latest value counts.
    Scalar(Point),
    /// `log_params`: a map merged into `config.yaml`.
    Params(Param),
    /// A file that stands below `artifacts/` now.
    Artifact {
        /// Its `/`-separated name.
        name: String,
        /// Bytes.
        size: u64,
        /// BLAKE3 of the content, hex.
        hash: String,
    },
    /// How this rank ended, by its own words.
    Outcome {
        /// Its final status.
        status: RunStatus,
        /// Why, when it failed.
        message: String,
        /// Python's traceback, when there is one.
        traceback: String,
    },
    /// Records that were refused or dropped before they reached the owner.
    Gap {
        /// First missing sequence number; 0 when nothing had been numbered.
        from_seq: u64,
        /// Last one.
        to_seq: u64,
        /// How many records, or values, are missing.
        count: u64,
        /// Why.
        reason: String,
    },
}

/// A numbered, timed entry of one writer.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// 1, 2, 3 … within the writer.
    pub seq: u64,
    /// Wall clock at the call, microseconds since 1970 UTC.
    pub timestamp_us: i64,
    /// What was logged.
    pub body: RecordBody,
}

/// Writes one record's frame around a body that `fill` appends; the length is set afterwards.
///
/// This is how callers that have no [`RecordBody`] at hand (the Python border) encode straight into a buffer.
pub fn put_record(
    out: &mut Vec<u8>,
    kind: u8,
    seq: u64,
    timestamp_us: i64,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&timestamp_us.to_le_bytes());
    fill(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Kind byte of a metrics record.
pub const KIND_METRICS: u8 = 1;

/// Appends the head of a metrics body: step and number of points, which follow as key and value each.
pub fn put_metrics_head(out: &mut Vec<u8>, step: Option<i64>, points: u32) {
    out.push(u8::from(step.is_some()));
    out.extend_from_slice(&step.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&points.to_le_bytes());
}

/// Where a record's moment stands.
const TIMESTAMP_AT: usize = RECORD_HEADER_BYTES - 8;
/// Where the step of a metrics record stands, behind the byte that says whether there is one.
const STEP_AT: usize = RECORD_HEADER_BYTES + 1;
/// Where its points begin.
pub const POINTS_AT: usize = STEP_AT + 8 + 4;

/// Gives an encoded metrics record another moment and step. Bytes that are no such record stay as they are.
#[inline]
pub fn set_moment(record: &mut [u8], timestamp_us: i64, step: Option<i64>) {
    if let Some(head) = record.first_chunk_mut::<POINTS_AT>() {
        head[TIMESTAMP_AT..RECORD_HEADER_BYTES].copy_from_slice(&timestamp_us.to_le_bytes());
        head[RECORD_HEADER_BYTES] = u8::from(step.is_some());
        head[STEP_AT..STEP_AT + 8].copy_from_slice(&step.unwrap_or(0).to_le_bytes());
    }
}

impl RecordBody {
    /// The kind byte.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Metrics { .. } => KIND_METRICS,
            Self::Message { .. } => 2,
            Self::Console { .. } => KIND_CONSOLE,
            Self::Scalar(_) => 4,
            Self::Params(_) => 5,
            Self::Artifact { .. } => 6,
            Self::Outcome { .. } => 7,
            Self::Gap { .. } => 8,
        }
    }

    /// Appends the body's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Metrics { step, points } => {
                put_metrics_head(out, *step, u32::try_from(points.len()).unwrap_or(u32::MAX));
                for point in points {
                    put_bytes(out, point.key.as_bytes());
                    put_value(out, &point.value);
                }
            }
            Self::Message {
                level,
                logger,
                file,
                line,
                text,
            } => {
                out.push(level.0);
                put_bytes(out, logger.as_bytes());
                put_bytes(out, file.as_bytes());
                out.extend_from_slice(&line.to_le_bytes());
                put_bytes(out, text.as_bytes());
            }
            Self::Console {
                stream,
                ends_line,
                bytes,
            } => {
                put_console_body(out, *stream, *ends_line, bytes);
            }
            Self::Scalar(point) => {
                put_bytes(out, point.key.as_bytes());
                put_value(out, &point.value);
            }
            Self::Params(params) => params.encode(out),
            Self::Artifact { name, size, hash } => {
                put_bytes(out, name.as_bytes());
                out.extend_from_slice(&size.to_le_bytes());
                put_bytes(out, hash.as_bytes());
            }
            Self::Outcome {
                status,
                message,
                traceback,
            } => {
                put_bytes(out, status.as_str().as_bytes());
                put_bytes(out, message.as_bytes());
                put_bytes(out, traceback.as_bytes());
            }
            Self::Gap {
                from_seq,
                to_seq,
                count,
                reason,
            } => {
                for n in [from_seq, to_seq, count] {
                    out.extend_from_slice(&n.to_le_bytes());
                }
                put_bytes(out, reason.as_bytes());
            }
        }
    }

    fn decode(kind: u8, r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match kind {
            KIND_METRICS => {
                let has_step = r.u8("step flag")? != 0;
                let step = r.i64("step")?;
                let n = r.u32("point count")?;
                let mut points = Vec::new();
                for _ in 0..n {
                    points.push(take_point(r)?);
                }
                Self::Metrics {
                    step: has_step.then_some(step),
                    points,
                }
            }
            2 => Self::Message {
                level: Level(r.u8("level")?),
                logger: r.str("logger")?.to_owned(),
                file: r.str("source file")?.to_owned(),
                line: r.u32("source line")?,
                text: r.str("message")?.to_owned(),
            },
            KIND_CONSOLE => {
                let (stream, ends_line, bytes) = take_console(r)?;
                let bytes = bytes.to_vec();
                Self::Console {
                    stream,
                    ends_line,
                    bytes,
                }
            }
            4 => Self::Scalar(take_point(r)?),
            5 => Self::Params(Param::decode(r)?),
            6 => Self::Artifact {
                name: r.str("artifact name")?.to_owned(),
                size: r.u64("artifact size")?,
                hash: r.str("artifact hash")?.to_owned(),
            },
            7 => {
                let status = r.str("status")?;
                Self::Outcome {
                    status: RunStatus::parse(status).ok_or(CodecError::Unknown {
                        what: "status",
                        value: 0,
                    })?,
                    message: r.str("outcome message")?.to_owned(),
                    traceback: r.str("traceback")?.to_owned(),
                }
            }
            8 => Self::Gap {
                from_seq: r.u64("gap start")?,
                to_seq: r.u64("gap end")?,
                count: r.u64("gap count")?,
                reason: r.str("gap reason")?.to_owned(),
            },
            value => {
                return Err(CodecError::Unknown {
                    what: "record kind",
                    value: value.into(),
                });
            }
        })
    }
}

fn take_point(r: &mut Reader<'_>) -> Result<Point, CodecError> {
    let key = r.str("metric name")?.to_owned();
    Ok(Point {
        key,
        value: take_value(r)?.to_value(),
    })
}

impl Record {
    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_record(out, self.body.kind(), self.seq, self.timestamp_us, |out| {
            self.body.encode(out);
        });
    }

    /// Reads the first record of `bytes` and says how many bytes it took.
    ///
    /// # Errors
    /// When the bytes are cut off or not a record.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), CodecError> {
        let (head, body) = RecordHead::split(bytes)?;
        let mut r = Reader::new(body);
        let record = Self {
            seq: head.seq,
            timestamp_us: head.timestamp_us,
            body: RecordBody::decode(head.kind, &mut r)?,
        };
        if !r.is_empty() {
            return Err(CodecError::Unknown {
                what: "bytes behind a record",
                value: r.rest().len() as u64,
            });
        }
        Ok((record, 4 + head.length))
    }
}

/// The fixed front of a record, read without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// Bytes behind the length field.
    pub length: usize,
    /// The kind byte.
    pub kind: u8,
    /// See [`Record::seq`].
    pub seq: u64,
    /// See [`Record::timestamp_us`].
    pub timestamp_us: i64,
}

impl RecordHead {
    /// Splits the first record of `bytes` into head and body.
    ///
    /// # Errors
    /// When the bytes are cut off.
    #[inline]
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8]), CodecError> {
        let mut r = Reader::new(bytes);
        let length = r.u32("record length")? as usize;
        let mut r = Reader::new(r.take(length, "record")?);
        let head = Self {
            length,
            kind: r.u8("record kind")?,
            seq: r.u64("seq")?,
            timestamp_us: r.i64("timestamp")?,
        };
        Ok((head, r.rest()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u64>().prop_map(|b| Value::Float(f64::from_bits(b))),
            any::<i64>().prop_map(Value::Int),
            any::<bool>().prop_map(Value::Bool),
            any::<String>().prop_map(Value::Text),
        ]
    }

    fn body() -> impl Strategy<Value = RecordBody> {
        let point = || (any::<String>(), value()).prop_map(|(key, value)| Point { key, value });
        prop_oneof![
            (any::<Option<i64>>(), prop::collection::vec(point(), 0..8))
                .prop_map(|(step, points)| RecordBody::Metrics { step, points }),
            (any::<u8>(), any::<[String; 3]>(), any::<u32>()).prop_map(
                |(level, [logger, file, text], line)| RecordBody::Message {
                    level: Level(level),
                    logger,
                    file,
                    line,
                    text,
                }
            ),
            (any::<bool>(), any::<Vec<u8>>()).prop_map(|(ends_line, bytes)| RecordBody::Console {
                stream: Stream::Err,
                ends_line,
                bytes
            }),
            point().prop_map(RecordBody::Scalar),
        ]
    }

    proptest! {
        #[test]
        fn every_record_decodes_to_its_own_bytes(seq: u64, timestamp_us: i64, body in body()) {
            let mut bytes = Vec::new();
            Record { seq, timestamp_us, body }.encode(&mut bytes);
            let (decoded, used) = Record::decode(&bytes).unwrap();
            prop_assert_eq!(used, bytes.len());
            let mut again = Vec::new();
            decoded.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let _ignored = Record::decode(&bytes);
        }
    }
}
