//! Mending: under the run's lock, with a copy of everything that is replaced.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use expman_model::time::{parse_rfc3339, rfc3339_us};
use expman_model::{Param, RunMeta, RunStatus, WriterId};

use super::census::Census;
use super::{Code, Finding, Severity, Tools, record, text};
use crate::catalog::{ExperimentMeta, RunEntry};
use crate::error::{At, Result, StorageError};
use crate::layout::RunDir;
use crate::lock::OwnerLock;
use crate::pyramid;
use crate::rows::Rows;
use crate::sealer::remove;
use crate::spool::SpoolReader;
use crate::wal::WalReader;
use crate::{durable, events, segment, yaml};

/// Mends what is marked as fixable; when it fails, what was mended before stays so.
pub(super) fn mend(
    run: &RunEntry,
    findings: &[Finding],
    tools: &Tools<'_>,
) -> std::result::Result<(), String> {
    let todo: Vec<_> = findings.iter().filter(|f| f.fixable).collect();
    let has = |codes: &[Code]| todo.iter().any(|f| codes.contains(&f.code));
    let last_sign = record::last_sign(&run.dir);
    let files = || -> Result<Option<RunMeta>> {
        let lock = OwnerLock::take(&run.dir)?;
        let mut done: Vec<(Code, &Path)> = Vec::new();
        for found in &todo {
            // Two findings may be about one file.
            if !done.contains(&(found.code, &found.path)) {
                done.push((found.code, &found.path));
                file(run, found, &lock)?;
            }
        }
        yaml::read(&run.dir.meta())
    };
    let before = files().map_err(|e| e.to_string())?;
    if has(&[Code::NotClosed, Code::Spool, Code::Log, Code::Metrics]) {
        (tools.close)(&run.dir)?;
        let times = OwnerLock::take(&run.dir).and_then(|_lock| end(&run.dir, before, last_sign));
        times.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Mends one file that can be mended by itself.
fn file(run: &RunEntry, found: &Finding, lock: &OwnerLock) -> Result<()> {
    let dir = &run.dir;
    match found.code {
        Code::Record => {
            let meta = record::rebuilt(dir, &run.experiment, &run.run);
            set_aside(&dir.meta())?;
            yaml::write(&dir.meta(), &meta)
        }
        Code::Params => {
            let nothing = || Param::Map(Vec::new());
            let mut params: Param = record::salvage(&dir.config()).unwrap_or_else(nothing);
            params.merge(record::logged_params(dir).unwrap_or_else(nothing));
            set_aside(&dir.config())?;
            yaml::write(&dir.config(), &params)
        }
        Code::Metrics => {
            // The segments and logs hold every row: closing the run puts them into it.
            set_aside(&dir.metrics())?;
            segment::write_sorted(&dir.metrics(), &Rows::default(), 0)
        }
        Code::Log => {
            for log in dir.wals()? {
                let headless = WalReader::open(&log.path)?.header().is_err();
                if headless {
                    set_aside(&log.path)?;
                }
            }
            Ok(())
        }
        Code::Spool => match SpoolReader::open(&found.path) {
            Ok(reader) if is_named(&found.path, reader.header().id) => Ok(()),
            // Nobody would ever bring it in.
            Ok(_) | Err(StorageError::Damaged { .. }) => set_aside(&found.path),
            Err(e) => Err(e),
        },
        Code::Events => mend_events(&dir.events()),
        Code::Temporary => remove(&found.path),
        Code::Sum => pyramid::mend(dir, &found.path, lock.fence()),
        Code::TextPlain => text::pack_plain(dir, &lock.fence()),
        Code::Counts => recount(dir),
        _ => Ok(()),
    }
}

/// Whether a spool file is called as its header says.
fn is_named(path: &Path, id: WriterId) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(&format!("r{}-{}.", id.rank, id.incarnation))
}

/// Keeps a damaged file under another name, if it is there.
fn set_aside(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let kept = free_name(path);
    fs::rename(path, &kept).at("keep", path)
}

/// `NAME.corrupt`, or with a number where that is taken.
fn free_name(path: &Path) -> PathBuf {
    let with = |end: String| {
        let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
        name.push(end);
        path.with_file_name(name)
    };
    let first = with(".corrupt".to_owned());
    let numbered = (2..).map(|n: u32| with(format!(".{n}.corrupt")));
    std::iter::once(first)
        .chain(numbered)
        .find(|name| !name.exists())
        .unwrap_or_default()
}

/// Keeps a copy, and leaves only the lines that are events.
fn mend_events(path: &Path) -> Result<()> {
    let bytes = durable::read(path)?;
    let (_, malformed) = events::read(path)?;
    let wrong: std::collections::HashSet<_> = malformed.iter().map(|m| m.line).collect();
    let lines = bytes.split_inclusive(|&b| b == b'\n');
    let good: Vec<&[u8]> = (1..)
        .zip(lines)
        .filter(|(n, line)| !wrong.contains(n) && line.ends_with(b"\n"))
        .map(|(_, line)| line)
        .collect();
    durable::replace(&free_name(path), &bytes)?;
    durable::replace(path, &good.concat())
}

fn recount(dir: &RunDir) -> Result<()> {
    let Some(mut meta) = yaml::read::<RunMeta>(&dir.meta())? else {
        return Ok(());
    };
    let mut census = Census::default();
    census.count(&dir.metrics())?;
    census.correct(&mut meta);
    yaml::write(&dir.meta(), &meta)
}

/// A run ended with the last sign of its life, not when it was mended.
fn end(dir: &RunDir, before: Option<RunMeta>, last_sign: Option<i64>) -> Result<()> {
    let Some(mut meta) = yaml::read::<RunMeta>(&dir.meta())? else {
        return Ok(());
    };
    let ended = before.filter(|b| b.status.is_finished() && b.finished_at.is_some());
    if let Some(before) = ended {
        (meta.finished_at, meta.duration_secs) = (before.finished_at, before.duration_secs);
    } else if let Some(us) = last_sign {
        let start = meta.started_at.as_deref().and_then(parse_rfc3339);
        meta.finished_at = Some(rfc3339_us(us));
        meta.duration_secs = start.map(|start| record::secs(us - start));
    }
    if meta.status == RunStatus::Pending {
        meta.status = RunStatus::Crashed;
    }
    yaml::write(&dir.meta(), &meta)
}

/// `experiment.yaml`, which no lock guards: it is made once and changed by people.
pub(super) fn experiment(folder: &Path, fix: bool) -> Option<Finding> {
    let path = folder.join("experiment.yaml");
    let what = yaml::read::<ExperimentMeta>(&path).err()?.to_string();
    let mended = fix.then(|| {
        let meta: ExperimentMeta = record::salvage(&path).unwrap_or_default();
        set_aside(&path)?;
        yaml::write(&path, &meta)
    });
    let failure = mended.as_ref().and_then(|done| done.as_ref().err());
    Some(Finding {
        run: folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        severity: Severity::Damage,
        code: Code::Experiment,
        what: failure.map_or(what, ToString::to_string),
        path,
        fixable: true,
        fixed: matches!(mended, Some(Ok(()))),
    })
}
