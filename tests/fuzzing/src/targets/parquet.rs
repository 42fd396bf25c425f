//! Files of rows that somebody else wrote: Parquet of this project and of others, Arrow streams of expman-rs.

use std::path::Path;

use expman_model::RunMeta;
use expman_storage::{Filter, RunDir, RunEntry, RunKind, legacy, segment, snapshot};

use crate::folder;
use crate::input::Input;

/// The first byte chooses what the file pretends to be.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte() % 4;
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path().join("run"));
    std::fs::create_dir_all(dir.hidden()).expect("a folder in a temporary folder");
    match choice {
        0 => published(&dir, input.rest()),
        1 => sealed(&dir, input.rest()),
        2 => foreign(&dir, "metrics.parquet", input.rest()),
        _ => foreign(&dir, "vectors-0.arrow", input.rest()),
    }
}

fn published(dir: &RunDir, bytes: &[u8]) {
    folder::put(&dir.metrics(), bytes);
    read(dir);
    drop(segment::read_hi(&dir.metrics()));
}

/// A segment behind a published file that is good, and the publication of it.
fn sealed(dir: &RunDir, bytes: &[u8]) {
    segment::write_sorted(&dir.metrics(), &expman_storage::Rows::default(), 0).expect("write");
    let segment = dir.segment(0, 4);
    folder::put(&segment, bytes);
    read(dir);
    let spliced = dir.root().join("spliced");
    let sources: [&Path; 2] = [&dir.metrics(), &segment];
    drop(segment::splice(&spliced, &sources, 4));
}

fn read(dir: &RunDir) {
    if let Ok(seen) = snapshot(dir, &Filter::default()) {
        assert_eq!(seen.rows.iter().count(), seen.rows.len());
    }
    let some = Filter {
        keys: Some(["loss".to_owned()].into()),
        since_step: Some(1),
        ..Filter::default()
    };
    drop(snapshot(dir, &some));
}

fn foreign(dir: &RunDir, name: &str, bytes: &[u8]) {
    folder::put(&dir.root().join(name), bytes);
    let entry = RunEntry {
        owned: false,
        key: "0".repeat(16),
        experiment: "e".to_owned(),
        run: "r".to_owned(),
        dir: dir.clone(),
        kind: RunKind::ExpmanRs,
        meta: RunMeta::default(),
        problem: None,
    };
    if let Ok(seen) = legacy::read_rows(&entry, &Filter::default()) {
        assert_eq!(seen.rows.iter().count(), seen.rows.len());
    }
}
