//! What each process said last, in both logs.

use std::collections::VecDeque;

use expman_model::traceback::{HEAD, Tracebacks};
use expman_model::{Level, Stream};

use super::process::Process;
use super::{Failure, as_raised, ended_badly, is_uncaught};
use crate::error::Result;
use crate::layout::RunDir;
use crate::tail::TextTail;
use crate::text::{LogKind, LogLine};

/// How much of a log's end is looked through: as much of these as it takes, in bytes.
const WINDOWS: [u64; 3] = [1 << 20, 16 << 20, 256 << 20];
/// Bytes of a line that are kept.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Bytes of all processes' lines together.
const BYTES_MAX: usize = 64 << 20;
/// Lines kept besides those that are shown, in case a traceback is among them.
const SPARE: usize = 200;

/// A line of a process, or a traceback that stood there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastLine {
    /// Microseconds since 1970 UTC.
    pub at_us: i64,
    /// Severity; none for captured output.
    pub level: Option<Level>,
    /// The stream; none for messages.
    pub stream: Option<Stream>,
    /// The logger's name; empty when there was none.
    pub logger: String,
    /// What was said.
    pub said: Said,
}

/// See [`LastLine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Raw bytes, and how many more the line has that are not here.
    Text(Vec<u8>, usize),
    /// One of the tracebacks that are told anyway.
    Traceback(usize),
}

/// Gathers the last lines of each process that ended badly.
#[derive(Debug)]
pub(super) struct Lines {
    wanted: Vec<Wanted>,
    bytes_max: usize,
}

#[derive(Debug)]
struct Wanted {
    rank: u32,
    spoke_us: (i64, i64),
    /// Lines that are enough.
    enough: usize,
    /// What is kept of either log.
    kept: [Kept; 2],
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<LastLine>,
    bytes: usize,
    /// Pieces of lines that go on, of stdout and of stderr.
    open: [Option<LastLine>; 2],
}

impl Lines {
    pub(super) fn new(processes: &[Process<'_>], tracebacks: &Tracebacks, lines: usize) -> Self {
        let longest = |p: &Process<'_>| {
            let groups = p.tracebacks.iter().map(|&n| &tracebacks.groups()[n]);
            groups
                .map(|g| g.wordings[0].text.lines().count())
                .sum::<usize>()
        };
        let wanted = processes.iter().map(|p| Wanted {
            rank: p.rank,
            spoke_us: p.spoke_us,
            enough: if ended_badly(p.meta) {
                lines.saturating_add(longest(p)).saturating_add(SPARE)
            } else {
                0
            },
            kept: Default::default(),
        });
        Self {
            bytes_max: BYTES_MAX / processes.len().max(1),
            wanted: wanted.collect(),
        }
    }

    /// Reads the ends of both logs.
    pub(super) fn read(&mut self, dir: &RunDir) -> Result<()> {
        for (n, kind) in [LogKind::Run, LogKind::Console].into_iter().enumerate() {
            for window in WINDOWS {
                let mut tail = TextTail::near_end(dir, kind, window)?;
                let whole = tail.offset() == 0;
                self.wanted
                    .iter_mut()
                    .for_each(|w| w.kept[n] = Kept::default());
                loop {
                    let from = tail.offset();
                    tail.poll()?.iter().for_each(|line| self.take_in(n, line));
                    if tail.offset() == from {
                        break;
                    }
                }
                for wanted in &mut self.wanted {
                    wanted.kept[n].close(wanted.enough, self.bytes_max);
                }
                let full = |w: &Wanted| w.kept[n].lines.len() >= w.enough.saturating_sub(SPARE);
                if whole || self.wanted.iter().all(full) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, n: usize, line: &LogLine) {
        let of = self.wanted.iter_mut().find(|w| {
            w.rank == line.rank
                && w.spoke_us.0 <= line.timestamp_us
                && line.timestamp_us < w.spoke_us.1
        });
        if let Some(wanted) = of.filter(|w| w.enough > 0) {
            wanted.kept[n].push(line, wanted.enough, self.bytes_max);
        }
    }

    /// The lines of each process, of both logs, by time.
    pub(super) fn take(self) -> impl Iterator<Item = Vec<LastLine>> {
        self.wanted.into_iter().map(|wanted| {
            let [run, console] = wanted.kept;
            let mut lines: Vec<_> = run.lines.into_iter().chain(console.lines).collect();
            lines.sort_by_key(|line| line.at_us);
            lines
        })
    }
}

impl Kept {
    fn push(&mut self, line: &LogLine, most: usize, bytes_max: usize) {
        let open = &mut self.open[usize::from(line.stream == Some(Stream::Err))];
        match open {
            Some(open) => open.append(&line.text),
            None => *open = Some(LastLine::of(line)),
        }
        if let Some(whole) = open.take_if(|_| line.ends_line) {
            self.add(whole, most, bytes_max);
        }
    }

    fn add(&mut self, line: LastLine, most: usize, bytes_max: usize) {
        self.bytes += line.bytes();
        self.lines.push_back(line);
        while self.lines.len() > most || (self.bytes > bytes_max && self.lines.len() > 1) {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.bytes());
        }
    }

    /// A line that nobody ended is a line, too.
    fn close(&mut self, most: usize, bytes_max: usize) {
        for open in std::mem::take(&mut self.open).into_iter().flatten() {
            self.add(open, most, bytes_max);
        }
    }
}

impl LastLine {
    fn of(line: &LogLine) -> Self {
        let mut own = Self {
            at_us: line.timestamp_us,
            level: line.level,
            stream: line.stream,
            logger: line.logger.clone(),
            said: Said::Text(Vec::new(), 0),
        };
        if is_uncaught(line) {
            // Whole, so that it is known again.
            own.said = Said::Text(line.text.clone(), 0);
        } else {
            own.append(&line.text);
        }
        own
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Said::Text(text, cut) = &mut self.said {
            let room = LINE_BYTES_MAX.saturating_sub(text.len()).min(bytes.len());
            text.extend_from_slice(&bytes[..room]);
            *cut += bytes.len() - room;
        }
    }

