//! Which run or folder an argument means.

use std::path::{Path, PathBuf};

use expman_model::RunId;
use expman_storage::catalog::open_run;
use expman_storage::{Catalog, RunDir, RunEntry};

use crate::exit::Refusal;

/// How RUN is resolved, for `--help`.
pub const RUN_HELP: &str = "\
RUN is one of
  EXPERIMENT/RUN      below the folder of experiments (--dir)
  a path              to a run's folder; one that begins with `/` or `.` is never taken for a name
  an id or key        as `list --json` tells it, below --dir
  RUN                 the run's name alone, when only one experiment below --dir has it";

/// The folder of experiments.
#[derive(Debug, clap::Args)]
pub struct BaseDir {
    /// Folder of experiments, in which runs are EXPERIMENT/RUN
    #[arg(
        short = 'd',
        long = "dir",
        value_name = "DIR",
        env = "EXPMAN_DIR",
        default_value = "experiments"
    )]
    pub dir: PathBuf,
}

/// The run that `wanted` means.
///
/// # Errors
/// When there is none, or more than one.
pub fn find_run(base: &Path, wanted: &Path) -> anyhow::Result<RunEntry> {
    let name = wanted.to_str().filter(|name| !name.starts_with(['/', '.']));
    if let Some((experiment, run)) = name.and_then(|n| n.trim_end_matches('/').split_once('/'))
        && let Ok(dir) = RunDir::under(base, experiment, run)
        && let Ok(found) = open_run(dir.root())
    {
        return Ok(found);
    }
    if let Ok(found) = open_run(wanted) {
        return Ok(found);
    }
    if let Some(name) = name.filter(|name| !name.contains('/')) {
        let mut found = Catalog::new(base).runs(None)?;
        let id: Option<RunId> = name.parse().ok();
        found.retain(|run| {
            run.run == name || run.key == name || (id.is_some() && run.meta.id == id)
        });
        if found.len() > 1 {
            let all: Vec<String> = found.iter().map(display_name).collect();
            let what = format!(
                "several runs below {} are called {name:?}: {}",
                base.display(),
                all.join(", ")
            );
            return Err(Refusal::usage(what).hint("say EXPERIMENT/RUN").into());
        }
        if let Some(run) = found.pop() {
            return Ok(run);
        }
    }
    let hint = format!(
        "`expman list {}` shows the runs there; another folder is given with --dir",
        base.display()
    );
    let what = if wanted.is_dir() {
        format!("{} holds no run", wanted.display())
    } else {
        format!(
            "no run {:?} below {}, nor a folder of that path",
            wanted.display().to_string(),
            base.display()
        )
    };
    Err(Refusal::not_found(what).hint(hint).into())
}

/// `EXPERIMENT/RUN`.
pub fn display_name(run: &RunEntry) -> String {
    format!("{}/{}", run.experiment, run.run)
}
