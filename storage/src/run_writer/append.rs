//! Taking in batches: from encoded records to rows, text, frames and state.

use expman_model::codec::Reader;
use expman_model::record::{KIND_CONSOLE, KIND_METRICS, RecordHead, take_console, take_value};
use expman_model::time::now_us;
use expman_model::{CodecError, EventBody, Record, RecordBody};

use super::RunWriter;
use crate::error::{At, Result, StorageError};
use crate::rows::Call;
use crate::state::RunState;
use crate::text;
use crate::wal::BatchHead;

impl RunWriter {
    /// Takes in a batch: the bytes of whole records in rising order. Records that are known already are dropped.
    ///
    /// Returns the writer's last applied sequence number; nothing of it is in the files yet.
    ///
    /// # Errors
    /// When the bytes are no records; nothing of the batch is then taken.
    pub fn append(&mut self, writer: u32, body: &[u8]) -> Result<u64> {
        let from = self.rows.len();
        let ends = (
            self.run_log.pending().len(),
            self.console_log.pending().len(),
        );
        let mut others = Vec::new();
        let done = match self.read_records(writer, body, &mut others) {
            Ok(upto) => self.commit(writer, from, upto, others),
            Err(source) => Err(StorageError::Batch {
                writer: self.state.writers[writer as usize].id.to_string(),
                source,
            }),
        };
        if done.is_err() {
            self.rows.truncate(from);
            self.run_log.pending().truncate(ends.0);
            self.console_log.pending().truncate(ends.1);
        }
        done
    }

    /// Takes in that numbers of a writer will never come: all up to `to_seq` behind its last record.
    ///
    /// # Errors
    /// As [`RunWriter::append`].
    pub fn append_gap(&mut self, writer: u32, to_seq: u64, reason: &str) -> Result<u64> {
        let upto = self.state.writers[writer as usize].applied_seq;
        let mut record = Vec::new();
        if to_seq > upto {
            put_gap(&mut record, upto + 1, to_seq, to_seq - upto, reason);
        }
        self.append(writer, &record)
    }

    fn read_records(
        &mut self,
        writer: u32,
        mut body: &[u8],
        others: &mut Vec<u8>,
    ) -> Result<u64, CodecError> {
        let w = &self.state.writers[writer as usize];
        let (rank, attempt, mut upto) = (w.id.rank, w.meta.attempt, w.applied_seq);
        let mut hole = Hole::default();
        let mut last = w.last;
        while !body.is_empty() {
            let (head, inner) = RecordHead::split(body)?;
            let (record, rest) = body.split_at(4 + head.length);
            body = rest;
            if head.seq <= upto {
                continue;
            }
            if head.seq > upto + 1 {
                hole.open(upto + 1, head.seq - 1, others);
            }
            upto = head.seq;
            if head.kind == KIND_METRICS {
                last.metrics_us = head.timestamp_us;
                let call = Call {
                    rank: rank.cast_signed(),
                    attempt: attempt.cast_signed(),
                    step: 0,
                    has_step: false,
                    timestamp: head.timestamp_us,
                    seq: head.seq.cast_signed(),
                };
                self.read_metrics(inner, call)?;
                continue;
            }
            if head.kind == KIND_CONSOLE {
                let mut inner = Reader::new(inner);
                let (stream, ends_line, bytes) = take_console(&mut inner)?;
                if !inner.is_empty() {
                    return Err(behind(inner.rest()));
                }
                last.line_us = head.timestamp_us;
                let out = self.console_log.pending();
                text::put_console(
                    out,
                    head.timestamp_us,
                    rank,
                    head.seq,
                    stream,
                    ends_line,
                    bytes,
                );
                continue;
            }
            match Record::decode(record)?.0.body {
                RecordBody::Message {
                    level,
                    logger,
                    file,
                    line,
                    text,
                } => {
                    last.line_us = head.timestamp_us;
                    let head = text::MessageHead {
                        timestamp_us: head.timestamp_us,
                        rank,
                        seq: head.seq,
                        level,
                        logger: &logger,
                        file: &file,
                        line,
                    };
                    text::put_message(self.run_log.pending(), &head, &text);
                }
                RecordBody::Gap {
                    from_seq, to_seq, ..
                } => {
                    hole.told(from_seq, to_seq);
                    others.extend_from_slice(record);
                }
                _ => others.extend_from_slice(record),
            }
        }
        hole.close(others);
        self.state.writers[writer as usize].last = last;
        Ok(upto)
    }

