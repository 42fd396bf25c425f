//! One metric of one rank: its totals, and its values in buckets on a grid of steps.
//!
//! A bucket covers a power of two of steps and begins at a multiple of it, so buckets of different
//! ranks, widths and moments merge without resampling.
//! What is last is told by the rows themselves and not by the order in which they are read, so that files
//! sorted by step, commit logs and sums of both amount to the same.

use std::ops::RangeInclusive;

use expman_model::Value;
use expman_model::record::ValueRef;

use crate::rows::Row;

/// Every step.
pub const EVERYWHERE: RangeInclusive<i64> = i64::MIN..=i64::MAX;

/// When a row came: the greatest one of a series is its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment {
    /// Microseconds since 1970 UTC.
    pub timestamp_us: i64,
    /// Tells rows of one microsecond apart.
    pub attempt: u32,
    /// See `attempt`.
    pub seq: u64,
}

impl Moment {
    /// When a row came.
    #[must_use]
    pub const fn of(row: &Row<'_>) -> Self {
        Self {
            timestamp_us: row.timestamp_us,
            attempt: row.attempt,
            seq: row.seq,
        }
    }
}

/// The points of one series that fall into one span of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Number of the span: its first step divided by the width.
    pub index: i64,
    /// How many values.
    pub n: u64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Sum of the values.
    pub sum: f64,
    /// The value that came last.
    pub last: f64,
    /// When it came.
    pub at: Moment,
}

impl Bucket {
    /// Takes in the points of another bucket of the same span.
    pub fn merge(&mut self, other: &Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.n = self.n.saturating_add(other.n);
        if other.at >= self.at {
            (self.last, self.at) = (other.last, other.at);
        }
    }

    /// The mean of the values.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a mean of more than 2^53 points is no less exact than its sum"
    )]
    pub fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }
}

/// What a series amounts to as a whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Totals {
    /// Points of any kind.
    pub points: u64,
    /// Those of them that have no step.
    pub stepless: u64,
    /// Points that no chart can show: NaN and the infinities.
    pub non_finite: u64,
    /// Points that are texts.
    pub texts: u64,
    /// Least step.
    pub first_step: Option<i64>,
    /// Greatest step.
    pub last_step: Option<i64>,
    /// Least time, microseconds since 1970 UTC; none without points.
    pub first_us: Option<i64>,
    /// The number or truth value that came last, and when.
    pub last: Option<(Value, Moment)>,
    /// The text that came last, and when.
    pub text: Option<(String, Moment)>,
}

impl Totals {
    /// Takes in the totals of other points of the same series.
    pub fn merge(&mut self, other: &Self) {
        self.points = self.points.saturating_add(other.points);
        self.stepless = self.stepless.saturating_add(other.stepless);
        self.non_finite = self.non_finite.saturating_add(other.non_finite);
        self.texts = self.texts.saturating_add(other.texts);
        self.first_step = least(self.first_step, other.first_step);
        self.last_step = self.last_step.max(other.last_step);
        self.first_us = least(self.first_us, other.first_us);
        newer(&mut self.last, other.last.as_ref());
        newer(&mut self.text, other.text.as_ref());
    }

    /// Whether there is a number or a truth value among the points.
    #[must_use]
    pub const fn has_numbers(&self) -> bool {
        self.last.is_some()
    }
}

fn least(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn newer<T: Clone>(mine: &mut Option<(T, Moment)>, other: Option<&(T, Moment)>) {
    if let Some(other) = other
        && mine.as_ref().is_none_or(|(_, mine)| other.1 >= *mine)
    {
        *mine = Some(other.clone());
    }
}

/// One metric of one rank.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// What it amounts to.
    pub totals: Totals,
    /// Points without a step that other rows hold in front of these ones.
    base: u64,
    shift: u32,
    buckets: Vec<Bucket>,
}

impl Series {
    /// A series whose first points are elsewhere, so many of them without a step.
    #[must_use]
    pub fn behind(stepless: u64) -> Self {
        Self {
            base: stepless,
            ..Self::default()
        }
    }

    /// A series that was stored: its buckets rise by their index, at a width of `1 << shift` steps.
    #[must_use]
    pub const fn from_parts(totals: Totals, base: u64, shift: u32, buckets: Vec<Bucket>) -> Self {
        Self {
            totals,
            base,
            shift,
            buckets,
        }
    }

    /// Takes in one more point; at most `max` buckets are kept.
    ///
    /// A point without a step stands at its number among those of its series that have none.
    pub fn push(&mut self, row: &Row<'_>, max: usize) {
        self.push_within(row, &EVERYWHERE, max);
    }

