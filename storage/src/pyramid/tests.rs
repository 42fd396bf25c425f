//! Whatever way rows take into files, their sums tell what all rows tell.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use expman_model::RunMeta;
use expman_model::record::ValueRef;
use proptest::prelude::*;

use super::*;
use crate::catalog::open_run;
use crate::layout::RunDir;
use crate::lock::OwnerLock;
use crate::rows::{Row, Rows};
use crate::{durable, segment, yaml};

/// A run whose files are made step by step, as its owner makes them.
struct Files {
    _tmp: tempfile::TempDir,
    dir: RunDir,
    lock: OwnerLock,
    sums: Upkeep,
    hi: u64,
    published: u64,
}

impl Files {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        durable::create_dir(&dir.hidden()).unwrap();
        yaml::write(&dir.meta(), &RunMeta::default()).unwrap();
        segment::write_sorted(&dir.metrics(), &Rows::default(), 0).unwrap();
        let lock = OwnerLock::take(&dir).unwrap();
        Self {
            _tmp: tmp,
            sums: Upkeep::of_all(dir.clone(), lock.fence()),
            dir,
            lock,
            hi: 0,
            published: 0,
        }
    }

    fn seal(&mut self, rows: &Rows) {
        let (lo, hi) = (self.hi, self.hi + rows.len() as u64);
        if hi > lo {
            let order = rows.sorted();
            self.sums.seal(rows, &order, lo, hi);
            segment::write_sorted(&self.dir.segment(lo, hi), rows, hi).unwrap();
            self.hi = hi;
        }
    }

    fn publish(&mut self) {
        let segments = self.dir.segments().unwrap();
        let metrics = self.dir.metrics();
        let mut sources = vec![metrics.as_path()];
        sources.extend(segments.iter().map(|s| s.path.as_path()));
        self.sums.publish(self.hi);
        segment::splice(&metrics, &sources, self.hi).unwrap();
        for segment in &segments {
            std::fs::remove_file(&segment.path).unwrap();
        }
        self.published = self.hi;
        self.sums.prune(self.hi).unwrap();
    }

    /// Another owner takes over, which knows nothing.
    fn resume(&mut self) {
        self.sums = Upkeep::of_all(self.dir.clone(), self.lock.fence());
    }

    fn open(&self) -> Arc<View> {
        let run = open_run(self.dir.root()).unwrap();
        open(&run, &Arc::default()).unwrap().view
    }
}

#[derive(Debug, Clone)]
struct Point {
    key: usize,
    rank: u32,
    step: Option<i64>,
    value: Sample,
    time: i64,
}

#[derive(Debug, Clone)]
enum Sample {
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(String),
}

impl Sample {
    fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Float(x) => ValueRef::Float(*x),
            Self::Int(i) => ValueRef::Int(*i),
            Self::Bool(b) => ValueRef::Bool(*b),
            Self::Text(s) => ValueRef::Text(s),
        }
    }
}

const KEYS: [&str; 3] = ["acc", "loss", "x,y"];

/// Whole numbers, whose sums are exact in any order.
fn sample() -> impl Strategy<Value = Sample> {
    prop_oneof![
        8 => (-50..50i32).prop_map(|x| Sample::Float(f64::from(x))),
        2 => (-50..50i64).prop_map(Sample::Int),
        1 => any::<bool>().prop_map(Sample::Bool),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]).prop_map(Sample::Float),
        1 => "[a-c]{0,2}".prop_map(Sample::Text),
    ]
}

fn point() -> impl Strategy<Value = Point> {
    let step = prop_oneof![
        6 => (-20..400i64).prop_map(Some),
        2 => Just(None),
        1 => prop::sample::select(vec![i64::MIN, -1 << 40, 1 << 40, i64::MAX]).prop_map(Some),
    ];
    (0..KEYS.len(), 0..2u32, step, sample(), 0..30i64).prop_map(|(key, rank, step, value, time)| {
        Point {
            key,
            rank,
            step,
            value,
            time,
        }
    })
}

#[derive(Debug, Clone)]
enum Event {
    Points(Vec<Point>),
    /// Steps that rise, as they mostly do.
    Rising(usize, u32, i64),
    Seal,
    Publish,
    Resume,
    /// A sum is lost, or damaged at a byte.
    Lose(prop::sample::Index),
    Damage(prop::sample::Index, prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop::collection::vec(point(), 1..40).prop_map(Event::Points),
        3 => (0..KEYS.len(), 0..2u32, 0..300i64).prop_map(|(k, r, s)| Event::Rising(k, r, s)),
        4 => Just(Event::Seal),
        2 => Just(Event::Publish),
        1 => Just(Event::Resume),
        1 => any::<prop::sample::Index>().prop_map(Event::Lose),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(n, byte)| Event::Damage(n, byte)),
    ]
}

