//! What a rank's process says it logged.

use expman_model::{Incarnation, Record, RunMeta, WriterId};
use expman_storage::{Filter, OwnerLock, RunDir, RunWriter, snapshot};

use crate::folder;
use crate::input::Input;

/// A batch is taken as a whole or not at all, and what was taken reads back.
pub fn run(bytes: &[u8]) {
    decode(bytes);
    let mut input = Input::new(bytes);
    let cut = input.short();
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path().join("run"));
    let lock = OwnerLock::take(&dir).expect("the lock of a new run");
    let (mut writer, _) = RunWriter::open(&lock, &dir, RunMeta::default()).expect("a new run");
    let id = WriterId {
        rank: 3,
        incarnation: Incarnation(1),
    };
    let index = writer.register(id, "host", 1).index;
    for batch in [input.take(cut), input.rest()] {
        let before = (writer.total(), writer.progress(index).applied_seq);
        match writer.append(index, batch) {
            Ok(upto) => assert!(upto >= before.1, "the mark went back"),
            Err(_) => assert_eq!(
                before,
                (writer.total(), writer.progress(index).applied_seq),
                "a batch that was refused changed something"
            ),
        }
    }
    writer.save().expect("save");
    let seen = snapshot(&dir, &Filter::default()).expect("read");
    assert_eq!(seen.total, writer.total(), "reader and writer disagree");
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    drop((writer, lock));
    let lock = OwnerLock::take(&dir).expect("the lock of an abandoned run");
    let (writer, recovery) =
        RunWriter::open(&lock, &dir, RunMeta::default()).expect("what was accepted recovers");
    assert_eq!(writer.total(), seen.total, "recovery lost rows");
    assert!(recovery.problems.is_empty(), "{:?}", recovery.problems);
}

/// A record that is understood has one form in bytes.
fn decode(bytes: &[u8]) {
    if let Ok((record, used)) = Record::decode(bytes) {
        assert!(used <= bytes.len());
        let mut out = Vec::new();
        record.encode(&mut out);
        let again = Record::decode(&out).expect("a record of ours");
        assert_eq!(again.1, out.len());
        let mut twice = Vec::new();
        again.0.encode(&mut twice);
        assert_eq!(out, twice, "two forms of one record");
    }
}
