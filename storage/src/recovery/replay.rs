//! Taking in the commit logs of the owner before.

use std::fs::File;

use expman_model::time::now_us;
use expman_model::{RankState, Record, RecordBody};

use super::{Recovery, TextPlace};
use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::layout::WalFile;
use crate::rows::Rows;
use crate::run_writer::{WAL_FORMAT, apply_others};
use crate::state::RunState;
use crate::wal::{BatchFrame, Frame, Next, WRONG_LENGTH, WalHeader, WalReader};

/// Why records are missing that had been written.
const DAMAGED: &str = "damaged on disk";

/// Brings a run's state and its unsealed rows up to the end of the logs.
pub(super) struct Replay<'a> {
    state: &'a mut RunState,
    rows: &'a mut Rows,
    /// Rows that segments hold already.
    sealed: u64,
    /// Rows that damage cost so far.
    missing: u64,
    text_starts: Option<[u64; 2]>,
    text_ends: Option<[u64; 2]>,
    texts: &'a [TextPlace; 2],
    recovery: &'a mut Recovery,
}

impl<'a> Replay<'a> {
    pub(super) const fn new(
        state: &'a mut RunState,
        rows: &'a mut Rows,
        sealed: u64,
        texts: &'a [TextPlace; 2],
        recovery: &'a mut Recovery,
    ) -> Self {
        Self {
            state,
            rows,
            sealed,
            missing: 0,
            text_starts: None,
            text_ends: None,
            texts,
            recovery,
        }
    }

    /// Takes in the logs in their order; returns the lengths of the text files at their beginning and at their end.
    pub(super) fn logs(mut self, logs: &[WalFile]) -> Result<Option<[[u64; 2]; 2]>> {
        for (n, log) in logs.iter().enumerate() {
            self.log(log, logs.get(n + 1).map(|next| next.lo))?;
        }
        Ok(self.text_starts.zip(self.text_ends).map(|(s, e)| [s, e]))
    }

    /// Takes in one log; rows that segments hold already are left out, the rest of its frames are not.
    fn log(&mut self, log: &WalFile, next: Option<u64>) -> Result<()> {
        let mut reader = WalReader::open(&log.path)?;
        let header = match reader.next_frame()? {
            Ok(Frame::Header(header)) => header,
            Ok(_) => {
                let end = Next::Bad("the log does not begin with a header".to_owned());
                return self.end(&reader, 0, &end, next.is_none());
            }
            // A log gets its name when its header is in it: a crash does not cut it there.
            Err(Next::End) => {
                let end = Next::Bad("the header is cut off".to_owned());
                return self.end(&reader, 0, &end, next.is_none());
            }
            Err(end) => return self.end(&reader, 0, &end, next.is_none()),
        };
        if header.format > WAL_FORMAT {
            return Err(StorageError::Format {
                path: log.path.clone(),
                found: header.format,
                known: WAL_FORMAT,
            });
        }
        self.begin(log, &header);
        let fresh = header.lo >= self.sealed;
        let mut room = next.map_or(u64::MAX, |next| next.saturating_sub(header.lo));
        loop {
            let offset = reader.offset();
            match reader.next_frame()? {
                Ok(Frame::Writer(writer)) => self.state.adopt(&writer),
                Ok(Frame::Header(_)) => {}
                Ok(Frame::Batch(batch)) => {
                    let n = batch.rows.len() as u64;
                    if n > room {
                        // The log was given up here: this and what follows is in the next one, or was never reported.
                        return Ok(());
                    }
                    if next.is_none() && !self.has_text(&reader, &batch)? {
                        return self.end(&reader, offset, &Next::End, true);
                    }
                    room -= n;
                    self.batch(&reader, &batch, fresh)?;
                }
                // A log that was given up may end with anything, behind the rows that the next one continues.
                Err(_) if room == 0 => return Ok(()),
                Err(end) => return self.end(&reader, offset, &end, next.is_none()),
            }
        }
    }