fn push(rows: &mut Rows, all: &mut Rows, point: &Point, seq: u64) {
    for rows in [rows, all] {
        rows.push_row(&Row {
            key: KEYS[point.key],
            rank: point.rank,
            step: point.step,
            timestamp_us: point.time,
            attempt: u32::from(seq.is_multiple_of(7)),
            seq,
            value: point.value.as_ref(),
        });
    }
}

fn apply(files: &mut Files, rows: &mut Rows, all: &mut Rows, event: &Event) {
    match event {
        Event::Points(points) => {
            for point in points {
                let seq = all.len() as u64;
                push(rows, all, point, seq);
            }
        }
        Event::Rising(key, rank, from) => {
            for step in *from..*from + 200 {
                let point = Point {
                    key: *key,
                    rank: *rank,
                    step: Some(step),
                    value: Sample::Int(step % 11),
                    time: step,
                };
                let seq = all.len() as u64;
                push(rows, all, &point, seq);
            }
        }
        Event::Seal => files.seal(&std::mem::take(rows)),
        Event::Publish => files.publish(),
        Event::Resume => files.resume(),
        Event::Lose(n) | Event::Damage(n, _) => {
            let sums = files.dir.sums().unwrap();
            if sums.is_empty() {
                return;
            }
            let path = &n.get(&sums).path;
            let mut bytes = durable::read(path).unwrap();
            std::fs::remove_file(path).unwrap();
            if let Event::Damage(_, at) = event {
                let at = at.index(bytes.len());
                bytes[at] ^= 0x20;
                durable::replace(path, &bytes).unwrap();
            }
        }
    }
}

type All = BTreeMap<(Arc<str>, u32), Series>;

fn brute_force(rows: &Rows) -> All {
    let mut all = All::new();
    for row in rows.iter() {
        let series = all.entry((Arc::from(row.key), row.rank)).or_default();
        series.push(&row, usize::MAX);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_view_tells_what_all_rows_tell(
        events in prop::collection::vec(event(), 1..24),
        max in 1..80usize,
        from in -2..8i64,
        width in 1..6i64,
    ) {
        let (mut files, mut rows, mut all) = (Files::new(), Rows::default(), Rows::default());
        for event in &events {
            apply(&mut files, &mut rows, &mut all, event);
        }
        let view = files.open();
        prop_assert_eq!(view.hi + rows.len() as u64, all.len() as u64);
        let told = brute_force(&all);
        let keys: HashSet<String> = KEYS.map(str::to_owned).into();
        let zoom = from * 64..=(from + width) * 64 - 1;
        for range in [EVERYWHERE, zoom] {
            let (start, end) = (*range.start(), *range.end());
            let want = Want { keys: &keys, ranks: None, range, max };
            let mut found = view.series(&want).unwrap();
            // What is not sealed yet comes on top.
            for (key, rank) in told.keys() {
                let mut live = Series::behind(view.stepless(key, *rank));
                let sealed = found.get(key).and_then(|ranks| ranks.get(rank));
                let range = aligned(&want.range, sealed.map_or(0, Series::shift));
                for row in rows.iter().filter(|r| r.key == &**key && r.rank == *rank) {
                    live.push_within(&row, &range, usize::MAX);
                }
                if live.totals.points > 0 {
                    let ranks = found.entry(Arc::clone(key)).or_default();
                    ranks.entry(*rank).or_default().merge(&live);
                }
            }
            let found: All = found
                .into_iter()
                .flat_map(|(key, ranks)| {
                    ranks.into_iter().map(move |(rank, series)| ((Arc::clone(&key), rank), series))
                })
                .collect();
            prop_assert_eq!(found.keys().collect::<Vec<_>>(), told.keys().collect::<Vec<_>>());
            for (place, series) in &found {
                let brute = &told[place];
                same_totals(&series.totals, &brute.totals)?;
                let shift = series.shift();
                let mut expected = brute.at(shift);
                expected.retain(|b| (start >> shift..=end >> shift).contains(&b.index));
                prop_assert_eq!(series.buckets(), &expected, "{:?} at {}", place, shift);
            }
        }
        let totals = view.totals();
        let sealed: u64 = totals.values().flat_map(BTreeMap::values).map(|t| t.points).sum();
        prop_assert_eq!(sealed, view.hi);
    }
}

/// NaN is a last value like any other.
fn same_totals(a: &Totals, b: &Totals) -> Result<(), TestCaseError> {
    let text = |t: &Totals| format!("{t:?}");
    prop_assert_eq!(text(a), text(b));
    Ok(())
}
