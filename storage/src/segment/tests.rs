//! Files of rows read back as what they were made of, and their indexes tell the truth.

use expman_model::record::ValueRef;
use parquet::data_type::ByteArray;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;
use proptest::prelude::*;

use super::*;
use crate::reader::Filter;
use crate::rows::Row;
use crate::scan::Sealed;

fn loss(from: i64, n: i64) -> Rows {
    let mut rows = Rows::default();
    for i in from..from + n {
        rows.push_row(&Row {
            key: "loss",
            rank: 0,
            step: Some(i),
            timestamp_us: i,
            attempt: 0,
            seq: 1,
            value: ValueRef::Float(0.5),
        });
    }
    rows
}

#[test]
fn a_publication_keeps_the_bytes_in_front_of_it() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    write_sorted(&at("metrics"), &loss(0, 1000), 1000).unwrap();
    write_sorted(&at("seg"), &loss(1000, 500), 1500).unwrap();
    let before = durable::read(&at("metrics")).unwrap();
    let group_end = metadata(&File::open(at("metrics")).unwrap(), &at("metrics"))
        .unwrap()
        .row_group(0)
        .compressed_size();
    splice(&at("metrics"), &[&at("metrics"), &at("seg")], 1500).unwrap();
    let after = durable::read(&at("metrics")).unwrap();
    let prefix = 4 + usize::try_from(group_end).unwrap();
    assert_eq!(before[..prefix], after[..prefix]);
    assert_eq!(read_hi(&at("metrics")).unwrap(), 1500);
    let meta = metadata(&File::open(at("metrics")).unwrap(), &at("metrics")).unwrap();
    assert_eq!(meta.file_metadata().num_rows(), 1500);
}

#[test]
fn an_empty_file_is_valid() {
    let tmp = tempfile::tempdir().unwrap();
    write_sorted(&tmp.path().join("m"), &Rows::default(), 0).unwrap();
    assert_eq!(read_hi(&tmp.path().join("m")).unwrap(), 0);
}

/// A row as text, in which a NaN is a NaN.
fn told(row: &Row<'_>) -> String {
    match row.value {
        ValueRef::Float(x) => {
            let value = ValueRef::Bool(true);
            format!("{:?} {:x}", Row { value, ..*row }, x.to_bits())
        }
        _ => format!("{row:?}"),
    }
}

/// Writes rows, reads them back whole and by each of their names, and looks at what the file tells of itself.
fn check(rows: &Rows) {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("m");
    let order = rows.sorted();
    write_sorted(&path, rows, 7).unwrap();
    let sorted: Vec<Row<'_>> = order.places.iter().map(|i| rows.row(*i as usize)).collect();
    let read = |filter: &Filter| {
        let mut found = Vec::new();
        let sealed = Sealed::open(&path).unwrap();
        sealed.each(filter, |row| found.push(told(row))).unwrap();
        found
    };
    let all: Vec<String> = sorted.iter().map(told).collect();
    assert!(read(&Filter::default()) == all, "rows differ");
    for name in rows.keys.names().iter().take(3) {
        let filter = Filter {
            keys: Some([name.to_string()].into()),
            ..Filter::default()
        };
        let wanted: Vec<String> = sorted
            .iter()
            .filter(|r| *r.key == **name)
            .map(told)
            .collect();
        assert!(read(&filter) == wanted, "rows of {name} differ");
    }
    let meta = metadata(&File::open(&path).unwrap(), &path).unwrap();
    let mut at = 0;
    for (n, group) in meta.row_groups().iter().enumerate() {
        let count = usize::try_from(group.num_rows()).unwrap();
        let own = &sorted[at..at + count];
        at += count;
        truthful(own, |column| group.column(column).statistics().cloned());
        let index = meta.page_index_for_row_group(n);
        for (page, own) in own.chunks(PAGE_ROWS).enumerate() {
            truthful(own, |column| {
                assert_eq!(
                    index.offset_index(column).unwrap().page_locations()[page].first_row_index,
                    i64::try_from(page * PAGE_ROWS).unwrap()
                );
                let index = index.column_index(column)?;
                let nulls = index.null_count(page).map(i64::cast_unsigned);
                Some(match index {
                    ColumnIndexMetaData::INT32(i) => Statistics::int32(
                        i.min_value(page).copied(),
                        i.max_value(page).copied(),
                        None,
                        nulls,
                        false,
                    ),
                    ColumnIndexMetaData::INT64(i) => Statistics::int64(
                        i.min_value(page).copied(),
                        i.max_value(page).copied(),
                        None,
                        nulls,
                        false,
                    ),
                    ColumnIndexMetaData::BYTE_ARRAY(i) => Statistics::byte_array(
                        i.min_value(page).map(|b| b.to_vec().into()),
                        i.max_value(page).map(|b| b.to_vec().into()),
                        None,
                        nulls,
                        false,
                    ),
                    _ => return None,
                })
            });
        }
    }
    assert_eq!(at, sorted.len());
}

