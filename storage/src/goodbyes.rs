//! The ends of ranks that `run.yaml` does not tell yet: `.expman/goodbyes.jsonl`, one JSON line each.
//!
//! `run.yaml` has a record of every rank, so saving it for each one that leaves would cost the square of their number.
//! A rank's end is a line here, durable before the rank is told so; the next `run.yaml` has it, too, and the lines go.
//! Until then readers lay the lines over the record, and the next owner takes them in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use expman_model::{RankMeta, RunMeta, WriterId};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::layout::RunDir;
use crate::lock::Fence;
use crate::sealer::remove;

/// How processes stand by their last lines.
pub type Told = BTreeMap<WriterId, RankMeta>;

/// What is longer is none of ours.
const BYTES_MAX: u64 = 256 << 20;

/// One line: how a process of a rank stands.
#[derive(Debug, Serialize, Deserialize)]
struct Line<M> {
    rank: u32,
    process: M,
}

/// The file, as its owner writes it.
#[derive(Debug, Default)]
pub(crate) struct Goodbyes {
    file: Option<File>,
    /// Bytes of whole lines in it.
    written: u64,
    /// It failed: what it has stays until `run.yaml` is written, and nothing is added.
    pub(crate) spoilt: bool,
    /// Processes that came back since a line told of their end.
    pub(crate) back: Vec<u32>,
}

impl Goodbyes {
    /// Adds lines durably.
    ///
    /// # Errors
    /// When they can't be written; none of them counts then.
    pub(crate) fn add<'a>(
        &mut self,
        dir: &RunDir,
        fence: &Fence,
        ends: impl Iterator<Item = (u32, &'a RankMeta)>,
    ) -> Result<()> {
        let path = dir.goodbyes();
        let mut lines = Vec::new();
        for (rank, process) in ends {
            serde_json::to_writer(&mut lines, &Line { rank, process }).map_err(|e| {
                StorageError::Damaged {
                    path: path.clone(),
                    offset: 0,
                    what: e.to_string(),
                }
            })?;
            lines.push(b'\n');
        }
        fence.check()?;
        let done = self.write(dir, &lines);
        self.spoilt = done.is_err();
        done
    }

    fn write(&mut self, dir: &RunDir, lines: &[u8]) -> Result<()> {
        let path = dir.goodbyes();
        let is_new = self.file.is_none();
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(durable::create(&path)?),
        };
        durable::write_at(file, &path, lines, self.written)?;
        durable::sync_data(file, &path)?;
        if is_new {
            durable::sync_dir(&dir.hidden())?;
        }
        self.written += lines.len() as u64;
        Ok(())
    }

    /// Takes the lines away: `run.yaml` tells all of them.
    pub(crate) fn clear(&mut self, dir: &RunDir) -> Result<()> {
        self.back.clear();
        if self.spoilt {
            return self.remove(dir);
        }
        if self.written > 0
            && let Some(file) = &self.file
        {
            file.set_len(0).at("cut", &dir.goodbyes())?;
        }
        self.written = 0;
        Ok(())
    }

    /// Takes the file away.
    pub(crate) fn remove(&mut self, dir: &RunDir) -> Result<()> {
        *self = Self::default();
        remove(&dir.goodbyes())
    }
}

/// The last line of each process, up to the first that a crash left torn; `None` when there is no file.
///
/// # Errors
/// When the file is there and can't be read.
pub fn read(dir: &RunDir) -> Result<Option<Told>> {
    let path = dir.goodbyes();
    let file = match durable::open_read(&path) {
        Err(e) if e.is_not_found() => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .at("read", &path)?;
    let mut told = Told::new();
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        let Ok(Line::<RankMeta> { rank, process }) = serde_json::from_slice(line) else {
            break;
        };
        let id = WriterId {
            rank,
            incarnation: process.incarnation,
        };
        told.insert(id, process);
    }
    Ok(Some(told))
}

/// Whether a line tells more than a record: after a power cut there may be lines that are older than `run.yaml`.
pub(crate) fn is_news(line: &RankMeta, known: &RankMeta) -> bool {
    line.durable_seq >= known.durable_seq && line.left_at >= known.left_at
}

