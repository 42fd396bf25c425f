//! What is known of how a run failed: who failed first, with which traceback, and what each said last.
//!
//! It is put together from `run.yaml` (how each process ended by its own words, or that it vanished), `events.jsonl`
//! (why it counts as lost), `run.log` (exceptions that nobody caught) and what stands last in both logs.

mod json;
mod lines;
mod process;

use std::collections::BTreeMap;

use expman_model::record::UNCAUGHT;
use expman_model::time::parse_rfc3339;
use expman_model::traceback::{Group, HEAD, Tracebacks};
use expman_model::{RankMeta, RankState, RunStatus};
use memchr::memmem;

pub use self::lines::{LastLine, Said};
use self::lines::{Lines, take_tracebacks};
use self::process::{Process, processes};
use crate::catalog::RunEntry;
use crate::error::Result;
use crate::events;
use crate::layout::RunDir;
use crate::tail::TextTail;
use crate::text::{LogKind, LogLine};

/// What stands in front of the traceback that ends a process; in front of others stands another thread, or a cell.
const IN_MAIN: &[u8] = b"uncaught in thread MainThread\n";

/// See the module.
#[derive(Debug, Default)]
pub struct Crash {
    /// Processes that ended badly, the first one first; then those that ended well, or live, though one of their
    /// threads raised what nobody caught.
    pub failures: Vec<Failure>,
    /// Tracebacks, those of the first failure first.
    pub tracebacks: Vec<Group>,
    /// Tracebacks for which there was no room.
    pub left_out: u64,
    /// Forked children that vanished while their parent went on; such as loaders of data that are done.
    pub children: usize,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// A process that failed.
#[derive(Debug)]
pub struct Failure {
    /// Its rank.
    pub rank: u32,
    /// Its record in `run.yaml`.
    pub process: RankMeta,
    /// Whether the rank had another process before or after it, or it is another one's child.
    pub of_many: bool,
    /// When it failed, in microseconds since 1970 UTC: by its own word, or when its end was noticed.
    pub at_us: Option<i64>,
    /// Of one that vanished, when it was last heard of; it ended between the two.
    pub heard_us: Option<i64>,
    /// Its own message, or why it counts as lost.
    pub reason: String,
    /// Which of [`Crash::tracebacks`] it had.
    pub tracebacks: Vec<usize>,
    /// What it said last.
    pub lines: Vec<LastLine>,
}

impl Failure {
    /// Whether the process itself ended badly, and not only one of its threads.
    #[must_use]
    pub fn ended_badly(&self) -> bool {
        ended_badly(&self.process)
    }
}

fn ended_badly(process: &RankMeta) -> bool {
    process.status.is_finished() && process.status != RunStatus::Finished
}

impl Crash {
    /// Whether nothing failed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    /// Puts together what is known of a run, with the last `lines` lines of each process that ended badly.
    ///
    /// What can't be read is told in [`Crash::problems`].
    #[must_use]
    pub fn of(run: &RunEntry, lines: usize) -> Self {
        let mut crash = Self {
            problems: run.problem.iter().cloned().collect(),
            ..Self::default()
        };
        let (mut processes, children) = processes(&run.meta);
        crash.children = children;
        let mut tracebacks = Tracebacks::default();
        let found = uncaught(&run.dir, |line| {
            take_uncaught(&mut processes, &mut tracebacks, line);
        });
        crash.note(found);
        for process in &mut processes {
            process.add_own(&mut tracebacks);
        }
        processes.retain(|p| ended_badly(p.meta) || !p.tracebacks.is_empty());
        let reasons = crash.reasons(&run.dir);
        let mut said = Lines::new(&processes, &tracebacks, lines);
        let read = said.read(&run.dir);
        crash.note(read);
        crash.failures = processes
            .into_iter()
            .zip(said.take())
            .map(|(process, said)| {
                let mut failure = process.failure(&reasons);
                failure.lines = said;
                let (rank, at_us) = (failure.rank, failure.at_us.unwrap_or(i64::MAX));
                take_tracebacks(&mut failure, &mut tracebacks, rank, at_us);
                let surplus = failure.lines.len().saturating_sub(lines);
                failure.lines.drain(..surplus);
                failure
            })
            .collect();
        crash.sort(&tracebacks);
        crash
    }

    fn note(&mut self, done: Result<()>) {
        if let Err(e) = done {
            self.problems.push(e.to_string());
        }
    }

    /// Why processes count as lost, by incarnation.
    fn reasons(&mut self, dir: &RunDir) -> BTreeMap<String, String> {
        let told = events::read(&dir.events()).unwrap_or_else(|e| {
            self.problems.push(e.to_string());
            Default::default()
        });
        let lost = told.0.iter().filter(|e| e["type"] == "rank_lost");
        lost.filter_map(|e| {
            let of = e["incarnation"].as_str()?.to_owned();
            Some((of, e["reason"].as_str()?.to_owned()))
        })
        .collect()
    }