    /// [`Series::push`], where only points within a range of steps get into buckets.
    pub fn push_within(&mut self, row: &Row<'_>, range: &RangeInclusive<i64>, max: usize) {
        let totals = &mut self.totals;
        let ordinal = i64::try_from(self.base.saturating_add(totals.stepless)).unwrap_or(i64::MAX);
        let at = Moment::of(row);
        totals.points = totals.points.saturating_add(1);
        totals.first_us = least(totals.first_us, Some(row.timestamp_us));
        if row.step.is_some() {
            totals.first_step = least(totals.first_step, row.step);
            totals.last_step = totals.last_step.max(row.step);
        } else {
            totals.stepless = totals.stepless.saturating_add(1);
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a chart shows no more than a float does"
        )]
        let value = match row.value {
            ValueRef::Float(x) => x,
            ValueRef::Int(i) => i as f64,
            ValueRef::Bool(b) => f64::from(u8::from(b)),
            ValueRef::Text(text) => {
                totals.texts = totals.texts.saturating_add(1);
                if totals.text.as_ref().is_none_or(|(_, last)| at >= *last) {
                    totals.text = Some((text.to_owned(), at));
                }
                return;
            }
        };
        if totals.last.as_ref().is_none_or(|(_, last)| at >= *last) {
            totals.last = Some((row.value.to_value(), at));
        }
        if !value.is_finite() {
            totals.non_finite = totals.non_finite.saturating_add(1);
            return;
        }
        let place = row.step.unwrap_or(ordinal);
        if !range.contains(&place) {
            return;
        }
        self.put(Bucket {
            index: place >> self.shift,
            n: 1,
            min: value,
            max: value,
            sum: value,
            last: value,
            at,
        });
        self.keep(max);
    }

    fn put(&mut self, one: Bucket) {
        match self.buckets.last_mut() {
            Some(last) if last.index == one.index => last.merge(&one),
            Some(last) if last.index > one.index => {
                match self.buckets.binary_search_by_key(&one.index, |b| b.index) {
                    Ok(at) => self.buckets[at].merge(&one),
                    Err(at) => self.buckets.insert(at, one),
                }
            }
            _ => self.buckets.push(one),
        }
    }

    /// Makes the buckets wider until there are at most `max`.
    pub fn keep(&mut self, max: usize) {
        let shift = self.shift_for(max.max(2));
        self.widen(shift);
    }

    /// Makes the buckets as wide as `1 << shift` steps, unless they are wider.
    pub fn widen(&mut self, shift: u32) {
        if shift > self.shift {
            self.buckets = coarser(&self.buckets, shift - self.shift);
            self.shift = shift;
        }
    }

    /// Takes in other points of the same series, at the wider one of both widths.
    pub fn merge(&mut self, other: &Self) {
        self.totals.merge(&other.totals);
        self.merge_buckets(other.shift, &other.buckets);
    }

    /// Takes in buckets, at the wider one of both widths.
    pub fn merge_buckets(&mut self, shift: u32, buckets: &[Bucket]) {
        if buckets.is_empty() {
            return;
        }
        if self.buckets.is_empty() {
            self.buckets = coarser(buckets, self.shift.saturating_sub(shift));
            self.shift = self.shift.max(shift);
            return;
        }
        self.widen(shift);
        let other = coarser(buckets, self.shift - shift);
        // What stands in front stays where it is: mostly that is all of it.
        let at = self.buckets.partition_point(|b| b.index < other[0].index);
        let behind = self.buckets.split_off(at);
        self.buckets.extend(merged(&behind, &other));
    }

    /// Leaves only the buckets that overlap a range.
    pub fn cut(&mut self, range: &RangeInclusive<i64>) {
        let range = range.start() >> self.shift..=range.end() >> self.shift;
        self.buckets.retain(|bucket| range.contains(&bucket.index));
    }

    /// The least width, as a power of two, that leaves at most `max` buckets.
    #[must_use]
    pub fn shift_for(&self, max: usize) -> u32 {
        shift_for(&self.buckets, self.shift, max)
    }

    /// The buckets at a width that is no finer than the series' own.
    #[must_use]
    pub fn at(&self, shift: u32) -> Vec<Bucket> {
        coarser(&self.buckets, shift.saturating_sub(self.shift))
    }

    /// The buckets at their own width.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Points without a step in front of these.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// How wide they are: `1 << shift` steps.
    #[must_use]
    pub const fn shift(&self) -> u32 {
        self.shift
    }
}

/// A range widened to whole buckets of `1 << shift` steps.
#[must_use]
pub fn aligned(range: &RangeInclusive<i64>, shift: u32) -> RangeInclusive<i64> {
    // At the greatest width there are two buckets: what is below zero, and the rest.
    let below = i64::MAX.cast_unsigned() >> (63 - shift.min(63));
    let below = below.cast_signed();
    range.start() & !below..=range.end() | below
}