    fn read_metrics(&mut self, inner: &[u8], mut call: Call) -> Result<(), CodecError> {
        let mut r = Reader::new(inner);
        call.has_step = r.u8("step flag")? != 0;
        let step = r.i64("step")?;
        call.step = if call.has_step { step } else { 0 };
        let points = r.u32("point count")?;
        if points > 0 {
            self.rows.begin(call);
        }
        let Self { rows, guess, .. } = self;
        let mut before = 0;
        for _ in 0..points {
            let name = r.bytes("metric name")?;
            let value = take_value(&mut r)?;
            let key = match guess.get(before) {
                Some(&id) if rows.keys.is(id, name) => id,
                _ => {
                    let name = std::str::from_utf8(name)
                        .map_err(|_not_utf8| CodecError::NotUtf8("metric name"))?;
                    let id = rows.keys.intern(name);
                    if guess.len() <= before {
                        guess.resize(before + 1, u32::MAX);
                    }
                    guess[before] = id;
                    id
                }
            };
            before = key as usize + 1;
            rows.put(key, value);
        }
        if points > 0 {
            rows.end();
        }
        if r.is_empty() {
            Ok(())
        } else {
            Err(behind(r.rest()))
        }
    }

    fn commit(&mut self, writer: u32, from: usize, upto_seq: u64, others: Vec<u8>) -> Result<u64> {
        if self.state.writers[writer as usize].applied_seq == upto_seq {
            return Ok(upto_seq);
        }
        let head = BatchHead {
            writer,
            upto_seq,
            text_ends: [self.run_log.end(), self.console_log.end()],
        };
        let range = from..self.rows.len();
        self.encoder
            .batch(
                &mut self.log.pending,
                &head,
                &self.rows,
                range.clone(),
                &others,
            )
            .at("compress a frame of", &self.log.path)?;
        self.state.apply_rows(writer, &self.rows, from);
        for event in apply_others(&mut self.state, writer, &others)? {
            self.event(event);
        }
        self.log.appended(head, range, others);
        let w = &mut self.state.writers[writer as usize];
        w.applied_seq = upto_seq;
        w.meta.accepted_seq = w.meta.accepted_seq.max(upto_seq);
        Ok(upto_seq)
    }
}

/// A record that is longer than what it holds.
const fn behind(rest: &[u8]) -> CodecError {
    CodecError::Unknown {
        what: "bytes behind a record",
        value: rest.len() as u64,
    }
}

/// Numbers that a batch skips: they are told by the gap records that stand right behind them, or lost.
#[derive(Debug, Default)]
struct Hole {
    /// First and last number, and how many of them no gap record told of.
    open: Option<(u64, u64, u64)>,
}

impl Hole {
    fn open(&mut self, from: u64, to: u64, others: &mut Vec<u8>) {
        self.close(others);
        self.open = Some((from, to, to - from + 1));
    }

    fn told(&mut self, from_seq: u64, to_seq: u64) {
        if let Some((from, to, untold)) = &mut self.open
            && from_seq > 0
            && from_seq.max(*from) <= to_seq.min(*to)
        {
            let told = to_seq.min(*to) - from_seq.max(*from) + 1;
            *untold = untold.saturating_sub(told);
        }
    }

    fn close(&mut self, others: &mut Vec<u8>) {
        if let Some((from, to, untold @ 1..)) = self.open.take() {
            put_gap(others, from, to, untold, LOST_ON_THE_WAY);
        }
    }
}

/// Why numbers are missing that nobody refused.
const LOST_ON_THE_WAY: &str = "lost on the way";

fn put_gap(out: &mut Vec<u8>, from_seq: u64, to_seq: u64, count: u64, reason: &str) {
    let body = RecordBody::Gap {
        from_seq,
        to_seq,
        count,
        reason: reason.to_owned(),
    };
    Record {
        seq: to_seq,
        timestamp_us: now_us(),
        body,
    }
    .encode(out);
}

/// Applies the encoded records of a batch that are neither metrics nor text.
pub(crate) fn apply_others(
    state: &mut RunState,
    writer: u32,
    mut others: &[u8],
) -> Result<Vec<EventBody>> {
    let mut told = Vec::new();
    while !others.is_empty() {
        let (record, used) = Record::decode(others).map_err(|source| StorageError::Batch {
            writer: state.writers[writer as usize].id.to_string(),
            source,
        })?;
        told.extend(state.apply_other(writer, record));
        others = &others[used..];
    }
    Ok(told)
}
