//! `expman doctor`: looks runs over, and mends what can be mended.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use expman_actors::host;
use expman_storage::catalog::open_run;
use expman_storage::doctor::{self, Code, Finding, Life, Severity, Tools};
use expman_storage::{Catalog, RunEntry};
use serde_json::json;

use crate::console::{Console, plain};
use crate::exit::{Exit, Refusal};
use crate::json as exact;

/// Look runs over, and mend what can be mended
///
/// Every file of every run is read: records, metrics, commit logs, events, saved files. Without --fix nothing is
/// changed. With it, runs whose owner died are closed with all their rows and what their ranks' spools hold (see
/// `expman recover`), what can be made again from other files
/// is made again, and what is replaced is kept beside it as *.corrupt. Doing it twice changes nothing more.
/// A run that a living process may still write is left alone.
///
/// DIR is a folder of experiments, one experiment's folder, or one run's.
///
/// The exit code is 0 when nothing is left to do, and 1 when something is; notes are nothing to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to look at
    #[arg(value_name = "DIR", env = "EXPMAN_DIR", default_value = "experiments")]
    dir: PathBuf,
    /// Mend what can be mended
    #[arg(long)]
    fix: bool,
    /// Print one object: runs (how many), left (to do), findings (run, severity, code, what, path, fixable, fixed)
    #[arg(long)]
    json: bool,
}

/// How a process stands that wrote a run until a time.
fn life(host: &str, pid: u32, written: SystemTime) -> Life {
    if host != host::name() {
        Life::Elsewhere
    } else if host::is_gone(host, pid, written) {
        Life::Gone
    } else {
        Life::Lives
    }
}

/// What there is to look at.
#[derive(Debug, Default)]
struct Ward {
    runs: Vec<RunEntry>,
    experiments: BTreeSet<PathBuf>,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, console: &mut Console) -> anyhow::Result<Exit> {
        let ward = self.ward()?;
        let tools = Tools {
            life: &life,
            close: &|dir| {
                let done = expman_actors::recover(dir.root());
                done.map(drop).map_err(|e| e.to_string())
            },
        };
        let mut findings = Vec::new();
        for folder in &ward.experiments {
            findings.extend(doctor::experiment(folder, self.fix));
        }
        for run in &ward.runs {
            findings.extend(if self.fix {
                tools.mend(run)
            } else {
                tools.look(run)
            });
        }
        let left = findings.iter().filter(|f| f.is_left()).count();
        if self.json {
            let told = json!({"runs": ward.runs.len(), "left": left, "findings": findings});
            exact::write(console.out(), &told)?;
        } else {
            tell(console.out(), &findings)?;
        }
        console.flush()?;
        self.sum_up(console, ward.runs.len(), &findings);
        Ok(if left == 0 { Exit::Done } else { Exit::Failed })
    }

    fn ward(&self) -> anyhow::Result<Ward> {
        if let Ok(run) = open_run(&self.dir) {
            return Ok(Ward {
                runs: vec![run],
                ..Ward::default()
            });
        }
        if !self.dir.exists() {
            let what = format!("{} does not exist", self.dir.display());
            return Err(Refusal::not_found(what).into());
        }
        let runs = Catalog::new(&self.dir).runs(None)?;
        let runs = if runs.is_empty() {
            of_experiment(&self.dir)?
        } else {
            runs
        };
        let folders = runs.iter().filter_map(|run| run.dir.root().parent());
        let experiments = folders.map(Path::to_owned).collect();
        Ok(Ward { runs, experiments })
    }

    fn sum_up(&self, console: &Console, runs: usize, findings: &[Finding]) {
        let count =
            |wanted: &dyn Fn(&Finding) -> bool| findings.iter().filter(|f| wanted(f)).count();
        let left = count(&|f| f.is_left());
        let damage = count(&|f| f.is_left() && f.severity == Severity::Damage);
        let fixed = count(&|f| f.fixed);
        let mut told = vec![format!("{} looked at", many(runs, "run"))];
        if fixed > 0 {
            told.push(format!("{} mended", many(fixed, "finding")));
        }
        if left == 0 {
            told.push(
                if fixed > 0 {
                    "nothing left"
                } else {
                    "nothing to do"
                }
                .to_owned(),
            );
            console.note(&told.join(", "));
            return;
        }
        told.push(format!("{} left", many(left, "finding")));
        if damage > 0 {
            told.push(format!("{damage} of them damage"));
        }
        console.warn(&told.join(", "));
        let fixable = count(&|f| f.is_left() && f.fixable);
        if fixable > 0 && !self.fix {
            console.hint(&format!("--fix mends {fixable} of them"));
        }
        let missing = |f: &Finding| f.is_left() && f.code == Code::NewerFormat;
        if findings.iter().any(missing) {
            console.hint("a newer expman reads what this one does not");
        }
    }
}

/// The runs of a folder that is an experiment's itself.
fn of_experiment(dir: &Path) -> anyhow::Result<Vec<RunEntry>> {
    let full = dir.canonicalize()?;
    let (Some(base), Some(name)) = (full.parent(), full.file_name()) else {
        return Ok(Vec::new());
    };
    Ok(Catalog::new(base).runs(Some(&name.to_string_lossy()))?)
}

fn tell(out: &mut impl Write, findings: &[Finding]) -> io::Result<()> {
    for found in findings {
        let state = match found.severity {
            _ if found.fixed => "mended",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Damage => "damage",
        };
        let hint = if found.is_left() && found.fixable {
            " (can be mended)"
        } else {
            ""
        };
        writeln!(
            out,
            "{state:<9}{}: {}{hint}",
            plain(&found.run),
            plain(&found.what)
        )?;
    }
    Ok(())
}

fn many(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
