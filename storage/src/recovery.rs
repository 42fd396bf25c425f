//! Opening a run for writing: a new one, one that was closed, or one whose owner died.

use std::time::Instant;

use expman_model::meta::RUN_FORMAT;
use expman_model::time::{now_us, rfc3339_us};
use expman_model::{EventBody, Param, RankState, RunId, RunMeta, RunStatus};

use crate::catalog::ExperimentMeta;
use crate::error::{At, Result, StorageError};
use crate::events::EventLog;
use crate::layout::{RunDir, WalFile};
use crate::lock::OwnerLock;
use crate::reader::segment_chain;
use crate::rows::Rows;
use crate::run_writer::{Log, RunWriter, WAL_FORMAT, apply_others, header};
use crate::sealer::{Sealer, remove};
use crate::state::RunState;
use crate::text::TextFile;
use crate::wal::{Frame, FrameEncoder, Next, WalReader};
use crate::{durable, segment, yaml};

/// What opening a run found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whether the run existed.
    pub existed: bool,
    /// Rows read back from commit logs.
    pub rows: u64,
    /// Bytes of a torn frame that were cut.
    pub torn_bytes: u64,
    /// Damage that was set aside, in words.
    pub problems: Vec<String>,
}

impl RunWriter {
    /// Opens the run under its lock; `seed` is the record of a run that does not exist yet.
    ///
    /// # Errors
    /// When the folder can't be written, or what stands there is damaged beyond a torn tail.
    pub fn open(_lock: &OwnerLock, dir: &RunDir, seed: RunMeta) -> Result<(Self, Recovery)> {
        let mut recovery = Recovery {
            existed: dir.meta().exists(),
            ..Recovery::default()
        };
        let meta = record(dir, seed, recovery.existed)?;
        let params = yaml::read(&dir.config())?.unwrap_or(Param::Map(Vec::new()));
        let mut rows = Rows::default();
        let mut state = RunState::new(meta, params, &mut rows.keys);
        let published = segment::read_hi(&dir.metrics())?;
        let mut lo = published;
        let chain = segment_chain(dir, &mut lo)?;
        for stale in dir
            .segments()?
            .into_iter()
            .filter(|s| !chain.contains(&s.path))
        {
            remove(&stale.path)?;
        }
        state.meta.rows = lo;
        let text_ends =
            [dir.run_log(), dir.console_log()].map(|p| std::fs::metadata(p).map_or(0, |m| m.len()));
        let mut replay = Replay {
            state: &mut state,
            rows: &mut rows,
            text_ends: None,
            recovery: &mut recovery,
        };
        let logs = dir.wals()?;
        for (n, log) in logs.iter().enumerate() {
            replay.log(log, lo, n + 1 == logs.len())?;
        }
        let text_ends = replay.text_ends.unwrap_or(text_ends);
        let generation = logs.iter().map(|l| l.epoch).max().unwrap_or(0) + 1;
        state.meta.owner_epoch += 1;
        state.meta.format = RUN_FORMAT;
        let bytes = std::fs::metadata(dir.metrics())
            .at("stat", &dir.metrics())?
            .len();
        let hi = lo + rows.len() as u64;
        if hi > lo {
            segment::write_sorted(&dir.segment(lo, hi), &rows, hi)?;
            rows = Rows {
                keys: std::mem::take(&mut rows.keys),
                ..Rows::default()
            };
        }
        state.meta.rows = hi;
        let mut encoder = FrameEncoder::default();
        let mut pending = Vec::new();
        encoder.header(
            &mut pending,
            &header(&state, hi, text_ends[0], text_ends[1]),
        );
        let path = dir.wal(hi, generation);
        let file = durable::create(&path)?;
        let epoch = state.meta.owner_epoch;
        let now = Instant::now();
        let mut writer = Self {
            dir: dir.clone(),
            events: EventLog::open(&dir.events(), epoch.to_string())?,
            pending_events: Vec::new(),
            rows,
            lo: hi,
            log: Log {
                path,
                file,
                generation,
                written: 0,
                pending,
                dirty: true,
            },
            encoder,
            run_log: TextFile::open(&dir.run_log(), text_ends[0])?,
            console_log: TextFile::open(&dir.console_log(), text_ends[1])?,
            guess: Vec::new(),
            sealer: Sealer::start(dir.clone())?,
            published: (published, bytes),
            published_at: now,
            opened_at: now,
            saved_at: now,
            state,
        };
        writer.begin(&recovery)?;
        for log in &logs {
            remove(&log.path)?;
        }
        durable::sync_dir(&dir.hidden())?;
        Ok((writer, recovery))
    }

    /// Marks the run as running, with everything read back durable under the new epoch.
    fn begin(&mut self, recovery: &Recovery) -> Result<()> {
        let epoch = self.state.meta.owner_epoch;
        if recovery.existed {
            let event = EventBody::OwnerChanged {
                epoch,
                recovered_rows: recovery.rows,
                torn_bytes: recovery.torn_bytes,
            };
            self.pending_events.push(event);
        } else if let Some(run_id) = self.state.meta.id {
            self.pending_events
                .push(EventBody::RunStarted { run_id, epoch });
        }
        for what in &recovery.problems {
            self.pending_events
                .push(EventBody::Problem { what: what.clone() });
        }
        self.set_status(RunStatus::Running);
        durable::sync_dir(&self.dir.hidden())?;
        self.save()
    }
}

