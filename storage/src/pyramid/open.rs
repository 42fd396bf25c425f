//! Opening a run for charts: its sealed rows by their sums, and the rows behind the last seal from its commit logs.

use std::sync::Arc;

use super::made::MadeSums;
use super::view::View;
use crate::catalog::{RunEntry, RunKind};
use crate::error::{At, Result};
use crate::layout::RunDir;
use crate::reader::{ATTEMPTS, Files, PAUSE, read_logs};
use crate::rows::Rows;
use crate::segment;
use crate::tail::Tail;
use crate::wal::WalReader;

/// A run at one moment.
#[derive(Debug)]
pub struct Opened {
    /// Its sealed rows.
    pub view: Arc<View>,
    dir: RunDir,
    logs: Vec<(u64, WalReader)>,
}

/// What stood behind the sealed rows.
#[derive(Debug)]
pub struct Behind {
    /// How many rows the run has.
    pub end: u64,
    /// Follows the run from there on; none for a run of another tool, which is read once.
    pub tail: Option<Tail>,
    /// What was found damaged and left out.
    pub problems: Vec<String>,
}

/// Opens a run that may be growing.
///
/// # Errors
/// When a file can't be read or is damaged, or rows are missing between two files.
pub fn open(run: &RunEntry, made: &Arc<MadeSums>) -> Result<Opened> {
    if run.kind == RunKind::ExpmanRs {
        let mut view = View::new(made);
        view.add_foreign(run)?;
        return Ok(Opened {
            view: Arc::new(view),
            dir: run.dir.clone(),
            logs: Vec::new(),
        });
    }
    let mut attempt = 1;
    loop {
        match try_open(&run.dir, made, attempt < ATTEMPTS) {
            Err(e) if attempt < ATTEMPTS && e.is_not_found() => {
                attempt += 1;
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// Sums are written in front of the files that they are of, and removed behind them.
fn try_open(dir: &RunDir, made: &Arc<MadeSums>, may_retry: bool) -> Result<Opened> {
    let Files { dir, sealed, logs } = Files::open(dir)?;
    let mut view = View::new(made);
    for sealed in sealed {
        let path = dir.sum(view.hi, sealed.hi);
        // It may have gone with its file, which has moved on meanwhile.
        if may_retry && !path.exists() && segment::read_hi(sealed.path())? != sealed.hi {
            return Err(std::io::Error::from(std::io::ErrorKind::NotFound)).at("read", &path);
        }
        if sealed.hi > view.hi {
            view.add(sealed, &path)?;
        }
    }
    Ok(Opened {
        view: Arc::new(view),
        dir,
        logs,
    })
}

impl Opened {
    /// Hands over the rows behind the sealed ones, a batch at a time.
    ///
    /// # Errors
    /// When a log can't be read, or rows are missing in front of it; then the run may be opened again.
    pub fn behind(self, mut each: impl FnMut(&Rows)) -> Result<Behind> {
        let mut end = self.view.hi;
        let mut problems = Vec::new();
        let mut seen = self.view.marks();
        let is_ours = self.view.is_ours();
        let mut batch = |rows: &Rows| {
            crate::tail::note(&mut seen, rows);
            each(rows);
        };
        let log = read_logs(&self.dir, self.logs, &mut end, &mut problems, &mut batch)?;
        let tail = is_ours.then(|| Tail::behind(self.dir, end, log, seen));
        Ok(Behind {
            end,
            tail,
            problems,
        })
    }
}