    /// The first failure first, and its traceback.
    fn sort(&mut self, tracebacks: &Tracebacks) {
        self.failures
            .sort_by_key(|f| (!f.ended_badly(), f.at_us.unwrap_or(i64::MAX), f.rank));
        let mut places = vec![None; tracebacks.groups().len()];
        for failure in &mut self.failures {
            for group in &mut failure.tracebacks {
                let place = *places[*group].get_or_insert_with(|| {
                    self.tracebacks.push(tracebacks.groups()[*group].clone());
                    self.tracebacks.len() - 1
                });
                *group = place;
            }
            for line in &mut failure.lines {
                if let Said::Traceback(group) = &mut line.said {
                    *group = places[*group].unwrap_or(*group);
                }
            }
        }
        self.left_out = tracebacks.left_out();
    }
}

/// The exceptions of `run.log` that nobody caught.
fn uncaught(dir: &RunDir, mut each: impl FnMut(&LogLine)) -> Result<()> {
    let finder = memmem::Finder::new(UNCAUGHT);
    let mut tail = TextTail::new(dir, LogKind::Run, 0);
    loop {
        let from = tail.offset();
        for line in tail.poll_where(|bytes| finder.find(bytes).is_some())? {
            if is_uncaught(&line) {
                each(&line);
            }
        }
        if tail.offset() == from {
            return Ok(());
        }
    }
}

fn is_uncaught(line: &LogLine) -> bool {
    line.logger == UNCAUGHT && line.level == Some(expman_model::Level::CRITICAL)
}

fn take_uncaught(processes: &mut [Process], tracebacks: &mut Tracebacks, line: &LogLine) {
    let of = processes
        .iter_mut()
        .find(|p| p.rank == line.rank && p.said(line.timestamp_us));
    let Some(process) = of else {
        return;
    };
    let (text, ends_process) = as_raised(&line.text);
    let group = tracebacks.add(line.timestamp_us, line.rank, text);
    process.tracebacks.extend(group);
    process.thread_us.get_or_insert(line.timestamp_us);
    if ends_process {
        process.raised = Some((line.timestamp_us, last_line(text)));
    }
}

/// The traceback of a message, and whether it ended the process: what a thread raises does not.
fn as_raised(text: &[u8]) -> (&[u8], bool) {
    match text.strip_prefix(IN_MAIN) {
        Some(traceback) => (traceback, true),
        None => (text, text.starts_with(HEAD.as_bytes())),
    }
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim_end().lines().last().unwrap_or("").to_owned()
}

impl Process<'_> {
    /// The traceback that its own last word gave, unless that was logged as well.
    fn add_own(&mut self, tracebacks: &mut Tracebacks) {
        let Some(failure) = self.meta.failure.as_ref() else {
            return;
        };
        let at_us = parse_rfc3339(&failure.at).unwrap_or(i64::MAX);
        let known = self.raised.as_ref();
        let same = known.is_some_and(|(_, last)| *last == last_line(failure.traceback.as_bytes()));
        if !failure.traceback.is_empty() && !same {
            let group = tracebacks.add(at_us, self.rank, failure.traceback.as_bytes());
            self.tracebacks.extend(group);
        }
        if self.raised.is_none() {
            self.raised = Some((at_us, failure.message.clone()));
        }
    }

    fn failure(self, reasons: &BTreeMap<String, String>) -> Failure {
        let time = |text: &Option<String>| text.as_deref().and_then(parse_rfc3339);
        let ended_us = time(&self.meta.left_at).or_else(|| time(&self.meta.last_seen));
        let lost = self.meta.state == RankState::Lost;
        let raised_us = self.raised.as_ref().map(|(at, _)| *at);
        let thread_only = !ended_badly(self.meta);
        let reason = match (&self.meta.failure, self.raised) {
            (Some(failure), _) => failure.message.clone(),
            (None, Some((_, last))) => last,
            (None, None) if lost => reasons
                .get(&self.meta.incarnation.to_string())
                .cloned()
                .unwrap_or_else(|| "it vanished, and so did the owner of the run".to_owned()),
            (None, None) if thread_only => "a thread raised what nobody caught".to_owned(),
            (None, None) => format!("it ended as {}", self.meta.status),
        };
        Failure {
            rank: self.rank,
            of_many: self.of_many,
            at_us: raised_us.or(if thread_only {
                self.thread_us
            } else {
                ended_us
            }),
            heard_us: time(&self.meta.last_seen).filter(|_| lost && raised_us.is_none()),
            reason,
            tracebacks: self.tracebacks.into_iter().collect(),
            lines: Vec::new(),
            process: self.meta.clone(),
        }
    }
}