    /// Whether the text of a batch is there. Text is synced in front of its frame, but a frame that was not synced
    /// can outlive a power cut alone: it then counts as torn, so that its sender sends it again.
    fn has_text(&self, reader: &WalReader, batch: &BatchFrame) -> Result<bool> {
        let id = reader.writers()[batch.writer as usize].id;
        let known = self.state.index.get(&id);
        let vouched = known.map_or(0, |&at| self.state.writers[at as usize].meta.durable_seq);
        // That much was synced when run.yaml was written: whatever the text files have become, it is kept.
        if batch.upto_seq <= vouched {
            return Ok(true);
        }
        let starts = self.text_ends.unwrap_or_default();
        for ((text, start), end) in self.texts.iter().zip(starts).zip(batch.text_ends) {
            // What stands in a piece was durable when the piece got its name.
            let TextPlace { path, base, .. } = text;
            let (start, end) = (start.saturating_sub(*base), end.saturating_sub(*base));
            if start >= end {
                continue;
            }
            let file = match File::open(path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                file => file.at("open", path)?,
            };
            let ends = [(start, b"["), (end - 1, b"\n")];
            for (at, byte) in ends {
                if durable::read_at(&file, path, at, 1)? != byte {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn begin(&mut self, log: &WalFile, header: &WalHeader) {
        self.state.meta.owner_epoch = self.state.meta.owner_epoch.max(header.epoch);
        self.text_starts.get_or_insert(header.text_ends);
        self.text_ends = Some(header.text_ends);
        let expected = self.sealed + self.rows.len() as u64 + self.missing;
        if header.lo > expected {
            self.recovery.problems.push(format!(
                "rows {expected} to {} in front of {} are missing",
                header.lo,
                log.path.display()
            ));
            self.missing += header.lo - expected;
        }
        for writer in &header.writers {
            let known = self.state.index.get(&writer.id).copied();
            let applied = known.map(|at| self.state.writers[at as usize].applied_seq);
            self.state.adopt(writer);
            if let (Some(at), Some(applied)) = (known, applied)
                && applied > 0
                && writer.upto_seq > applied
            {
                self.hole(at, applied + 1, writer.upto_seq);
            }
        }
    }

    /// Numbers whose records were written and can't be read back.
    fn hole(&mut self, writer: u32, from_seq: u64, to_seq: u64) {
        let body = RecordBody::Gap {
            from_seq,
            to_seq,
            count: to_seq - from_seq + 1,
            reason: DAMAGED.to_owned(),
        };
        let record = Record {
            seq: to_seq,
            timestamp_us: now_us(),
            body,
        };
        self.recovery
            .gaps
            .extend(self.state.apply_other(writer, record));
    }

    fn batch(&mut self, reader: &WalReader, batch: &BatchFrame, fresh: bool) -> Result<()> {
        self.text_ends = Some(batch.text_ends);
        let id = reader.writers()[batch.writer as usize].id;
        let (writer, _) = self.state.register(id, "", 0);
        let at = writer as usize;
        let from = self.rows.len();
        if fresh {
            self.rows.extend(&batch.rows);
            self.recovery.rows += batch.rows.len() as u64;
        }
        // What run.yaml counted already must not be counted twice.
        if batch.upto_seq > self.state.writers[at].meta.durable_seq {
            if fresh {
                self.state.apply_rows(writer, self.rows, from);
            }
            apply_others(self.state, writer, &batch.others)?;
            let w = &mut self.state.writers[at];
            w.applied_seq = batch.upto_seq.max(w.applied_seq);
            w.meta.accepted_seq = w.applied_seq.max(w.meta.accepted_seq);
            w.meta.durable_seq = w.applied_seq;
            if w.meta.state == RankState::Left {
                self.state.set(writer, RankState::Live);
            }
        }
        Ok(())
    }

    fn end(&mut self, reader: &WalReader, offset: u64, end: &Next, last: bool) -> Result<()> {
        let path = reader.path();
        let length = std::fs::metadata(path).at("stat", path)?.len();
        let rest = length - offset;
        if rest == 0 {
            return Ok(());
        }
        self.recovery.torn_bytes += rest;
        // A tail that is merely cut off is what a crash leaves; anything else is kept for a look.
        let damage = match end {
            // A power cut can leave the length of a write and not all of its bytes: what lacks is zeros.
            Next::Bad(_) if last && reader.ends_blank()? && !reader.frame_behind(offset)? => None,
            Next::Bad(what) => Some(what.as_str()),
            Next::End if !last => Some("the last frame is cut off"),
            Next::End if reader.frame_behind(offset)? => Some(WRONG_LENGTH),
            Next::End => None,
        };
        if let Some(what) = damage {
            let kept = path.with_extension("wal.corrupt");
            std::fs::copy(path, &kept).at("keep", &kept)?;
            self.recovery.problems.push(format!(
                "{} is damaged at byte {offset}: {what}; a copy is kept as {}",
                path.display(),
                kept.display()
            ));
        }
        Ok(())
    }
}
