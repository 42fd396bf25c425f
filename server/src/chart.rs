//! Every series of a run that is followed: the sums of its sealed rows, and the rows that came since.
//!
//! The sealed rows are on disk, and only what a chart asks for is read of them. What comes while the run is followed
//! is added up here, whether it is sealed meanwhile or not.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use expman_storage::Rows;
use expman_storage::pyramid::{Found, Series, Totals, View};

/// Buckets kept of the new rows of one series before neighbours are merged.
const BUCKETS_MAX: usize = 4096;
/// Buckets kept of all series of a run together; many series keep fewer each …
const BUCKETS_TOTAL: usize = 1 << 21;
/// … but never fewer than this.
const BUCKETS_MIN: usize = 64;

/// Totals of all series by name and rank.
pub type AllTotals = BTreeMap<Arc<str>, BTreeMap<u32, Totals>>;

/// All series of a run, by name and rank.
#[derive(Debug, Default)]
pub struct Charts {
    view: Arc<View>,
    sealed: Arc<AllTotals>,
    new: Found,
    count: usize,
}

impl Charts {
    /// Charts of sealed rows.
    pub fn new(view: Arc<View>) -> Self {
        Self {
            sealed: Arc::new(view.totals()),
            view,
            ..Self::default()
        }
    }

    /// Takes in the rows behind.
    pub fn extend(&mut self, rows: &Rows) {
        for row in rows.iter() {
            let ranks = match self.new.get_mut(row.key) {
                Some(ranks) => ranks,
                None => self.new.entry(Arc::from(row.key)).or_default(),
            };
            let before = ranks.len();
            let view = &self.view;
            let series = ranks
                .entry(row.rank)
                .or_insert_with(|| Series::behind(view.stepless(row.key, row.rank)));
            let share = (BUCKETS_TOTAL / self.count.max(1)).max(BUCKETS_MIN);
            series.push(&row, BUCKETS_MAX.min(share));
            self.count += ranks.len() - before;
        }
    }

    /// The sealed rows.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The names of all metrics.
    pub fn keys(&self) -> HashSet<String> {
        let all = self.sealed.keys().chain(self.new.keys());
        all.map(|key| key.as_ref().to_owned()).collect()
    }

    /// How many series are wanted.
    pub fn count(&self, wanted: impl Fn(&str, u32) -> bool) -> usize {
        let sealed = self.sealed.iter().flat_map(|(key, ranks)| {
            let wanted = &wanted;
            ranks.keys().filter(move |rank| wanted(key, **rank))
        });
        let is_sealed = |key: &str, rank: u32| {
            let ranks = self.sealed.get(key);
            ranks.is_some_and(|ranks| ranks.contains_key(&rank))
        };
        let new = self.new.iter().flat_map(|(key, ranks)| {
            let (wanted, is_sealed) = (&wanted, &is_sealed);
            let ranks = ranks.keys();
            ranks.filter(move |rank| wanted(key, **rank) && !is_sealed(key, **rank))
        });
        sealed.count() + new.count()
    }

    /// What every series amounts to.
    pub fn totals(&self) -> AllTotals {
        let mut all = (*self.sealed).clone();
        for (key, ranks) in &self.new {
            let own = all.entry(Arc::clone(key)).or_default();
            for (rank, series) in ranks {
                own.entry(*rank).or_default().merge(&series.totals);
            }
        }
        all
    }

    /// Adds the rows behind the sealed ones to what was found of these.
    pub fn add_new(&self, found: &mut Found, wanted: impl Fn(&str, u32) -> bool) {
        for (key, ranks) in &self.new {
            for (rank, series) in ranks.iter().filter(|(rank, _)| wanted(key, **rank)) {
                let own = found.entry(Arc::clone(key)).or_default();
                own.entry(*rank).or_default().merge(series);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expman_model::record::ValueRef;
    use expman_storage::Row;

    use super::*;

    #[test]
    fn many_series_share_their_buckets() {
        let mut charts = Charts {
            count: BUCKETS_TOTAL / 100,
            ..Charts::default()
        };
        let mut rows = Rows::default();
        for i in 0..5000 {
            rows.push_row(&Row {
                key: "k",
                rank: 0,
                step: Some(i),
                timestamp_us: 0,
                attempt: 0,
                seq: i.cast_unsigned(),
                value: ValueRef::Float(1.0),
            });
        }
        charts.extend(&rows);
        let mut found = Found::new();
        charts.add_new(&mut found, |_, _| true);
        let buckets = found["k"][&0].buckets();
        assert!(buckets.len() <= 100);
        assert_eq!(buckets.iter().map(|b| b.n).sum::<u64>(), 5000);
        assert_eq!(charts.totals()["k"][&0].points, 5000);
    }
}
