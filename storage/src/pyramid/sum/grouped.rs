//! The sum of rows in memory, series by series: what a series amounts to is known before its buckets are made, so that
//! each row is put once into one that is wide enough.

use expman_model::Value;
use expman_model::record::ValueRef;

use super::super::series::{Bucket, Moment, Series, Totals};
use super::{BUCKETS_MAX, Bases, RUN_BUCKETS, Sum, mark, target};
use crate::rows::{Call, FLOAT, Order, Rows};

impl Sum {
    /// The sum of rows in memory, all of which are in the order.
    #[must_use]
    pub fn of(rows: &Rows, order: &Order, lo: u64, bases: Bases<'_>) -> Self {
        let mut sum = Self::new(lo, lo + order.places.len() as u64);
        let mut last = None;
        for call in &rows.calls {
            let process = (call.rank.cast_unsigned(), call.attempt.cast_unsigned());
            let seq = call.seq.cast_unsigned();
            match &mut last {
                Some((known, last)) if *known == process => *last = seq.max(*last),
                other => {
                    if let Some((process, last)) = other.replace((process, seq)) {
                        mark(&mut sum.marks, process, last);
                    }
                }
            }
        }
        if let Some((process, last)) = last {
            mark(&mut sum.marks, process, last);
        }
        let mut points = Points::default();
        let mut new_buckets = 0;
        for group in &order.groups {
            let name = rows.keys.name(group.key);
            let base = bases(name, group.rank);
            let own = &order.places[group.places.clone()];
            let series = points.series(rows, own, base, target(own.len() as u64, sum.thin));
            new_buckets += series.buckets().len();
            let ranks = sum.series.entry(name.clone()).or_default();
            ranks.insert(group.rank, series);
            if new_buckets > BUCKETS_MAX / 4 {
                new_buckets = 0;
                sum.bound();
            }
        }
        sum.bound();
        sum
    }
}

fn moment(call: &Call) -> Moment {
    Moment {
        timestamp_us: call.timestamp,
        attempt: call.attempt.cast_unsigned(),
        seq: call.seq.cast_unsigned(),
    }
}

/// The points of one series that get into buckets.
#[derive(Default)]
struct Points {
    places: Vec<i64>,
    values: Vec<f64>,
    calls: Vec<u32>,
}

impl Points {
    /// The rows of one series, by their step, in at most `max` buckets.
    fn series(&mut self, rows: &Rows, order: &[u32], base: u64, max: usize) -> Series {
        let max = max.max(2);
        if let Some(totals) = self.gather_floats(rows, order) {
            let shift = self.shift_for(max);
            let buckets = self.buckets(rows, shift);
            let last = buckets.iter().max_by_key(|bucket| bucket.at);
            let last = last.map(|bucket| (Value::Float(bucket.last), bucket.at));
            return Series::from_parts(Totals { last, ..totals }, base, shift, buckets);
        }
        let Some(totals) = self.gather(rows, order, base) else {
            // Points with and without a step lie over each other.
            let mut series = Series::behind(base);
            for &i in order {
                series.push(&rows.row(i as usize), RUN_BUCKETS);
            }
            series.keep(max);
            return series;
        };
        let shift = self.shift_for(max);
        Series::from_parts(totals, base, shift, self.buckets(rows, shift))
    }

    /// Takes the points in, if all are finite floats with a step; what came last is left out.
    fn gather_floats(&mut self, rows: &Rows, order: &[u32]) -> Option<Totals> {
        let row = |i: &u32| *i as usize;
        if order.iter().any(|i| rows.kind[row(i)] != FLOAT) {
            return None;
        }
        self.values.clear();
        let float = |i| f64::from_bits(rows.bits[row(i)]);
        self.values.extend(order.iter().map(float));
        if !self.values.iter().all(|x| x.is_finite()) {
            return None;
        }
        self.calls.clear();
        self.calls.extend(order.iter().map(|i| rows.call[row(i)]));
        let (mut have_steps, mut first_us) = (true, i64::MAX);
        self.places.clear();
        self.places.extend(self.calls.iter().map(|call| {
            let call = &rows.calls[*call as usize];
            have_steps &= call.has_step;
            first_us = first_us.min(call.timestamp);
            call.step
        }));
        have_steps.then(|| Totals {
            points: order.len() as u64,
            first_step: self.places.first().copied(),
            last_step: self.places.last().copied(),
            first_us: (!order.is_empty()).then_some(first_us),
            ..Totals::default()
        })
    }

