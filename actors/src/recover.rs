//! Closing a run whose processes are all gone: what they left is brought in, and the run gets its end.

use std::path::{Path, PathBuf};

use expman_model::limits::LEASE;
use expman_model::time::{now_us, parse_rfc3339, wall_clock};
use expman_model::{RankMeta, RankState, RunMeta, RunStatus, WriterId};
use expman_storage::{OwnerLock, RunDir, RunWriter, StorageError, goodbyes, spool, yaml};

use crate::commit::{Import, Orphan, orphans};
use crate::error::{MeshError, Result};
use crate::host;

/// Without a word for this long a process of another host, where nobody can look, counts as dead.
const SILENCE_US: i64 = 6 * LEASE.as_secs().cast_signed() * 1_000_000;

/// What [`recover`] did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RecoverReport {
    /// Whether there was anything to do; if not, nothing was touched.
    pub changed: bool,
    /// How the run ended.
    pub status: RunStatus,
    /// Rows that it has.
    pub rows: u64,
    /// Rows of them that only its commit logs had.
    pub recovered_rows: u64,
    /// What the spools of dead processes added.
    pub imported: Vec<Imported>,
    /// Damage that was set aside, in words.
    pub problems: Vec<String>,
}

/// What the spool of one process added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Whose it was.
    pub writer: WriterId,
    /// Its last sequence number before …
    pub before_seq: u64,
    /// … and now.
    pub upto_seq: u64,
}

/// Brings in what the dead processes of a run left in its folder, marks them lost, and closes the run.
///
/// A run that was closed well and has nothing left to bring in is not touched, so this may be repeated.
///
/// # Errors
/// When the folder holds no run, its owner or one of its ranks still lives, or a file can't be read or written.
pub fn recover(dir: &Path) -> Result<RecoverReport> {
    let dir = RunDir::at(dir);
    let known: Option<RunMeta> = yaml::read(&dir.meta())?;
    let machinery = !dir.wals()?.is_empty() || !dir.segments()?.is_empty();
    let spooled = !spool::files(&dir)?.is_empty();
    if known.is_none() && !machinery {
        let path = dir.root().to_owned();
        return Err(StorageError::NoRun { path }.into());
    }
    let mut known = known.unwrap_or_default();
    if known.status.is_finished() && !machinery && !spooled {
        return Ok(RecoverReport {
            status: known.status,
            rows: known.rows,
            ..RecoverReport::default()
        });
    }
    let lock = OwnerLock::take(&dir)?;
    if let Some(told) = goodbyes::read(&dir)? {
        goodbyes::lay_over(told, &mut known);
    }
    let silent_since = last_word(&known);
    refuse_living(&dir, known.ranks.values().flatten(), silent_since)?;
    let (mut writer, recovery) = RunWriter::open(&lock, &dir, RunMeta::default())?;
    // The logs may name processes that run.yaml did not know yet.
    let told = writer.ranks_told();
    refuse_living(&dir, told.values().flatten(), silent_since)?;
    let mut imported = Vec::new();
    for orphan in orphans(&dir)? {
        imported.push(import(&mut writer, orphan)?);
    }
    if let Some(ended) = silent_since {
        writer.set_end(ended);
    }
    writer.finish()?;
    forget_empty_spools(&dir)?;
    // Only an empty folder goes: what could not be read is kept in it.
    if let Err(e) = std::fs::remove_dir(dir.spool()) {
        tracing::debug!("{}: {e}", dir.spool().display());
    }
    Ok(RecoverReport {
        changed: true,
        status: writer.meta().status,
        rows: writer.total(),
        recovered_rows: recovery.rows,
        imported,
        problems: recovery.problems,
    })
}

/// Removes spool files that a power cut left without a byte: they say neither what nor whose.
fn forget_empty_spools(dir: &RunDir) -> Result<()> {
    for file in spool::files(dir)? {
        let path = file.path;
        let meta = std::fs::metadata(&path).map_err(MeshError::io("stat", &path))?;
        if meta.len() == 0 {
            std::fs::remove_file(&path).map_err(MeshError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// When a rank was last heard of, or the run ended.
fn last_word(meta: &RunMeta) -> Option<i64> {
    let ranks = meta.ranks.values().flatten();
    ranks
        .flat_map(|rank| [&rank.last_seen, &rank.left_at, &rank.joined_at])
        .chain([&meta.finished_at])
        .filter_map(|at| parse_rfc3339(at.as_deref()?))
        .max()
}

fn refuse_living<'a>(
    dir: &RunDir,
    ranks: impl Iterator<Item = &'a RankMeta>,
    silent_since: Option<i64>,
) -> Result<()> {
    let silent = silent_since.is_none_or(|at| now_us() - at > SILENCE_US);
    let lives = |on: &str, is_gone: bool| {
        if on == host::name() {
            !is_gone
        } else {
            !silent
        }
    };
    let mut processes = Vec::new();
    for rank in ranks.filter(|rank| rank.state == RankState::Live) {
        let joined = wall_clock(rank.joined_at.as_deref());
        if lives(&rank.host, host::is_gone(&rank.host, rank.pid, joined)) {
            processes.push(format!("{} on {}", rank.pid, rank.host));
        }
    }
    for orphan in orphans(dir)? {
        if lives(&orphan.host, orphan.is_gone()) {
            processes.push(format!("{} on {}", orphan.pid, orphan.host));
        }
    }
    if processes.is_empty() {
        return Ok(());
    }
    Err(MeshError::StillLive {
        path: PathBuf::from(dir.root()),
        processes: processes.join(", "),
    })
}

fn import(writer: &mut RunWriter, orphan: Orphan) -> Result<Imported> {
    let Orphan {
        id,
        host,
        pid,
        files,
        ..
    } = orphan;
    let known = writer.find(id);
    let at = known.unwrap_or_else(|| writer.register(id, &host, pid).index);
    let before_seq = writer.progress(at).applied_seq;
    let mut import = Import::new(at, id, files, None);
    while import.step(writer)? {
        writer.sync()?;
    }
    if known.is_none() {
        let reason = "only its spool was left";
        writer.leave(at, RankState::Lost, RunStatus::Crashed, reason);
    }
    writer.sync()?;
    import.remove_files();
    Ok(Imported {
        writer: id,
        before_seq,
        upto_seq: writer.progress(at).applied_seq,
    })
}
