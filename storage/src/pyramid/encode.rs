//! The bytes of a sum's file; see [`super::file`] for what stands where.

use expman_model::Value;

use super::columns::{put, put_buckets, put_delta};
use super::file::{CHUNK_BUCKETS, CHUNK_BYTES, Chunk, HEAD_AT, MAGIC};
use super::series::{Bucket, Moment, Series, Totals, coarser};
use super::sum::Sum;

/// A level with more buckets has a coarser one above it.
const TOP_BUCKETS: usize = 2048;
/// Each level is so many powers of two finer than the one above it.
const FAN_OUT_SHIFT: u32 = 2;
const ZSTD_LEVEL: i32 = 3;

/// The bytes of a sum's file.
///
/// # Errors
/// When zstd fails.
pub fn encode(sum: &Sum) -> std::io::Result<Vec<u8>> {
    let mut tiers: Vec<Vec<Bucket>> = Vec::new();
    let mut levels: Vec<Vec<(u32, usize)>> = Vec::new();
    for (_, _, series) in sum.iter() {
        let mut own = vec![(series.shift(), series.buckets().to_vec())];
        while let Some((shift, finer)) = own.last().filter(|(_, b)| b.len() > TOP_BUCKETS) {
            let level = (shift + FAN_OUT_SHIFT, coarser(finer, FAN_OUT_SHIFT));
            // Steps so far apart that wider buckets are not fewer.
            if level.0 > 62 || level.1.len() * 2 > finer.len() {
                break;
            }
            own.push(level);
        }
        own.reverse();
        levels.push(own.iter().map(|(shift, b)| (*shift, b.len())).collect());
        for (tier, (_, buckets)) in own.into_iter().enumerate() {
            if tiers.len() == tier {
                tiers.push(Vec::new());
            }
            tiers[tier].extend(buckets);
        }
    }
    let mut body = Vec::new();
    let mut chunks = Vec::new();
    for tier in &tiers {
        let mut own = Vec::new();
        for buckets in tier.chunks(CHUNK_BUCKETS) {
            let mut plain = Vec::with_capacity(CHUNK_BYTES);
            put_buckets(&mut plain, buckets);
            let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL)?;
            own.push(Chunk {
                first: buckets[0].index,
                at: body.len() as u64,
                len: u32::try_from(packed.len()).unwrap_or(u32::MAX),
                crc: crc32c::crc32c(&packed),
            });
            body.extend(packed);
        }
        chunks.push(own);
    }
    let head = head(sum, &levels, &chunks);
    let packed = zstd::bulk::compress(&head, ZSTD_LEVEL)?;
    let mut out = Vec::with_capacity(HEAD_AT + packed.len() + body.len());
    out.extend_from_slice(MAGIC);
    for word in [packed.len(), head.len()] {
        let word = u32::try_from(word).map_err(std::io::Error::other)?;
        out.extend_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &packed);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend(packed);
    out.extend(body);
    Ok(out)
}

fn head(sum: &Sum, levels: &[Vec<(u32, usize)>], tiers: &[Vec<Chunk>]) -> Vec<u8> {
    let mut out = Vec::new();
    let all: Vec<(&str, u32, &Series)> = sum.iter().map(|(k, r, s)| (&**k, r, s)).collect();
    let totals = || all.iter().map(|(_, _, s)| &s.totals);
    for number in [sum.lo, sum.hi, sum.marks.len() as u64, all.len() as u64] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    put(&mut out, sum.marks.keys().map(|(rank, _)| u64::from(*rank)));
    put(&mut out, sum.marks.keys().map(|(_, a)| u64::from(*a)));
    put(&mut out, sum.marks.values().copied());
    put(&mut out, all.iter().map(|(key, _, _)| key.len() as u64));
    put(&mut out, all.iter().map(|(_, rank, _)| u64::from(*rank)));
    put(&mut out, totals().map(|t| t.points));
    put(&mut out, totals().map(|t| t.stepless));
    put(&mut out, all.iter().map(|(_, _, s)| s.base()));
    put(&mut out, totals().map(|t| t.non_finite));
    put(&mut out, totals().map(|t| t.texts));
    let steps: [fn(&Totals) -> Option<i64>; 3] =
        [|t| t.first_step, |t| t.last_step, |t| t.first_us];
    for step in steps {
        put(&mut out, totals().map(|t| u64::from(step(t).is_some())));
        put_delta(
            &mut out,
            totals().map(|t| step(t).unwrap_or(0).cast_unsigned()),
        );
    }
    let last = |t: &Totals| match t.last {
        Some((Value::Float(x), at)) => (1, x.to_bits(), at),
        Some((Value::Int(i), at)) => (2, i.cast_unsigned(), at),
        Some((Value::Bool(b), at)) => (3, u64::from(b), at),
        Some((Value::Text(_), _)) | None => (0, 0, Moment::default()),
    };
    put(&mut out, totals().map(|t| last(t).0));
    put(&mut out, totals().map(|t| last(t).1));
    put_moments(&mut out, totals().map(|t| last(t).2));
    let text = |t: &Totals| t.text.as_ref().map_or(0, |(text, _)| text.len() as u64 + 1);
    put(&mut out, totals().map(text));
    put_moments(
        &mut out,
        totals().map(|t| t.text.as_ref().map_or_else(Moment::default, |(_, at)| *at)),
    );
    put(&mut out, levels.iter().map(|own| own.len() as u64));
    put(
        &mut out,
        levels.iter().flatten().map(|(shift, _)| u64::from(*shift)),
    );
    put(&mut out, levels.iter().flatten().map(|(_, n)| *n as u64));
    out.extend_from_slice(&(tiers.len() as u64).to_le_bytes());
    for tier in tiers {
        out.extend_from_slice(&(tier.len() as u64).to_le_bytes());
        put_delta(&mut out, tier.iter().map(|c| c.first.cast_unsigned()));
        put_delta(&mut out, tier.iter().map(|c| c.at));
        put(&mut out, tier.iter().map(|c| u64::from(c.len)));
        put(&mut out, tier.iter().map(|c| u64::from(c.crc)));
    }
    for (key, _, _) in &all {
        out.extend_from_slice(key.as_bytes());
    }
    for (text, _) in totals().filter_map(|t| t.text.as_ref()) {
        out.extend_from_slice(text.as_bytes());
    }
    out
}

