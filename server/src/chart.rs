//! Series as buckets on a grid of steps: what a chart needs, and never less than its extremes.
//!
//! A bucket covers a power of two of steps and begins at a multiple of it, so buckets of different
//! ranks, widths and moments merge without resampling.

use std::collections::BTreeMap;
use std::sync::Arc;

use expman_model::record::ValueRef;
use expman_storage::{Row, Rows};

/// Buckets kept of one series before neighbours are merged.
pub const BUCKETS_MAX: usize = 2048;
/// Buckets kept of all series of a run together; many series keep fewer each …
const BUCKETS_TOTAL: usize = 1 << 21;
/// … but never fewer than this.
const BUCKETS_MIN: usize = 64;

/// The points of one series that fall into one span of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Number of the span: its first step divided by the width.
    pub index: i64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Sum of the values.
    pub sum: f64,
    /// The value that came last.
    pub last: f64,
    /// When it came, microseconds since 1970 UTC.
    pub timestamp_us: i64,
    /// How many values.
    pub n: u64,
}

impl Bucket {
    fn merge(&mut self, later: &Self) {
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.sum += later.sum;
        self.n += later.n;
        (self.last, self.timestamp_us) = (later.last, later.timestamp_us);
    }
}

/// One metric of one rank.
#[derive(Debug, Clone, Default)]
pub struct Series {
    buckets: Vec<Bucket>,
    shift: u32,
    /// Points of any kind.
    pub points: u64,
    /// Points that no chart can show: NaN and the infinities.
    pub non_finite: u64,
    /// Greatest step.
    pub last_step: Option<i64>,
    /// The last text, its time, and how many texts there were.
    pub text: Option<(String, i64, u64)>,
}

impl Series {
    fn push(&mut self, row: &Row<'_>, buckets_max: usize) {
        let ordinal = i64::try_from(self.points).unwrap_or(i64::MAX);
        self.points += 1;
        self.last_step = self.last_step.max(row.step);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a chart shows no more than a float does"
        )]
        let value = match row.value {
            ValueRef::Float(x) => x,
            ValueRef::Int(i) => i as f64,
            ValueRef::Bool(b) => f64::from(u8::from(b)),
            ValueRef::Text(text) => {
                let count = self.text.as_ref().map_or(0, |t| t.2);
                self.text = Some((text.to_owned(), row.timestamp_us, count + 1));
                return;
            }
        };
        if !value.is_finite() {
            self.non_finite += 1;
            return;
        }
        // A point without a step stands where it came in.
        let index = row.step.unwrap_or(ordinal) >> self.shift;
        let one = Bucket {
            index,
            min: value,
            max: value,
            sum: value,
            last: value,
            timestamp_us: row.timestamp_us,
            n: 1,
        };
        match self.buckets.last_mut() {
            Some(last) if last.index == index => last.merge(&one),
            Some(last) if last.index > index => {
                match self.buckets.binary_search_by_key(&index, |b| b.index) {
                    Ok(at) => self.buckets[at].merge(&one),
                    Err(at) => self.buckets.insert(at, one),
                }
            }
            _ => self.buckets.push(one),
        }
        while self.buckets.len() > buckets_max {
            self.buckets = coarser(&self.buckets, 1);
            self.shift += 1;
        }
    }

    /// The least width, as a power of two, that leaves at most `max` buckets.
    fn shift_for(&self, max: usize) -> u32 {
        let mut shift = self.shift;
        while shift < 63 && distinct(&self.buckets, shift - self.shift) > max {
            shift += 1;
        }
        shift
    }

    /// The buckets at a width that is no finer than the series' own.
    pub fn at(&self, shift: u32) -> Vec<Bucket> {
        coarser(&self.buckets, shift.saturating_sub(self.shift))
    }

    /// Whether a number was ever logged.
    pub fn has_numbers(&self) -> bool {
        !self.buckets.is_empty() || self.non_finite > 0
    }
}

fn distinct(buckets: &[Bucket], by: u32) -> usize {
    let changes = buckets
        .windows(2)
        .filter(|w| w[0].index >> by != w[1].index >> by)
        .count();
    changes + usize::from(!buckets.is_empty())
}

fn coarser(buckets: &[Bucket], by: u32) -> Vec<Bucket> {
    let mut out: Vec<Bucket> = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        let index = bucket.index >> by;
        match out.last_mut() {
            Some(last) if last.index == index => last.merge(bucket),
            _ => out.push(Bucket { index, ..*bucket }),
        }
    }
    out
}

/// All series of a run, by name and rank.
#[derive(Debug, Clone)]
pub struct Charts {
    series: BTreeMap<Arc<str>, BTreeMap<u32, Series>>,
    buckets_max: usize,
    count: usize,
}

impl Default for Charts {
    fn default() -> Self {
        Self::with_buckets(BUCKETS_MAX)
    }
}

