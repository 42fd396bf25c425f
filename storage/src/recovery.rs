//! Opening a run for writing: a new one, one that was closed, or one whose owner died.

mod replay;

use std::path::PathBuf;
use std::time::Instant;

use expman_model::limits::TEXT_FILE_BYTES;
use expman_model::meta::RUN_FORMAT;
use expman_model::time::{now_us, rfc3339_us};
use expman_model::{EventBody, Param, RunId, RunMeta, RunStatus};

use self::replay::Replay;
use crate::catalog::ExperimentMeta;
use crate::error::{At, Result, StorageError};
use crate::events::EventLog;
use crate::layout::RunDir;
use crate::lock::OwnerLock;
use crate::pyramid::Upkeep;
use crate::reader::segment_chain;
use crate::rows::Rows;
use crate::run_writer::{Chores, Log, RunWriter, header};
use crate::sealer::{Sealer, Sorted, prepare, remove};
use crate::state::RunState;
use crate::text::{self, LogKind, Packer, TextFile};
use crate::wal::FrameEncoder;
use crate::{durable, segment, yaml};

/// What opening a run found and mended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovery {
    /// Whether the run existed.
    pub existed: bool,
    /// Rows read back from commit logs.
    pub rows: u64,
    /// Bytes of a torn frame that were cut.
    pub torn_bytes: u64,
    /// Damage that was set aside, in words.
    pub problems: Vec<String>,
    /// Records that the damage cost.
    gaps: Vec<EventBody>,
}

impl RunWriter {
    /// Opens the run under its lock; `seed` is the record of a run that does not exist yet.
    ///
    /// # Errors
    /// When the folder can't be written, or what stands there is damaged beyond a torn tail.
    pub fn open(lock: &OwnerLock, dir: &RunDir, seed: RunMeta) -> Result<(Self, Recovery)> {
        let fence = lock.fence();
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
        set_aside(dir, &chain, lo, &mut recovery)?;
        state.meta.rows = lo;
        let texts = [
            TextPlace::of(dir, LogKind::Run)?,
            TextPlace::of(dir, LogKind::Console)?,
        ];
        let lengths = texts.each_ref().map(|text| text.length);
        let logs = dir.wals()?;
        let [text_starts, text_ends] =
            Replay::new(&mut state, &mut rows, lo, &texts, &mut recovery)
                .logs(&logs)?
                .unwrap_or([lengths, lengths]);
        for n in 0..2 {
            if lengths[n] < text_ends[n] {
                recovery.problems.push(format!(
                    "{} lacks its last {} bytes",
                    texts[n].path.display(),
                    text_ends[n] - lengths[n]
                ));
            }
        }
        let generation = logs.iter().map(|l| l.epoch).max().unwrap_or(0) + 1;
        state.meta.owner_epoch += 1;
        state.meta.format = RUN_FORMAT;
        let bytes = std::fs::metadata(dir.metrics())
            .at("stat", &dir.metrics())?
            .len();
        let hi = lo + rows.len() as u64;
        let mut sums = Upkeep::new(dir.clone(), fence.clone());
        sums.prune(published)?;
        if hi > lo {
            let sorted = Sorted::of(&rows, lo, hi);
            prepare(&dir.segment(lo, hi), Some(&mut sums), &sorted)?.publish(Some(&fence))?;
            rows = Rows {
                keys: std::mem::take(&mut rows.keys),
                ..Rows::default()
            };
        }
        state.meta.rows = hi;
        let mut encoder = FrameEncoder::default();
        let mut frames = Vec::new();
        let header = header(&state, hi, text_ends);
        encoder.header(&mut frames, &header);
        let epoch = state.meta.owner_epoch;
        let now = Instant::now();
        let mut writer = Self {
            dir: dir.clone(),
            events: EventLog::open(&dir.events(), epoch.to_string())?,
            pending_events: Vec::new(),
            chores: Chores::default(),
            rows,
            spare: None,
            lo: hi,
            log: Log::create(dir, generation, &header, &frames, &fence)?,
            generation,
            encoder,
            run_log: TextFile::open(dir, LogKind::Run, text_starts[0], text_ends[0])?,
            console_log: TextFile::open(dir, LogKind::Console, text_starts[1], text_ends[1])?,
            packer: Packer::new(dir.clone(), fence.clone()),
            roll_bytes: roll_bytes(),
            guess: Vec::new(),
            sealer: Sealer::start(dir.clone(), fence.clone())?,
            published: (published, bytes),
            wanted: 0,
            merged: false,
            end_us: None,
            published_at: now,
            opened_at: now,
            saved_at: now,
            state,
            fence,
        };
        writer.begin(&mut recovery)?;
        writer.pack_left()?;
        for log in &logs {
            remove(&log.path)?;
        }
        if !logs.is_empty() {
            durable::sync_dir(&dir.hidden())?;
        }
        Ok((writer, recovery))
    }