/// Lays the ends that a run's record lacks over it.
pub fn lay_over(told: Told, meta: &mut RunMeta) {
    for (id, line) in told {
        let rank = meta.ranks.entry(id.rank).or_default();
        match rank.iter_mut().find(|p| p.incarnation == id.incarnation) {
            Some(known) if is_news(&line, known) => *known = line,
            Some(_) => {}
            None => rank.push(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expman_model::{Incarnation, Point, RankState, Record, RecordBody, RunStatus, Value};

    use super::*;
    use crate::{OwnerLock, RunWriter, catalog, faults, yaml};

    fn id(rank: u32) -> WriterId {
        WriterId {
            rank,
            incarnation: Incarnation(rank.into()),
        }
    }

    fn open(dir: &RunDir) -> (OwnerLock, RunWriter) {
        let lock = OwnerLock::take(dir).unwrap();
        let (writer, _) = RunWriter::open(&lock, dir, RunMeta::default()).unwrap();
        (lock, writer)
    }

    fn log(writer: &mut RunWriter, at: u32, seq: u64) {
        let mut bytes = Vec::new();
        let body = RecordBody::Metrics {
            step: Some(seq.cast_signed()),
            points: vec![Point::new("loss", Value::Int(1))],
        };
        Record {
            seq,
            timestamp_us: 1,
            body,
        }
        .encode(&mut bytes);
        writer.append(at, &bytes).unwrap();
    }

    /// A run of some ranks, of which the record on disk knows that they joined.
    fn run(dir: &RunDir, ranks: u32) -> (OwnerLock, RunWriter) {
        let (lock, mut writer) = open(dir);
        for rank in 0..ranks {
            let at = writer.register(id(rank), "h", 1).index;
            log(&mut writer, at, 1);
        }
        writer.save().unwrap();
        // As if the record were so large that it can't be written again for long.
        writer.save_took = Duration::from_secs(60);
        (lock, writer)
    }

    fn leave(writer: &mut RunWriter, rank: u32, state: RankState, status: RunStatus) {
        let at = writer.find(id(rank)).unwrap();
        writer.leave(at, state, status, "");
        assert!(writer.try_keep_ends(std::iter::once(at)).unwrap());
    }

    fn told(dir: &RunDir) -> Vec<(RankState, RunStatus, u64)> {
        let meta = catalog::open_run(dir.root()).unwrap().meta;
        let ranks = meta.ranks.values().flatten();
        ranks.map(|p| (p.state, p.status, p.rows)).collect()
    }

    #[test]
    fn ranks_that_leave_one_after_the_other_do_not_rewrite_the_record_and_are_known_after_a_crash()
    {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        let (lock, mut writer) = run(&dir, 4);
        let before = std::fs::read(dir.meta()).unwrap();
        log(&mut writer, 0, 2);
        leave(&mut writer, 0, RankState::Left, RunStatus::Finished);
        leave(&mut writer, 1, RankState::Left, RunStatus::Failed);
        leave(&mut writer, 2, RankState::Lost, RunStatus::Crashed);
        assert_eq!(std::fs::read(dir.meta()).unwrap(), before);
        let ends = [
            (RankState::Left, RunStatus::Finished, 2),
            (RankState::Left, RunStatus::Failed, 1),
            (RankState::Lost, RunStatus::Crashed, 1),
        ];
        // Its readers see them while it lives, and when nobody owns it any more.
        let running = (RankState::Live, RunStatus::Running, 1);
        assert_eq!(told(&dir), [&ends[..], &[running]].concat());
        drop((lock, writer));
        let crashed = (RankState::Lost, RunStatus::Crashed, 1);
        assert_eq!(told(&dir), [&ends[..], &[crashed]].concat());

        let (lock, mut writer) = open(&dir);
        assert_eq!(writer.live().len(), 1);
        assert!(!dir.goodbyes().exists());
        let at = writer.find(id(3)).unwrap();
        writer.leave(at, RankState::Left, RunStatus::Finished, "");
        assert!(writer.try_keep_ends(std::iter::once(at)).unwrap());
        let meta: RunMeta = yaml::read(&dir.meta()).unwrap().unwrap();
        assert_eq!(
            meta.rank_counts().live,
            0,
            "who leaves last is in the record"
        );
        writer.finish().unwrap();
        drop((lock, writer));
        let left = (RankState::Left, RunStatus::Finished, 1);
        assert_eq!(told(&dir), [&ends[..], &[left]].concat());
    }

    #[test]
    fn who_comes_back_is_there_again_and_a_line_that_was_cut_is_passed_over() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        let (lock, mut writer) = run(&dir, 3);
        leave(&mut writer, 0, RankState::Lost, RunStatus::Crashed);
        leave(&mut writer, 1, RankState::Lost, RunStatus::Crashed);
        writer.register(id(0), "h", 1);
        leave(&mut writer, 1, RankState::Left, RunStatus::Finished);
        // Rank 2's line is not whole.
        leave(&mut writer, 2, RankState::Lost, RunStatus::Crashed);
        drop((lock, writer));
        let lines = std::fs::read(dir.goodbyes()).unwrap();
        durable::replace(&dir.goodbyes(), &lines[..lines.len() - 5]).unwrap();
        let (_lock, writer) = open(&dir);
        let live: Vec<_> = writer.live().iter().map(|w| w.id.rank).collect();
        assert_eq!(live, [0, 2]);
        assert!(writer.has_left(writer.find(id(1)).unwrap()));
    }

    #[test]
    fn when_a_line_can_t_be_written_the_record_is() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        faults::watch(dir.root());
        let (_lock, mut writer) = run(&dir, 4);
        leave(&mut writer, 0, RankState::Left, RunStatus::Finished);
        let fault = faults::Fault {
            call: faults::Call::Sync,
            after: 0,
            times: 1,
            error: rustix::io::Errno::IO,
        };
        faults::fail(dir.root(), fault);
        leave(&mut writer, 1, RankState::Left, RunStatus::Finished);
        let meta: RunMeta = yaml::read(&dir.meta()).unwrap().unwrap();
        assert_eq!(meta.rank_counts().live, 2);
        assert!(!dir.goodbyes().exists(), "it is not used again");
    }
}
