//! Tables that a run saved, shown to people.

use std::fs::File;

use expman_storage::preview::{Table, csv_table, parquet_table};

use crate::folder;
use crate::input::Input;

/// Rows that are asked for.
const ROWS_MAX: usize = 100;
/// Characters that no cell, name or type is longer than.
const CHARS_MAX: usize = 201;

/// The first byte chooses what the file pretends to be: whatever it is, little is shown of it.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 3 {
        0 => parquet(input.rest()),
        1 => csv(input.rest(), true),
        _ => csv(input.rest(), false),
    }
}

fn parquet(bytes: &[u8]) {
    let folder = folder::fresh();
    let path = folder.path().join("table.parquet");
    folder::put(&path, bytes);
    let open = || File::open(&path).expect("open a file that is there");
    if let Ok(table) = parquet_table(open(), &path, ROWS_MAX) {
        fits(&table, ROWS_MAX);
        if let Ok(few) = parquet_table(open(), &path, 1) {
            fits(&few, 1);
            assert_eq!(few.columns, table.columns);
            assert_eq!(few.rows.first(), table.rows.first());
        }
    }
}

fn csv(text: &[u8], is_whole: bool) {
    let table = csv_table(text, is_whole, ROWS_MAX);
    fits(&table, ROWS_MAX);
    let few = csv_table(text, is_whole, 1);
    fits(&few, 1);
    assert_eq!(few.columns, table.columns);
    assert_eq!(few.rows.first(), table.rows.first());
    if let Some(total) = table.total_rows {
        assert_eq!(total, table.rows.len() as u64);
    }
}

fn fits(table: &Table, rows_max: usize) {
    assert!(table.rows.len() <= rows_max, "more rows than asked for");
    let short = |text: &str| assert!(text.chars().count() <= CHARS_MAX, "a long text");
    for column in &table.columns {
        short(&column.name);
        short(&column.r#type);
    }
    for row in &table.rows {
        assert_eq!(row.len(), table.columns.len(), "a row of another width");
        row.iter().flatten().for_each(|cell| short(cell));
    }
}