/// Makes `experiment.yaml` when nobody did; owners of several runs may come at once, and one of them wins.
fn describe_experiment(dir: &RunDir) -> Result<()> {
    let Some(experiment) = dir.root().parent() else {
        return Ok(());
    };
    let path = experiment.join("experiment.yaml");
    if path.exists() {
        return Ok(());
    }
    let own = dir.hidden().join("experiment.yaml.tmp");
    yaml::write(&own, &ExperimentMeta::default())?;
    match std::fs::hard_link(&own, &path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(e).at("create", &path);
        }
        _ => {}
    }
    remove(&own)?;
    durable::sync_dir(experiment)
}

/// The record of a run, whose folder is cleared of half-written files, or laid if it is new.
fn record(dir: &RunDir, seed: RunMeta, existed: bool) -> Result<RunMeta> {
    for tmp in dir.temporaries()? {
        remove(&tmp)?;
    }
    if !existed {
        create(dir, &seed)?;
    }
    let meta: RunMeta = yaml::read(&dir.meta())?.unwrap_or(seed);
    if meta.format > RUN_FORMAT {
        return Err(StorageError::Format {
            path: dir.meta(),
            found: meta.format,
            known: RUN_FORMAT,
        });
    }
    Ok(meta)
}

/// Lays the folder of a new run: every file is there and valid before the first rank logs.
fn create(dir: &RunDir, seed: &RunMeta) -> Result<()> {
    durable::create_dir(&dir.artifacts())?;
    durable::create_dir(&dir.hidden())?;
    describe_experiment(dir)?;
    if !dir.metrics().exists() {
        segment::write_sorted(&dir.metrics(), &Rows::default(), 0)?;
    }
    if !dir.config().exists() {
        yaml::write(&dir.config(), &Param::Map(Vec::new()))?;
    }
    let mut meta = seed.clone();
    meta.format = RUN_FORMAT;
    meta.id.get_or_insert_with(RunId::generate);
    meta.started_at.get_or_insert_with(|| rfc3339_us(now_us()));
    yaml::write(&dir.meta(), &meta)
}

struct Replay<'a> {
    state: &'a mut RunState,
    rows: &'a mut Rows,
    text_ends: Option<[u64; 2]>,
    recovery: &'a mut Recovery,
}

impl Replay<'_> {
    /// Takes in one log; rows that segments hold already are left out, the rest of its frames are not.
    fn log(&mut self, log: &WalFile, sealed: u64, last: bool) -> Result<()> {
        let mut reader = WalReader::open(&log.path)?;
        let Some(header) = reader.header()? else {
            return Ok(());
        };
        if header.format > WAL_FORMAT {
            return Err(StorageError::Format {
                path: log.path.clone(),
                found: header.format,
                known: WAL_FORMAT,
            });
        }
        self.state.meta.owner_epoch = self.state.meta.owner_epoch.max(header.epoch);
        self.text_ends = Some(header.text_ends);
        for writer in &header.writers {
            self.state.adopt(writer);
        }
        let expected = sealed + self.rows.len() as u64;
        if header.lo > expected {
            return Err(StorageError::MissingRows {
                path: log.path.clone(),
                from: expected,
                to: header.lo,
            });
        }
        let fresh = header.lo >= sealed;
        loop {
            match reader.next_frame()? {
                Ok(Frame::Writer(writer)) => self.state.adopt(&writer),
                Ok(Frame::Header(_)) => {}
                Ok(Frame::Batch(batch)) => self.batch(&reader, &batch, fresh)?,
                Err(end) => return self.end(&reader, &end, last),
            }
        }
    }

    fn batch(
        &mut self,
        reader: &WalReader,
        batch: &crate::wal::BatchFrame,
        fresh: bool,
    ) -> Result<()> {
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
            w.meta.accepted_seq = w.applied_seq;
            w.meta.durable_seq = w.applied_seq;
            if w.meta.state == RankState::Left {
                w.meta.state = RankState::Live;
            }
        }
        Ok(())
    }

    fn end(&mut self, reader: &WalReader, end: &Next, last: bool) -> Result<()> {
        let path = reader.path();
        let length = std::fs::metadata(path).at("stat", path)?.len();
        let rest = length - reader.offset();
        if rest == 0 {
            return Ok(());
        }
        self.recovery.torn_bytes += rest;
        // A tail that is merely cut off is what a crash leaves; anything else is kept for a look.
        let damage = match end {
            Next::Bad(what) => Some(what.as_str()),
            Next::End if !last => Some("the last frame is cut off"),
            Next::End => None,
        };
        if let Some(what) = damage {
            let kept = path.with_extension("wal.corrupt");
            std::fs::copy(path, &kept).at("keep", &kept)?;
            self.recovery.problems.push(format!(
                "{} is damaged at byte {}: {what}; a copy is kept as {}",
                path.display(),
                reader.offset(),
                kept.display()
            ));
        }
        Ok(())
    }
}
