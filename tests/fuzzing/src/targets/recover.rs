//! Coming back to a run whose logs and texts somebody else wrote.

use expman_model::{Incarnation, RunMeta, RunStatus, WriterId};
use expman_storage::{Filter, OwnerLock, Recovery, RunDir, RunWriter, snapshot};

use super::log::chosen;
use crate::folder;
use crate::input::Input;

/// Two logs and the text that stands in front of them: recovery is an error, or leaves a run that reads the same
/// for everyone and that a second recovery does not change.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (choice, lo, cut) = (input.byte(), input.byte(), input.short());
    let text = usize::from(input.byte());
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path().join("run"));
    drop(open(&dir).expect("a new run"));
    for wal in dir.wals().expect("list the logs") {
        std::fs::remove_file(wal.path).expect("remove a log");
    }
    folder::put(&dir.console_log(), &vec![b'x'; text]);
    let first = chosen(choice, input.take(cut));
    let second = chosen(choice, input.rest());
    folder::put(&dir.wal(0, 1), &first);
    if !second.is_empty() {
        folder::put(&dir.wal(lo.into(), 2), &second);
    }
    let Ok((writer, _)) = open(&dir) else {
        return;
    };
    let total = writer.total();
    drop(writer);
    let seen = snapshot(&dir, &Filter::default()).expect("a recovered run can be read");
    assert_eq!(seen.total, total, "reader and writer disagree");
    assert_eq!(seen.rows.len() as u64, total, "rows are missing");
    let (mut writer, again) = open(&dir).expect("a recovered run can be opened again");
    assert_eq!(writer.total(), total, "a second recovery changed the rows");
    assert_eq!(again.torn_bytes, 0, "a recovered log is torn");
    let id = WriterId {
        rank: 0,
        incarnation: Incarnation(u64::MAX),
    };
    writer.register(id, "host", 1);
    writer.set_status(RunStatus::Finished);
    writer.finish().expect("a recovered run can be finished");
    let end = snapshot(&dir, &Filter::default()).expect("a finished run can be read");
    assert_eq!(end.total, total, "finishing changed the rows");
}

fn open(dir: &RunDir) -> expman_storage::Result<(RunWriter, Recovery)> {
    let lock = OwnerLock::take(dir)?;
    RunWriter::open(&lock, dir, RunMeta::default())
}