/// The least width that leaves at most `max` of these buckets, whose own is `shift`.
#[must_use]
pub fn shift_for(buckets: &[Bucket], shift: u32, max: usize) -> u32 {
    let mut wider = shift;
    if buckets.len() > max {
        while wider < 63 && distinct(buckets, wider - shift) > max {
            wider += 1;
        }
    }
    wider
}

fn distinct(buckets: &[Bucket], by: u32) -> usize {
    let changes = buckets
        .windows(2)
        .filter(|w| w[0].index >> by != w[1].index >> by)
        .count();
    changes + usize::from(!buckets.is_empty())
}

/// Buckets that are `1 << by` times as wide.
#[must_use]
pub fn coarser(buckets: &[Bucket], by: u32) -> Vec<Bucket> {
    if by == 0 {
        return buckets.to_vec();
    }
    let mut out: Vec<Bucket> = Vec::new();
    for bucket in buckets {
        let index = bucket.index >> by.min(63);
        match out.last_mut() {
            Some(last) if last.index == index => last.merge(bucket),
            _ => out.push(Bucket { index, ..*bucket }),
        }
    }
    out
}

/// Two lists of buckets of one width as one; both rise by their index.
#[must_use]
pub fn merged(a: &[Bucket], b: &[Bucket]) -> Vec<Bucket> {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.index == y.index => {
                let mut both = **x;
                both.merge(y);
                out.push(both);
                a.next();
                b.next();
            }
            (Some(x), Some(y)) if x.index > y.index => out.extend(b.next()),
            (Some(_), _) => out.extend(a.next()),
            (None, Some(_)) => out.extend(b.next()),
            (None, None) => return out,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(seq: u64, step: Option<i64>, x: f64) -> Row<'static> {
        Row {
            key: "k",
            rank: 0,
            step,
            timestamp_us: 0,
            attempt: 0,
            seq,
            value: ValueRef::Float(x),
        }
    }

    fn series(points: impl IntoIterator<Item = (Option<i64>, f64)>, max: usize) -> Series {
        let mut series = Series::default();
        for (seq, (step, x)) in (1..).zip(points) {
            series.push(&row(seq, step, x), max);
        }
        series
    }

    #[test]
    fn a_spike_survives_any_width() {
        let points = (0..1_000_000).map(|i| (Some(i), if i == 654_321 { -9e9 } else { 1.0 }));
        let series = series(points, 2048);
        let shift = series.shift_for(100);
        let buckets = series.at(shift);
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
        let points = [(-3, 1.0), (10, 2.0), (4, 3.0), (4, 5.0)];
        let series = series(points.map(|(step, x)| (Some(step), x)), 2048);
        assert_eq!(series.shift_for(1024), 0);
        let seen: Vec<_> = series
            .buckets()
            .iter()
            .map(|b| (b.index, b.last, b.n))
            .collect();
        assert_eq!(seen, [(-3, 1.0, 1), (4, 5.0, 2), (10, 2.0, 1)]);
        assert_eq!(
            (series.totals.first_step, series.totals.last_step),
            (Some(-3), Some(10))
        );
    }

    #[test]
    fn what_can_not_be_drawn_is_counted() {
        let series = series(
            [1.0, f64::NAN, f64::NEG_INFINITY, 2.0].map(|x| (None, x)),
            2048,
        );
        assert_eq!((series.totals.points, series.totals.non_finite), (4, 2));
        let seen: Vec<_> = series.buckets().iter().map(|b| b.index).collect();
        assert_eq!(seen, [0, 3]);
    }

    #[test]
    fn extreme_steps_do_not_overflow() {
        let steps = [i64::MIN, i64::MAX, 0];
        let series = series(steps.map(|step| (Some(step), 1.0)), 2);
        assert_eq!(series.at(series.shift_for(2)).len(), 2);
    }

    proptest! {
        #[test]
        fn however_points_are_cut_and_shuffled_they_amount_to_the_same(
            points in prop::collection::vec((-300..300i64, -8..8i32), 1..200),
            cut in 0..200usize,
            max in 2..40usize,
        ) {
            let rows: Vec<_> = (1..)
                .zip(&points)
                .map(|(seq, (step, x))| row(seq, Some(*step), f64::from(*x)))
                .collect();
            let sum = |rows: &[Row<'_>]| {
                let mut series = Series::default();
                for row in rows {
                    series.push(row, max);
                }
                series
            };
            let whole = sum(&rows);
            let (a, b) = rows.split_at(cut.min(rows.len()));
            let mut sorted = b.to_vec();
            sorted.sort_by_key(|row| row.step);
            let mut parts = sum(&sorted);
            parts.merge(&sum(a));
            prop_assert_eq!(&parts.totals, &whole.totals);
            let shift = parts.shift().max(whole.shift());
            prop_assert_eq!(parts.at(shift), whole.at(shift));
        }
    }
}
