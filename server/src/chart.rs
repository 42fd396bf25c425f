//! Every series of a run that is followed, as the buckets of charts.

use std::collections::BTreeMap;
use std::sync::Arc;

use expman_storage::Rows;
use expman_storage::pyramid::Series;

/// Buckets kept of one series before neighbours are merged.
pub const BUCKETS_MAX: usize = 2048;
/// Buckets kept of all series of a run together; many series keep fewer each …
const BUCKETS_TOTAL: usize = 1 << 21;
/// … but never fewer than this.
const BUCKETS_MIN: usize = 64;

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
        let buckets = charts.iter().next().unwrap().2.buckets();
        assert!(buckets.len() <= 100);
        assert_eq!(buckets.iter().map(|b| b.n).sum::<u64>(), 5000);
    }
}