fn put_moments(out: &mut Vec<u8>, moments: impl Iterator<Item = Moment> + Clone) {
    put_delta(out, moments.clone().map(|m| m.timestamp_us.cast_unsigned()));
    put(out, moments.clone().map(|m| u64::from(m.attempt)));
    put_delta(out, moments.map(|m| m.seq));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expman_model::record::ValueRef;

    use super::super::{EVERYWHERE, SumFile};
    use super::*;
    use crate::durable;
    use crate::rows::{Row, Rows};

    fn sum_of(series: impl IntoIterator<Item = (&'static str, u32, Series)>) -> Sum {
        let mut sum = Sum::new(0, 9);
        for (key, rank, series) in series {
            sum.series
                .entry(Arc::from(key))
                .or_default()
                .insert(rank, series);
        }
        sum.marks.insert((3, 1), 77);
        sum
    }

    fn long(n: i64, every: i64) -> Series {
        let bucket = |i: i64| Bucket {
            index: i * every - 500,
            n: 3,
            min: -1.0,
            max: f64::from(i32::try_from(i).unwrap()),
            sum: 2.0,
            last: 0.5,
            at: Moment {
                timestamp_us: i,
                attempt: 1,
                seq: 5,
            },
        };
        let totals = Totals {
            points: 3 * n.cast_unsigned(),
            ..Totals::default()
        };
        Series::from_parts(totals, 0, 4, (0..n).map(bucket).collect())
    }

    #[test]
    fn a_sum_in_a_file_is_read_level_by_level() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("sum");
        let sum = sum_of([
            ("a", 0, long(3, 1)),
            ("b", 0, long(30_000, 1)),
            ("b", 7, long(9_000, 5)),
            ("c", 0, Series::default()),
        ]);
        durable::replace(&path, &encode(&sum).unwrap()).unwrap();
        let file = SumFile::open(&path).unwrap();
        assert_eq!(file.load().unwrap(), sum);
        for (key, rank, series) in sum.iter() {
            let stored = &file.series[key][&rank];
            assert_eq!(stored.totals, series.totals);
            for range in [
                EVERYWHERE,
                -3_000..=70_000,
                100_000..=100_000,
                -9_999..=-9_000,
            ] {
                for want in [1, 500, 3_000, 20_000, usize::MAX] {
                    let (shift, buckets) = file.buckets(stored, &range, want).unwrap();
                    let mut expected = series.at(shift);
                    expected.retain(|b| {
                        (range.start() >> shift..=range.end() >> shift).contains(&b.index)
                    });
                    assert_eq!(buckets, expected, "{key} {rank} {range:?} {want}");
                    let enough = buckets.len() >= want || shift == 4 || buckets.is_empty();
                    assert!(
                        enough,
                        "{key} {rank} {range:?} {want}: {} at {shift}",
                        buckets.len()
                    );
                }
            }
        }
        let (shift, top) = file.buckets(&file.series["b"][&0], &EVERYWHERE, 1).unwrap();
        assert!(shift > 4 && top.len() <= 2048, "{} at {shift}", top.len());
    }

    #[test]
    fn no_changed_byte_of_a_sum_is_taken_for_good() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("sum");
        let bytes = encode(&sum_of([("a", 0, long(40, 2)), ("b", 1, long(3_000, 1))])).unwrap();
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << (at % 8);
            durable::replace(&path, &wrong).unwrap();
            let read = SumFile::open(&path).and_then(|sum| sum.check());
            assert!(read.is_err(), "byte {at}");
        }
        for cut in [0, 7, 19, 20, bytes.len() / 2, bytes.len() - 1] {
            durable::replace(&path, &bytes[..cut]).unwrap();
            assert!(
                SumFile::open(&path).and_then(|sum| sum.check()).is_err(),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_sum_that_claims_more_than_any_has_is_damaged() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("sum");
        let too_many = sum_of([("a", 0, long(800_000, 1))]);
        durable::replace(&path, &encode(&too_many).unwrap()).unwrap();
        let refused = SumFile::open(&path).unwrap_err();
        assert!(refused.to_string().contains("buckets"), "{refused}");
    }

    #[test]
    fn a_sum_s_buckets_are_bounded_however_many_rows_it_is_of() {
        let mut rows = Rows::default();
        for i in 0..400_000i64 {
            rows.push_row(&Row {
                key: if i % 100 == 0 { "rare" } else { "often" },
                rank: 0,
                step: Some(i),
                timestamp_us: i,
                attempt: 0,
                seq: i.cast_unsigned(),
                value: ValueRef::Float(1.0),
            });
        }
        let sum = Sum::of(&rows, &rows.sorted(), 0, &|_, _| 0);
        let buckets = |key| sum.get(key, 0).unwrap().buckets().len();
        assert!(
            (700..=1600).contains(&buckets("often")),
            "{}",
            buckets("often")
        );
        assert!((50..=130).contains(&buckets("rare")), "{}", buckets("rare"));
        let bytes = encode(&sum).unwrap().len();
        assert!(bytes < 400_000 / 8, "{bytes}");
    }
}