    fn bytes(&self) -> usize {
        match &self.said {
            Said::Text(text, _) => text.len() + size_of::<Self>(),
            Said::Traceback(_) => size_of::<Self>(),
        }
    }

    fn text(&self) -> &[u8] {
        match &self.said {
            Said::Text(text, _) => text,
            Said::Traceback(_) => b"",
        }
    }
}

/// Puts a mark in place of each traceback that the lines have, and takes from them what nobody logged as one.
pub(super) fn take_tracebacks(
    failure: &mut Failure,
    tracebacks: &mut Tracebacks,
    rank: u32,
    at_us: i64,
) {
    let lines = &mut failure.lines;
    for line in lines
        .iter_mut()
        .filter(|l| l.logger == super::UNCAUGHT && l.level.is_some())
    {
        let text = String::from_utf8_lossy(as_raised(line.text()).0)
            .trim_end()
            .to_owned();
        let known = failure.tracebacks.iter().copied().find(|&n| {
            let wordings = &tracebacks.groups()[n].wordings;
            wordings.iter().any(|w| w.text == text)
        });
        if let Some(n) = known {
            line.said = Said::Traceback(n);
        }
    }
    let stderr: Vec<usize> = (0..lines.len())
        .filter(|&n| lines[n].stream == Some(Stream::Err))
        .collect();
    let mut gone = vec![false; lines.len()];
    let mut at = 0;
    while at < stderr.len() {
        if !lines[stderr[at]].text().ends_with(HEAD.as_bytes()) {
            at += 1;
            continue;
        }
        let told = |known: &Vec<usize>| {
            let texts = known.iter().flat_map(|&n| {
                let wordings = tracebacks.groups()[n].wordings.iter();
                wordings.map(move |w| (n, w.text.as_str()))
            });
            texts
                .map(|(n, text)| {
                    (
                        n,
                        text.lines()
                            .skip_while(|l| !l.ends_with(HEAD))
                            .collect::<Vec<_>>(),
                    )
                })
                .find(|(_, text)| is_at(lines, &stderr[at..], text))
                .map(|(n, text)| (n, text.len()))
        };
        let found = told(&failure.tracebacks).or_else(|| {
            let (text, length) = printed(lines, &stderr[at..])?;
            // Several tracebacks chained to one are printed behind each other, and told as one.
            let n = tracebacks.add(at_us, rank, &text)?;
            failure.tracebacks.push(n);
            Some((n, length))
        });
        let Some((n, length)) = found else {
            at += 1;
            continue;
        };
        for &line in &stderr[at + 1..at + length] {
            gone[line] = true;
        }
        lines[stderr[at]].said = Said::Traceback(n);
        at += length;
    }
    let mut gone = gone.into_iter();
    lines.retain(|_| !gone.next().unwrap_or(false));
    failure.tracebacks.sort_unstable();
    failure.tracebacks.dedup();
}

/// Whether this text stands there, line by line; its first line may have something in front.
fn is_at(lines: &[LastLine], at: &[usize], text: &[&str]) -> bool {
    !text.is_empty()
        && text.len() <= at.len()
        && text.iter().zip(at).enumerate().all(|(n, (wanted, &at))| {
            let line = String::from_utf8_lossy(lines[at].text());
            n == 0 || line.trim_end() == wanted.trim_end()
        })
}

/// The traceback that begins there, as it was printed, and its number of lines: its last line is the first one that
/// is not indented. None when it is cut off.
fn printed(lines: &[LastLine], at: &[usize]) -> Option<(Vec<u8>, usize)> {
    let last = 1 + at[1..].iter().position(|&n| {
        let text = lines[n].text();
        !text.starts_with(b" ") && !text.starts_with(b"\t") && !text.is_empty()
    })?;
    let texts: Vec<&[u8]> = at[..=last].iter().map(|&n| lines[n].text()).collect();
    Some((texts.join(&b"\n"[..]), last + 1))
}
