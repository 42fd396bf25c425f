//! Looking: every file of a run is read as far as it goes, and nothing is changed.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use expman_model::meta::RUN_FORMAT;
use expman_model::{Param, RankState, RunMeta};
use serde_json::Value as Json;

use super::census::Census;
use super::record;
use super::{Code, Finding, Life, Severity, Tools};
use crate::catalog::{RunEntry, RunKind};
use crate::error::StorageError;
use crate::layout::RunDir;
use crate::reader::{Filter, segment_chain, snapshot};
use crate::run_writer::WAL_FORMAT;
use crate::spool::{self, SpoolHeader, SpoolReader};
use crate::wal::{Frame, WalReader};
use crate::{events, legacy, segment, yaml};

/// A run whose ranks are on a host that can't be asked is not touched while it was written to so recently.
const ELSEWHERE_FRESH: Duration = Duration::from_secs(600);

/// `EXPERIMENT/RUN`.
pub(super) fn name(run: &RunEntry) -> String {
    format!("{}/{}", run.experiment, run.run)
}

/// One look at one run.
pub(super) struct Look<'a> {
    run: &'a RunEntry,
    pub(super) dir: &'a RunDir,
    /// Whether nobody may write the run, so that it can be mended.
    free: bool,
    /// Whether its ranks may come back and start an owner, which will set right what is merely unfinished.
    awaited: bool,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Look<'a> {
    /// Everything that is to be said about a run.
    pub(super) fn at(run: &'a RunEntry, tools: &Tools<'_>) -> Self {
        let mut look = Self {
            run,
            dir: &run.dir,
            free: false,
            awaited: false,
            findings: Vec::new(),
        };
        if run.kind == RunKind::ExpmanRs {
            look.foreign();
            return look;
        }
        if look.links() || look.newer() {
            return look;
        }
        look.awaited = !run.owned && look.ranks_live(tools);
        look.free = !run.owned && !look.awaited;
        let meta = look.record();
        if run.owned {
            // Its other files change while they are looked at; what their reader says is sure.
            look.note(Code::Owned, "a process writes it; it is left alone");
            if let Err(e) = snapshot(look.dir, &no_rows()) {
                look.add(
                    Severity::Damage,
                    Code::Metrics,
                    look.dir.metrics(),
                    e,
                    false,
                );
            }
            return look;
        }
        let events = look.events();
        look.params(&events);
        let census = look.rows(&events);
        look.sums();
        look.spool();
        look.texts();
        look.temporaries();
        look.artifacts(&events);
        let open = look.unfinished(meta.as_ref());
        if let (Some(meta), Some(census), false) = (&meta, census, open) {
            look.counts(meta, &census);
        }
        look.gaps(meta.as_ref());
        look.copies();
        look
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        code: Code,
        path: PathBuf,
        what: impl std::fmt::Display,
        fixable: bool,
    ) {
        let unfinished = self.awaited && severity == Severity::Warning;
        self.findings.push(Finding {
            run: name(self.run),
            severity: if unfinished { Severity::Note } else { severity },
            code,
            what: what.to_string(),
            path,
            fixable: fixable && self.free,
            fixed: false,
        });
    }

    fn note(&mut self, code: Code, what: impl std::fmt::Display) {
        self.add(
            Severity::Note,
            code,
            self.dir.root().to_owned(),
            what,
            false,
        );
    }

    fn foreign(&mut self) {
        let mut problems: Vec<_> = self.run.problem.iter().cloned().collect();
        match legacy::read_rows(self.run, &Filter::default()) {
            Ok(read) => problems.extend(read.problems),
            Err(e) => problems.push(e.to_string()),
        }
        for what in problems {
            let path = self.dir.root().to_owned();
            self.add(Severity::Warning, Code::Foreign, path, what, false);
        }
    }

    /// A run of a newer version is not judged by what this one knows.
    fn newer(&mut self) -> bool {
        let mut newer = Vec::new();
        let mut judge = |path: PathBuf, found: u32, known: u32| {
            if found > known {
                newer.push((path.clone(), StorageError::Format { path, found, known }));
            }
        };
        judge(self.dir.meta(), self.run.meta.format, RUN_FORMAT);
        for log in self.dir.wals().unwrap_or_default() {
            let header = WalReader::open(&log.path).and_then(|mut log| log.header());
            if let Ok(Some(header)) = header {
                judge(log.path, header.format, WAL_FORMAT);
            }
        }
        let found = !newer.is_empty();
        for (path, what) in newer {
            self.add(Severity::Warning, Code::NewerFormat, path, what, false);
        }
        found
    }

    /// Ranks that wait for an owner may start one at any moment.
    fn ranks_live(&mut self, tools: &Tools<'_>) -> bool {
        let written = last_written(self.dir);
        let mut live = Vec::new();
        for (rank, host, pid) in self.open_ranks() {
            let lives = match (tools.life)(&host, pid, written) {
                Life::Gone => false,
                Life::Lives => true,
                Life::Elsewhere => written.elapsed().is_ok_and(|age| age < ELSEWHERE_FRESH),
            };
            if lives {
                let who = format!("rank {rank} (process {pid} on {host})");
                if !live.contains(&who) {
                    live.push(who);
                }
            }
        }
        if !live.is_empty() {
            let what = format!("{} may be alive; the run is left alone", live.join(", "));
            self.note(Code::RanksLive, what);
        }
        !live.is_empty()
    }

    /// Processes that never said that they left: by the record, and by the last commit log.
    fn open_ranks(&self) -> Vec<(u32, String, u32)> {
        let noted: Option<RunMeta> = yaml::read(&self.dir.meta()).ok().flatten();
        let ranks = noted.map(|meta| meta.ranks).unwrap_or_default();
        let mut open = Vec::new();
        for (rank, process) in ranks
            .iter()
            .flat_map(|(r, all)| all.iter().map(move |p| (r, p)))
        {
            if process.state == RankState::Live {
                open.push((*rank, process.host.clone(), process.pid));
            }
        }
        for file in spool::files(self.dir).unwrap_or_default() {
            if let Ok(reader) = SpoolReader::open(&file.path) {
                let SpoolHeader { id, host, pid, .. } = reader.header();
                open.push((id.rank, host.clone(), *pid));
            }
        }
        let last = self.dir.wals().unwrap_or_default().pop();
        let Some(mut log) = last.and_then(|log| WalReader::open(&log.path).ok()) else {
            return open;
        };
        while matches!(log.next_frame(), Ok(Ok(_))) {}
        for writer in log.writers() {
            let known = ranks.get(&writer.id.rank).into_iter().flatten();
            let known = known
                .into_iter()
                .any(|p| p.incarnation == writer.id.incarnation);
            if !known {
                open.push((writer.id.rank, writer.host.clone(), writer.pid));
            }
        }
        open
    }

    fn record(&mut self) -> Option<RunMeta> {
        let path = self.dir.meta();
        let what = match yaml::read::<RunMeta>(&path) {
            Ok(Some(meta)) => return Some(meta),
            Ok(None) => format!("{} is missing", path.display()),
            Err(e) => e.to_string(),
        };
        self.add(Severity::Damage, Code::Record, path, what, true);
        None
    }

    fn events(&mut self) -> Vec<Json> {
        let path = self.dir.events();
        match events::read(&path) {
            Ok((events, malformed)) => {
                if let Some(first) = malformed.first() {
                    let what = format!(
                        "{}: {} lines are no events, the first is line {}: {}",
                        path.display(),
                        malformed.len(),
                        first.line,
                        first.what
                    );
                    self.add(Severity::Warning, Code::Events, path, what, true);
                }
                events
            }
            Err(e) => {
                self.add(Severity::Damage, Code::Events, path, e, false);
                Vec::new()
            }
        }
    }

    fn params(&mut self, events: &[Json]) {
        let path = self.dir.config();
        let what = match yaml::read::<Param>(&path) {
            Err(e) => e.to_string(),
            Ok(None) if events.iter().any(|e| e["type"] == "params") => {
                format!("{} is missing", path.display())
            }
            Ok(_) => return,
        };
        // Whatever of it can be read is kept; without a file only commit logs know.
        let fixable = path.exists() || record::logged_params(self.dir).is_some();
        self.add(Severity::Damage, Code::Params, path, what, fixable);
    }

    /// Reads all Parquet files whole, and all commit logs; none when the rows can't be counted.
    fn rows(&mut self, events: &[Json]) -> Option<Census> {
        let mut census = Census::default();
        let metrics = self.dir.metrics();
        let counted = match census.count(&metrics) {
            Err(e) if e.is_not_found() => Err(format!("{} is missing", metrics.display())),
            Err(e) => Err(e.to_string()),
            Ok(hi) if hi != census.rows => Err(format!(
                "{} claims {hi} rows and holds {}",
                metrics.display(),
                census.rows
            )),
            Ok(_) => Ok(()),
        };
        if let Err(what) = counted {
            let used = events.iter().any(|e| e["type"] == "rank_joined") || self.run.meta.rows > 0;
            let fixable = !used || self.is_whole_without_metrics();
            self.add(Severity::Damage, Code::Metrics, metrics, what, fixable);
            return None;
        }
        let before = self.findings.len();
        let mut end = census.rows;
        for path in segment_chain(self.dir, &mut end).unwrap_or_default() {
            if let Err(e) = Census::default().count(&path) {
                self.add(Severity::Damage, Code::Segment, path, e, false);
            }
        }
        self.logs();
        (self.findings.len() == before).then_some(census)
    }

    /// Whether segments and logs hold the run from its first row on, as far as its record knows.
    fn is_whole_without_metrics(&self) -> bool {
        let mut end = 0;
        let chain = segment_chain(self.dir, &mut end).unwrap_or_default();
        let mut held = end;
        for log in self.dir.wals().unwrap_or_default() {
            let Ok(mut reader) = WalReader::open(&log.path) else {
                continue;
            };
            let mut hi = log.lo;
            while let Ok(Ok(frame)) = reader.next_frame() {
                if let Frame::Batch(batch) = frame {
                    hi += batch.rows.len() as u64;
                }
            }
            // One behind a hole is of no use.
            held = if log.lo <= held { held.max(hi) } else { held };
        }
        let readable = chain.iter().all(|path| segment::read_hi(path).is_ok());
        held > 0 && held >= self.run.meta.rows && readable
    }

    fn logs(&mut self) {
        for log in self.dir.wals().unwrap_or_default() {
            let header = WalReader::open(&log.path).and_then(|mut log| log.header());
            if let Err(e) = header {
                self.add(Severity::Damage, Code::Log, log.path, e, true);
                return;
            }
        }
        let root = self.dir.root().to_owned();
        match snapshot(self.dir, &no_rows()) {
            Ok(found) => {
                for what in found.problems {
                    self.add(Severity::Damage, Code::Log, root.clone(), what, true);
                }
            }
            Err(e @ StorageError::MissingRows { .. }) => {
                // Opening the run keeps what stands behind the hole, and tells of the loss.
                self.add(Severity::Damage, Code::RowsMissing, root, e, true);
            }
            // A damaged segment has been told of.
            Err(_) if self.findings.iter().any(|f| f.code == Code::Segment) => {}
            Err(e) => self.add(Severity::Damage, Code::Log, root, e, false),
        }
    }

    /// Whether the run was not brought to its end; its logs and segments are then what recovery reads.
    fn unfinished(&mut self, meta: Option<&RunMeta>) -> bool {
        let logs = self.dir.wals().unwrap_or_default().len();
        let segments = self.dir.segments().unwrap_or_default().len();
        let running = meta.is_some_and(|m| !m.status.is_finished());
        if !running && logs + segments == 0 {
            return false;
        }
        let status = meta.map_or("unknown", |m| m.status.as_str());
        let what = format!(
            "status {status}, and no process owns it: {logs} commit logs and {segments} segments are not merged"
        );
        let lost = |f: &Finding| matches!(f.code, Code::Metrics | Code::Segment) && !f.fixable;
        let fixable = !self.findings.iter().any(lost);
        let root = self.dir.root().to_owned();
        self.add(Severity::Warning, Code::NotClosed, root, what, fixable);
        true
    }

    fn counts(&mut self, meta: &RunMeta, census: &Census) {
        let told = census.disagreements(meta);
        if !told.is_empty() {
            let path = self.dir.meta();
            let what = format!("{} counts {}", path.display(), told.join(", "));
            self.add(Severity::Warning, Code::Counts, path, what, true);
        }
    }

    fn gaps(&mut self, meta: Option<&RunMeta>) {
        for (rank, processes) in meta.into_iter().flat_map(|m| &m.ranks) {
            for (reason, count) in processes.iter().flat_map(|p| &p.dropped) {
                self.note(
                    Code::Gap,
                    format!("rank {rank} left out {count} records: {reason}"),
                );
            }
        }
    }
}

/// When the run was written to for the last time.
fn last_written(dir: &RunDir) -> SystemTime {
    let mut files = vec![dir.meta(), dir.events()];
    files.extend(dir.wals().unwrap_or_default().into_iter().map(|w| w.path));
    let times = files
        .iter()
        .filter_map(|f| std::fs::metadata(f).ok()?.modified().ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn no_rows() -> Filter {
    Filter {
        keys: Some(std::collections::HashSet::new()),
        ..Filter::default()
    }
}