impl Charts {
    /// Charts that keep so many buckets of each series.
    pub fn with_buckets(buckets_max: usize) -> Self {
        Self {
            series: BTreeMap::new(),
            buckets_max,
            count: 0,
        }
    }

    /// Takes in more rows.
    pub fn extend(&mut self, rows: &Rows) {
        for row in rows.iter() {
            let ranks = match self.series.get_mut(row.key) {
                Some(ranks) => ranks,
                None => self.series.entry(Arc::from(row.key)).or_default(),
            };
            let before = ranks.len();
            let series = ranks.entry(row.rank).or_default();
            let share = (BUCKETS_TOTAL / self.count.max(1)).max(BUCKETS_MIN);
            series.push(&row, self.buckets_max.min(share));
            self.count += ranks.len() - before;
        }
    }

    /// Every metric with its ranks, by name.
    pub fn metrics(&self) -> impl Iterator<Item = (&str, &BTreeMap<u32, Series>)> {
        self.series.iter().map(|(key, ranks)| (key.as_ref(), ranks))
    }

    /// Every series, by name and rank.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32, &Series)> {
        self.metrics()
            .flat_map(|(key, ranks)| ranks.iter().map(move |(&rank, series)| (key, rank, series)))
    }

    /// The width at which no wanted series has more than `max` buckets; one for all, so that they share their x.
    pub fn shift_for(&self, max: usize, wanted: impl Fn(&str, u32) -> bool) -> u32 {
        self.iter()
            .filter(|&(key, rank, _)| wanted(key, rank))
            .map(|(_, _, s)| s.shift_for(max))
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(points: impl IntoIterator<Item = (Option<i64>, f64)>) -> Rows {
        let mut rows = Rows::default();
        for (seq, (step, x)) in (1..).zip(points) {
            let value = ValueRef::Float(x);
            rows.push_row(&Row {
                key: "k",
                rank: 0,
                step,
                timestamp_us: 0,
                attempt: 0,
                seq,
                value,
            });
        }
        rows
    }

    fn only(charts: &Charts) -> &Series {
        charts.iter().next().unwrap().2
    }

    #[test]
    fn a_spike_survives_any_width() {
        let mut charts = Charts::default();
        charts.extend(&rows(
            (0..1_000_000).map(|i| (Some(i), if i == 654_321 { -9e9 } else { 1.0 })),
        ));
        let shift = charts.shift_for(100, |_, _| true);
        let buckets = only(&charts).at(shift);
        assert!(buckets.len() <= 100 && buckets.len() > 40);
        assert_eq!(buckets.iter().map(|b| b.n).sum::<u64>(), 1_000_000);
        let spike = buckets.iter().find(|b| b.min < 0.0).unwrap();
        assert_eq!(
            (spike.index, spike.min, spike.max),
            (654_321 >> shift, -9e9, 1.0)
        );
    }

    #[test]
    fn few_points_stay_points() {
        let mut charts = Charts::default();
        charts.extend(&rows([
            (Some(-3), 1.0),
            (Some(10), 2.0),
            (Some(4), 3.0),
            (Some(4), 5.0),
        ]));
        assert_eq!(charts.shift_for(1024, |_, _| true), 0);
        let buckets = only(&charts).at(0);
        let seen: Vec<_> = buckets.iter().map(|b| (b.index, b.last, b.n)).collect();
        assert_eq!(seen, [(-3, 1.0, 1), (4, 5.0, 2), (10, 2.0, 1)]);
        assert_eq!(only(&charts).last_step, Some(10));
    }

    #[test]
    fn what_can_not_be_drawn_is_counted() {
        let mut charts = Charts::default();
        charts.extend(&rows([
            (None, 1.0),
            (None, f64::NAN),
            (None, f64::NEG_INFINITY),
            (None, 2.0),
        ]));
        let series = only(&charts);
        assert_eq!((series.points, series.non_finite), (4, 2));
        assert_eq!(
            series.at(0).iter().map(|b| b.index).collect::<Vec<_>>(),
            [0, 3]
        );
    }

    #[test]
    fn many_series_share_their_buckets() {
        let mut charts = Charts {
            count: BUCKETS_TOTAL / 100,
            ..Charts::default()
        };
        charts.extend(&rows((0..5000).map(|i| (Some(i), 1.0))));
        let buckets = only(&charts).at(0);
        assert!(buckets.len() <= 100);
        assert_eq!(buckets.iter().map(|b| b.n).sum::<u64>(), 5000);
    }

    #[test]
    fn extreme_steps_do_not_overflow() {
        let mut charts = Charts::default();
        charts.extend(&rows([
            (Some(i64::MIN), 1.0),
            (Some(i64::MAX), 2.0),
            (Some(0), 3.0),
        ]));
        assert_eq!(only(&charts).at(charts.shift_for(2, |_, _| true)).len(), 2);
    }
}