    /// Takes the points in, if their places rise.
    fn gather(&mut self, rows: &Rows, order: &[u32], base: u64) -> Option<Totals> {
        self.places.clear();
        self.values.clear();
        self.calls.clear();
        let mut totals = Totals {
            points: order.len() as u64,
            ..Totals::default()
        };
        let mut first_us = i64::MAX;
        // Rows that came last: a number or truth value, and a text.
        let mut last: [Option<(Moment, usize)>; 2] = [None, None];
        let mut above = i64::MIN;
        for &i in order {
            let i = i as usize;
            let call = rows.call(i);
            let place = if call.has_step {
                totals.first_step.get_or_insert(call.step);
                totals.last_step = Some(call.step);
                call.step
            } else {
                totals.stepless += 1;
                let ordinal = base.saturating_add(totals.stepless - 1);
                i64::try_from(ordinal).unwrap_or(i64::MAX)
            };
            first_us = first_us.min(call.timestamp);
            #[expect(
                clippy::cast_precision_loss,
                reason = "a chart shows no more than a float does"
            )]
            let value = match rows.value_ref(i) {
                ValueRef::Float(x) => Some(x),
                ValueRef::Int(n) => Some(n as f64),
                ValueRef::Bool(b) => Some(f64::from(u8::from(b))),
                ValueRef::Text(_) => None,
            };
            let at = moment(call);
            let last = &mut last[usize::from(value.is_none())];
            if last.as_ref().is_none_or(|(known, _)| at >= *known) {
                *last = Some((at, i));
            }
            let Some(value) = value else {
                totals.texts += 1;
                continue;
            };
            if !value.is_finite() {
                totals.non_finite += 1;
                continue;
            }
            if place < above {
                return None;
            }
            above = place;
            self.places.push(place);
            self.values.push(value);
            self.calls.push(rows.call[i]);
        }
        totals.first_us = (!order.is_empty()).then_some(first_us);
        let [number, text] = last;
        totals.last = number.map(|(at, i)| (rows.value(i), at));
        totals.text = text.and_then(|(at, i)| match rows.value_ref(i) {
            ValueRef::Text(text) => Some((text.to_owned(), at)),
            _ => None,
        });
        Some(totals)
    }

    /// The least width, as a power of two, that leaves at most `max` buckets.
    fn shift_for(&self, max: usize) -> u32 {
        let ([first, ..], [.., last]) = (self.places.as_slice(), self.places.as_slice()) else {
            return 0;
        };
        if self.places.len() <= max {
            return 0;
        }
        let span = last.abs_diff(*first);
        let mut shift = 0;
        while shift < 63 && (span >> shift).saturating_add(2) > max as u64 {
            shift += 1;
        }
        while shift > 0 && self.buckets_of(shift - 1) <= max {
            shift -= 1;
        }
        shift
    }

    /// How many buckets of `1 << shift` steps the points are in.
    fn buckets_of(&self, shift: u32) -> usize {
        let changes = self
            .places
            .windows(2)
            .filter(|pair| pair[0] >> shift != pair[1] >> shift);
        1 + changes.count()
    }

    fn buckets(&self, rows: &Rows, shift: u32) -> Vec<Bucket> {
        let mut buckets = Vec::new();
        let mut points = self.places.iter().zip(&self.values).zip(&self.calls);
        let at = |call: u32| moment(&rows.calls[call as usize]);
        let Some(((&place, &value), &call)) = points.next() else {
            return buckets;
        };
        let of = |place: i64, value: f64, call: u32| Bucket {
            index: place >> shift,
            n: 1,
            min: value,
            max: value,
            sum: value,
            last: value,
            at: at(call),
        };
        let mut open = of(place, value, call);
        for ((&place, &value), &call) in points {
            if place >> shift != open.index {
                buckets.push(std::mem::replace(&mut open, of(place, value, call)));
                continue;
            }
            open.n += 1;
            open.min = if value < open.min { value } else { open.min };
            open.max = if value > open.max { value } else { open.max };
            open.sum += value;
            let at = at(call);
            if at >= open.at {
                (open.last, open.at) = (value, at);
            }
        }
        buckets.push(open);
        buckets
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Summing;
    use super::*;
    use crate::rows::Row;

    proptest! {
        #[test]
        fn rows_added_series_by_series_amount_to_what_they_do_one_by_one(
            points in prop::collection::vec(
                (0..3u32, 0..2u32, prop::option::weighted(0.9, -40..400i64), -8..9i32, 0..5i64),
                0..300,
            ),
            mixed: bool,
        ) {
            let mut rows = Rows::default();
            for (seq, (key, rank, step, x, time)) in (1..).zip(points) {
                rows.push_row(&Row {
                    key: &format!("k{key}"),
                    rank,
                    step: step.or((!mixed).then_some(7)),
                    timestamp_us: time,
                    attempt: u32::from(x == 3),
                    seq,
                    value: match x {
                        8 => ValueRef::Text("eight"),
                        7 => ValueRef::Float(f64::INFINITY),
                        6 => ValueRef::Bool(true),
                        5 => ValueRef::Int(-5),
                        x => ValueRef::Float(f64::from(x)),
                    },
                });
            }
            let order = rows.sorted();
            let bases = |_: &str, rank: u32| u64::from(rank);
            let sum = Sum::of(&rows, &order, 10, &bases);
            let mut summing = Summing::new(10, &bases);
            for &i in &order.places {
                summing.push(&rows.row(i as usize));
            }
            prop_assert_eq!(sum, summing.finish());
        }
    }
}
