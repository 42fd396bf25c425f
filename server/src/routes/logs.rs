//! Lines of a run's two logs.

use std::collections::VecDeque;

use axum::Json;
use axum::extract::{Path, State};
use expman_model::Level;
use expman_storage::text::LogKind;
use expman_storage::{RunDir, TextTail};
use serde::{Deserialize, Serialize};

use super::Params;
use crate::error::{Result, ServeError};
use crate::router::AppState;
use crate::wire::Line;

/// Lines of one answer.
const LINES_MAX: usize = 10_000;
/// Lines when the number is not said.
const LINES_DEFAULT: usize = 500;
/// Bytes that are searched backwards for the last lines: first, …
const BACK_FIRST: u64 = 256 << 10;
/// … and at most, in steps of four times as many.
const BACK_MAX: u64 = 64 << 20;

/// Which of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFile {
    /// Messages.
    #[default]
    Run,
    /// Captured output.
    Console,
}

impl LogFile {
    /// As storage calls it.
    pub fn kind(self) -> LogKind {
        match self {
            Self::Run => LogKind::Run,
            Self::Console => LogKind::Console,
        }
    }
}

/// Which lines.
#[derive(Debug, Default, Deserialize)]
pub struct LogParams {
    #[serde(default)]
    file: LogFile,
    rank: Option<u32>,
    /// `out` or `err`.
    stream: Option<String>,
    /// This level and above.
    level: Option<String>,
    /// The last lines, so many.
    tail: Option<usize>,
    /// Lines from this byte on, the cursor of an earlier answer.
    after: Option<u64>,
}

/// Some lines.
#[derive(Debug, Serialize)]
pub struct Logs {
    /// Byte behind the last line that was looked at.
    cursor: u64,
    lines: Vec<Line>,
}

struct Wanted {
    rank: Option<u32>,
    stream: Option<String>,
    level: Option<Level>,
}

impl Wanted {
    fn admits(&self, line: &Line, level: Option<Level>) -> bool {
        self.rank.is_none_or(|rank| line.rank == Some(rank))
            && self
                .stream
                .as_deref()
                .is_none_or(|stream| line.stream == Some(stream))
            && self
                .level
                .is_none_or(|least| level.is_some_and(|level| level >= least))
    }
}

/// `GET /api/runs/{key}/logs?file=&rank=&stream=&level=&tail=&after=`
pub async fn logs(
    State(state): State<AppState>,
    Path(key): Path<String>,
    Params(params): Params<LogParams>,
) -> Result<Json<Logs>> {
    let bad = |what: String| ServeError::BadRequest { what };
    let level = params
        .level
        .as_deref()
        .map(|text| Level::parse(text).ok_or_else(|| bad(format!("level {text:?} is not known"))));
    let wanted = Wanted {
        rank: params.rank,
        stream: params.stream,
        level: level.transpose()?,
    };
    let run = state.index.run(&key).await?;
    let kind = params.file.kind();
    let max = params.tail.unwrap_or(LINES_DEFAULT).min(LINES_MAX);
    let what = run.dir.root().display().to_string();
    let found = state.reads.run(what, move || match params.after {
        Some(after) => forward(&run.dir, kind, after, &wanted),
        None => last(&run.dir, kind, max, &wanted),
    });
    Ok(Json(found.await?))
}

fn forward(dir: &RunDir, kind: LogKind, after: u64, wanted: &Wanted) -> Result<Logs> {
    let mut tail = TextTail::new(dir, kind, after);
    let mut found = Vec::new();
    let mut searched = 0;
    while found.len() < LINES_MAX && searched < BACK_MAX {
        let from = tail.offset();
        let lines = tail.poll()?;
        if lines.is_empty() {
            break;
        }
        searched += tail.offset() - from;
        for line in lines {
            let (at, level) = (line.offset, line.level);
            let line = Line::from(line);
            if wanted.admits(&line, level) {
                if found.len() == LINES_MAX {
                    return Ok(Logs {
                        cursor: at,
                        lines: found,
                    });
                }
                found.push(line);
            }
        }
    }
    Ok(Logs {
        cursor: tail.offset(),
        lines: found,
    })
}

fn last(dir: &RunDir, kind: LogKind, max: usize, wanted: &Wanted) -> Result<Logs> {
    let mut back = BACK_FIRST;
    loop {
        let mut tail = TextTail::near_end(dir, kind, back)?;
        let whole = tail.offset() == 0 || back >= BACK_MAX;
        let mut found = VecDeque::new();
        loop {
            let lines = tail.poll()?;
            if lines.is_empty() {
                break;
            }
            for line in lines {
                let level = line.level;
                let line = Line::from(line);
                if wanted.admits(&line, level) {
                    found.push_back(line);
                    if found.len() > max {
                        found.pop_front();
                    }
                }
            }
        }
        if found.len() >= max || whole {
            return Ok(Logs {
                cursor: tail.offset(),
                lines: found.into(),
            });
        }
        back *= 4;
    }
}
