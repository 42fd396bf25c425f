//! The corpus, and seeded damage of it, through every target: what libFuzzer does for hours, for seconds.
//!
//! `EXPMAN_SEED` chooses other damage, `EXPMAN_CASES` multiplies how much of it.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

use std::path::{Path, PathBuf};

use expman_fuzzing::{Counted, Mutator, TARGETS, check, target};

#[global_allocator]
static HEAP: Counted = Counted;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => otherwise,
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

fn holds(name: &str, cases: u64) {
    let target = target(name).unwrap();
    let corpus = corpus(name);
    for (path, bytes) in &corpus {
        if let Err(what) = check(target, bytes) {
            fail(&format!("{}: {what}", path.display()));
        }
    }
    let seed = number("EXPMAN_SEED", 1);
    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    for case in 0..cases * number("EXPMAN_CASES", 1) {
        let bytes = Mutator::new(seed.wrapping_mul(1 << 32) ^ case).mutate(&inputs);
        if let Err(what) = check(target, &bytes) {
            let kept = std::env::temp_dir().join(format!("expman-{name}-{seed}-{case}.input"));
            keep(&kept, &bytes);
            fail(&format!(
                "{what}\nseed {seed}, case {case}; the input is {}\n\
                 again: EXPMAN_SEED={seed} cargo test -p expman-fuzzing --test slice {name}",
                kept.display()
            ));
        }
    }
}

/// The hook that watches the targets would swallow the word of the test itself.
fn fail(what: &str) -> ! {
    drop(std::panic::take_hook());
    panic!("{what}");
}

#[expect(clippy::disallowed_methods, reason = "half a file would be no loss")]
fn keep(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

macro_rules! slices {
    ($($test:ident: $name:literal, $cases:literal;)*) => {
        $(
            #[test]
            fn $test() {
                holds($name, $cases);
            }
        )*

        #[test]
        fn every_target_has_its_slice() {
            let mut sliced = vec![$($name),*];
            sliced.sort_unstable();
            let mut all: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            all.sort_unstable();
            assert_eq!(sliced, all);
        }
    };
}

slices! {
    hostile_frames_are_errors: "frames", 4000;
    hostile_requests_are_answered_and_never_leave_the_folder: "http", 2500;
    hostile_commit_logs_are_errors: "log", 3000;
    hostile_packed_texts_are_errors_or_change_nothing: "packed", 1500;
    hostile_parquet_and_arrow_files_are_errors: "parquet", 1000;
    hostile_tables_show_little: "preview", 1500;
    hostile_records_are_refused_whole: "records", 300;
    hostile_logs_recover_to_a_run_that_reads_the_same: "recover", 150;
    hostile_rings_of_dead_processes_are_errors: "ring", 2000;
    hostile_spool_files_are_errors: "spool", 2000;
    hostile_sums_are_errors_or_change_nothing: "sum", 1000;
    hostile_text_logs_read_the_same_however_they_are_cut: "text", 1200;
    hostile_yaml_is_bounded_and_means_the_same_when_written_again: "yaml", 3000;
}