    /// Marks the run as running, with everything read back durable under the new epoch.
    fn begin(&mut self, recovery: &mut Recovery) -> Result<()> {
        let epoch = self.state.meta.owner_epoch;
        if recovery.existed {
            let event = EventBody::OwnerChanged {
                epoch,
                recovered_rows: recovery.rows,
                torn_bytes: recovery.torn_bytes,
            };
            self.event(event);
        } else if let Some(run_id) = self.state.meta.id {
            self.event(EventBody::RunStarted { run_id, epoch });
        }
        for what in &recovery.problems {
            self.event(EventBody::Problem { what: what.clone() });
        }
        for gap in std::mem::take(&mut recovery.gaps) {
            self.event(gap);
        }
        self.set_status(RunStatus::Running);
        self.save()
    }
}

/// Where a text ends, and where its current file begins in it.
#[derive(Debug)]
struct TextPlace {
    path: PathBuf,
    base: u64,
    length: u64,
}

impl TextPlace {
    fn of(dir: &RunDir, kind: LogKind) -> Result<Self> {
        let path = dir.text(kind);
        let base = text::base(&text::pieces(dir, kind)?);
        let length = std::fs::metadata(&path).map_or(0, |m| m.len());
        Ok(Self {
            path,
            base,
            length: base + length,
        })
    }
}

/// How long a text file may become; only tests ask for another bound.
fn roll_bytes() -> u64 {
    let asked = std::env::var("EXPMAN_TEST_ROLL_BYTES").ok();
    asked
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or(TEXT_FILE_BYTES)
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
    let own = dir.hidden().join("experiment.yaml");
    let own = yaml::prepare(&own, &ExperimentMeta::default())?;
    durable::sync_all(&own.file, &own.tmp)?;
    match std::fs::hard_link(&own.tmp, &path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(e).at("create", &path);
        }
        _ => {}
    }
    durable::sync_dir(experiment)
}

/// The record of a run, whose folder is cleared of half-written files, or laid if it is new.
fn record(dir: &RunDir, seed: RunMeta, existed: bool) -> Result<RunMeta> {
    for tmp in dir.temporaries()? {
        remove(&tmp)?;
    }
    if !existed {
        return create(dir, seed);
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

/// Lays the folder of a new run: every file is there and valid before the first rank logs. Its record is returned, to be
/// saved last, when all else stands: with a record a run is there, and then all of it is.
fn create(dir: &RunDir, mut meta: RunMeta) -> Result<RunMeta> {
    durable::create_dir(&dir.artifacts())?;
    durable::create_dir(&dir.hidden())?;
    describe_experiment(dir)?;
    if !dir.metrics().exists() {
        segment::prepare_sorted(&dir.metrics(), &Rows::default(), 0)?.settle()?;
    }
    if !dir.config().exists() {
        yaml::prepare(&dir.config(), &Param::Map(Vec::new()))?.settle()?;
    }
    durable::sync_dir(dir.root())?;
    meta.format = RUN_FORMAT;
    meta.id.get_or_insert_with(RunId::generate);
    meta.started_at.get_or_insert_with(|| rfc3339_us(now_us()));
    Ok(meta)
}

/// Removes segments whose rows are published, and keeps the rest of those that do not continue them under another
/// name: nothing here makes such, so somebody should look at them.
fn set_aside(
    dir: &RunDir,
    chain: &[std::path::PathBuf],
    end: u64,
    recovery: &mut Recovery,
) -> Result<()> {
    for stale in dir.segments()? {
        if chain.contains(&stale.path) {
            continue;
        }
        if stale.hi <= end {
            remove(&stale.path)?;
            continue;
        }
        let kept = stale.path.with_extension("parquet.corrupt");
        std::fs::rename(&stale.path, &kept).at("keep", &kept)?;
        recovery.problems.push(format!(
            "rows {} to {} in front of {} are missing; it is kept as {}",
            end,
            stale.lo,
            stale.path.display(),
            kept.display()
        ));
    }
    Ok(())
}