/// Whether what is told of some rows is what they are.
fn truthful(rows: &[Row<'_>], told: impl Fn(usize) -> Option<Statistics>) {
    let int32 = |column: usize, of: &dyn Fn(&Row<'_>) -> i32| {
        let Some(Statistics::Int32(told)) = told(column) else {
            panic!("nothing is told of column {column}");
        };
        assert_eq!(told.min_opt().copied(), rows.iter().map(of).min());
        assert_eq!(told.max_opt().copied(), rows.iter().map(of).max());
        assert_eq!(told.null_count_opt(), Some(0));
    };
    let int64 = |column: usize, of: &dyn Fn(&Row<'_>) -> Option<i64>| {
        let Some(Statistics::Int64(told)) = told(column) else {
            panic!("nothing is told of column {column}");
        };
        assert_eq!(told.min_opt().copied(), rows.iter().filter_map(of).min());
        assert_eq!(told.max_opt().copied(), rows.iter().filter_map(of).max());
        let nulls = rows.iter().filter(|row| of(row).is_none()).count();
        assert_eq!(told.null_count_opt(), Some(nulls as u64));
    };
    let text = |column: usize, of: &dyn for<'a> Fn(&'a Row<'a>) -> Option<&'a str>| {
        let Some(Statistics::ByteArray(told)) = told(column) else {
            panic!("nothing is told of column {column}");
        };
        let least = rows.iter().filter_map(of).min().map(str::as_bytes);
        let greatest = rows.iter().filter_map(of).max().map(str::as_bytes);
        assert_eq!(told.min_opt().map(ByteArray::data), least);
        assert_eq!(told.max_opt().map(ByteArray::data), greatest);
    };
    text(0, &|row| Some(row.key));
    int32(1, &|row| row.rank.cast_signed());
    int64(2, &|row| row.step);
    int64(3, &|row| Some(row.timestamp_us));
    int32(4, &|row| row.attempt.cast_signed());
    int64(5, &|row| Some(row.seq.cast_signed()));
    int32(6, &|row| i32::from(row.value.to_value().kind()));
    assert!(
        told(7).is_none(),
        "readers disagree about the order of floats"
    );
    int64(8, &|row| match row.value {
        ValueRef::Int(n) => Some(n),
        ValueRef::Bool(b) => Some(i64::from(b)),
        _ => None,
    });
    text(9, &|row| match row.value {
        ValueRef::Text(text) => Some(text),
        _ => None,
    });
}

#[test]
fn pages_of_every_kind_read_back() {
    let mut rows = Rows::default();
    let names: Vec<String> = (0..12).map(|n| format!("name/{n}")).collect();
    for i in 0..40_000_i64 {
        let name = usize::try_from(i % 23 * (i % 5) % 12).unwrap();
        rows.push_row(&Row {
            key: &names[name],
            rank: u32::try_from(i % 7 / 3).unwrap(),
            step: (name != 3 || i % 2 == 0).then_some(i * i % 977 - i),
            timestamp_us: 1_700_000_000_000_000 + i * 31 - i % 13,
            attempt: u32::try_from(i / 16_000 + i % 2).unwrap(),
            seq: i.cast_unsigned() / 4,
            value: match (name, i % 6) {
                (1, _) => ValueRef::Int(i64::MAX - i),
                (2, _) => ValueRef::Text(&names[usize::try_from(i % 11).unwrap()]),
                (4, 0) => ValueRef::Bool(true),
                (4, 1) => ValueRef::Int(1 << 54),
                (4, 2) => ValueRef::Text(""),
                (5, _) => ValueRef::Bool(i % 3 == 0),
                _ => ValueRef::Float(f64::from_bits(i.cast_unsigned().wrapping_mul(0x9E37_79B9))),
            },
        });
    }
    check(&rows);
}

#[test]
fn more_rows_than_a_group_has_read_back() {
    let mut rows = loss(0, 150_000);
    rows.extend(&loss(150_000, 150_000));
    for i in 0..5_000 {
        rows.push_row(&Row {
            key: "zeta",
            value: ValueRef::Float(f64::from(i)),
            ..loss(i64::from(i), 1).row(0)
        });
    }
    check(&rows);
}

#[test]
fn so_many_names_that_they_are_no_dictionary_read_back() {
    let mut rows = Rows::default();
    for i in 0..20_000_u32 {
        let key = format!("{}/{i}", "layer".repeat(12));
        rows.push_row(&Row {
            key: &key,
            ..loss(i64::from(i), 1).row(0)
        });
    }
    check(&rows);
}

proptest! {
    #[test]
    fn any_rows_read_back(
        points in prop::collection::vec(
            (
                "[a-c]{1,2}",
                0..3u32,
                prop_oneof![Just(None), any::<i64>().prop_map(Some), (-5..5i64).prop_map(Some)],
                any::<i64>(),
                0..3u32,
                0..u64::MAX >> 1,
                (0..5u8, any::<u64>(), "\\PC{0,5}"),
            ),
            0..200,
        ),
    ) {
        let mut rows = Rows::default();
        for (key, rank, step, timestamp_us, attempt, seq, (kind, bits, text)) in &points {
            rows.push_row(&Row {
                key,
                rank: *rank,
                step: *step,
                timestamp_us: *timestamp_us,
                attempt: *attempt,
                seq: *seq,
                value: match kind {
                    0 => ValueRef::Int(bits.cast_signed()),
                    1 => ValueRef::Bool(bits % 2 == 0),
                    2 => ValueRef::Text(text),
                    _ => ValueRef::Float(f64::from_bits(*bits)),
                },
            });
        }
        check(&rows);
    }
}
