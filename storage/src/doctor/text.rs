//! Looking at the pieces of texts that were rolled: they must follow each other and read back.

use std::sync::atomic::AtomicBool;

use super::look::Look;
use super::{Code, Severity};
use crate::error::Result;
use crate::layout::RunDir;
use crate::lock::Fence;
use crate::sealer::remove;
use crate::text::{LogKind, Piece, check_packed, is_packed_form, pack, pieces};

impl Look<'_> {
    pub(super) fn texts(&mut self) {
        for kind in LogKind::ALL {
            let all = match pieces(self.dir, kind) {
                Ok(all) => all,
                Err(e) => {
                    let path = self.dir.text(kind);
                    self.add(Severity::Damage, Code::Text, path, e, false);
                    continue;
                }
            };
            self.text(kind, &all);
        }
    }

    fn damaged(&mut self, piece: &Piece, what: String) {
        let path = piece.path.clone();
        self.add(Severity::Damage, Code::Text, path, what, false);
    }

    fn text(&mut self, kind: LogKind, all: &[Piece]) {
        let name = self.dir.text(kind);
        let mut end = 0;
        for piece in all {
            let twice = all.iter().any(|other| is_packed_form(other, piece));
            if !piece.packed {
                let what = format!("{} is not packed", piece.path.display());
                self.add(
                    Severity::Note,
                    Code::TextPlain,
                    piece.path.clone(),
                    what,
                    true,
                );
            }
            if let Err(what) = whole(piece) {
                self.damaged(piece, what);
            }
            if twice {
                continue;
            }
            if piece.from != end {
                let what = if piece.from > end {
                    format!(
                        "{}: bytes {end} to {} are missing",
                        name.display(),
                        piece.from
                    )
                } else {
                    format!(
                        "{} stands in {} and in front of it",
                        name.display(),
                        piece.path.display()
                    )
                };
                self.damaged(piece, what);
            }
            end = piece.to.max(end);
        }
    }
}

/// Whether a piece has what its name says.
fn whole(piece: &Piece) -> std::result::Result<(), String> {
    let length = piece.to - piece.from;
    if piece.packed {
        return check_packed(&piece.path, length).map_err(|e| e.to_string());
    }
    match std::fs::metadata(&piece.path) {
        Ok(meta) if meta.len() == length => Ok(()),
        Ok(meta) => Err(format!(
            "{} has {} bytes instead of {length}",
            piece.path.display(),
            meta.len()
        )),
        Err(e) => Err(format!("{}: {e}", piece.path.display())),
    }
}

/// Packs what an owner had no time for; a piece that is damaged stays as it is.
pub(super) fn pack_plain(dir: &RunDir, fence: &Fence) -> Result<()> {
    for kind in LogKind::ALL {
        let all = pieces(dir, kind)?;
        for plain in all.iter().filter(|p| !p.packed && whole(p).is_ok()) {
            let packed = plain.packed_path();
            if !all.iter().any(|other| is_packed_form(other, plain)) {
                pack(&plain.path, &packed, fence, &AtomicBool::new(false))?;
            }
            if check_packed(&packed, plain.to - plain.from).is_ok() {
                fence.check()?;
                remove(&plain.path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "files are made and damaged on purpose"
)]
mod tests {
    use expman_model::{RunMeta, RunStatus};

    use super::*;
    use crate::catalog::open_run;
    use crate::doctor::{Finding, Life, Tools};
    use crate::{OwnerLock, RunWriter};

    const TOOLS: Tools<'static> = Tools {
        life: &|_, _, _| Life::Gone,
        close: &|dir| crate::doctor::close(dir).map_err(|e| e.to_string()),
    };

    /// A finished run with three pieces of run.log, of which the last one is plain.
    fn rolled(root: &std::path::Path) -> (RunDir, Vec<Piece>) {
        let dir = RunDir::at(root.join("base/exp/run"));
        let lock = OwnerLock::take(&dir).unwrap();
        let seed = RunMeta {
            name: "run".into(),
            experiment: "exp".into(),
            ..RunMeta::default()
        };
        let (mut writer, _) = RunWriter::open(&lock, &dir, seed).unwrap();
        writer.finish().unwrap();
        for (from, to) in [(0, 5), (5, 10), (10, 15)] {
            std::fs::write(dir.piece(LogKind::Run, from, to), "[abc\n").unwrap();
        }
        pack_plain(&dir, &lock.fence()).unwrap();
        let last = dir.piece(LogKind::Run, 10, 15);
        std::fs::write(&last, "[abc\n").unwrap();
        std::fs::remove_file(last.with_extension("log.zst")).unwrap();
        drop((writer, lock));
        let all = pieces(&dir, LogKind::Run).unwrap();
        assert_eq!(
            all.iter().map(|p| p.packed).collect::<Vec<_>>(),
            [true, true, false]
        );
        (dir, all)
    }

    fn found(findings: &[Finding]) -> Vec<(Code, bool)> {
        let texts = findings
            .iter()
            .filter(|f| matches!(f.code, Code::Text | Code::TextPlain));
        texts.map(|f| (f.code, f.fixed)).collect()
    }

    #[test]
    fn a_piece_that_is_missing_cut_or_changed_is_told_of_and_a_plain_one_is_packed() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, all) = rolled(tmp.path());
        let run = open_run(dir.root()).unwrap();
        assert_eq!(run.meta.status, RunStatus::Crashed);
        assert_eq!(found(&TOOLS.look(&run)), [(Code::TextPlain, false)]);

        std::fs::write(&all[2].path, "[ab\n").unwrap();
        let told = TOOLS.mend(&run);
        assert_eq!(
            found(&told),
            [(Code::TextPlain, false), (Code::Text, false)]
        );
        assert!(
            told.iter()
                .any(|f| f.what.contains("has 4 bytes instead of 5")),
            "{told:?}"
        );

        std::fs::write(&all[2].path, "[abc\n").unwrap();
        drop(TOOLS.mend(&run));
        assert_eq!(found(&TOOLS.look(&run)), []);
        assert!(pieces(&dir, LogKind::Run).unwrap().iter().all(|p| p.packed));

        let mut bytes = std::fs::read(&all[1].path).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&all[1].path, bytes).unwrap();
        assert_eq!(found(&TOOLS.look(&run)), [(Code::Text, false)]);
        std::fs::remove_file(&all[1].path).unwrap();
        let told = TOOLS.look(&run);
        assert!(
            told.iter()
                .any(|f| f.what.contains("bytes 5 to 10 are missing")),
            "{told:?}"
        );

        // What there is is read behind the hole.
        let mut tail = crate::TextTail::new(&dir, LogKind::Run, 0);
        let offsets: Vec<u64> = (0..3)
            .flat_map(|_| tail.poll().unwrap())
            .map(|l| l.offset)
            .collect();
        assert_eq!(offsets, [0, 10]);
    }
}
