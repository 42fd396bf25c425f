//! What readers do with what was written.

use expman_model::fold::{self, Line};
use expman_storage::{Filter, snapshot};

use crate::Work;
use crate::owner::{APPENDED, Open};

const BATCHES: u32 = 64;
/// Rows of a commit log.
pub(crate) const REPLAYED: u32 = BATCHES * APPENDED;
/// Lines of output.
pub(crate) const LINES: u32 = 4096;

/// Reads a commit log that nothing was sealed of.
pub struct Replay(Open);

impl Replay {
    pub(crate) fn new() -> Self {
        let mut open = Open::new();
        open.fill(BATCHES);
        Self(open)
    }
}

impl Work for Replay {
    fn once(&mut self) {
        match snapshot(&self.0.dir, &Filter::default()) {
            Ok(found) => assert_eq!(found.rows.len(), REPLAYED as usize),
            Err(e) => panic!("{e}"),
        }
    }
}

/// Folds lines of several ranks that differ in their numbers.
pub struct Fold(Vec<String>);

impl Fold {
    pub(crate) fn new() -> Self {
        let line = |n: u32| match n % 4 {
            0 => format!("step {n} loss {:.4} lr 0.001", 1.0 / f64::from(n + 1)),
            1 => format!(
                "[rank {}] epoch {} done in {}.{} s",
                n % 8,
                n / 64,
                n % 97,
                n % 10
            ),
            2 => format!("worker {n}: loaded shard {} of 4096", n * 7 % 4096),
            _ => "gradient overflow, skipping step".to_owned(),
        };
        Self((0..LINES).map(line).collect())
    }
}

impl Work for Fold {
    fn once(&mut self) {
        let mut fold = fold::Fold::new(i64::MAX);
        for (n, text) in (0..).zip(&self.0) {
            fold.push(&Line {
                at_us: n,
                rank: 0,
                kind: 1,
                text: text.as_bytes(),
            });
        }
        assert!(!std::hint::black_box(fold.close()).is_empty());
    }
}
