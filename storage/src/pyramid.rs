//! What a chart needs of many rows: totals and buckets of each series, that merge whatever order they come in.

mod series;

pub use self::series::{Bucket, EVERYWHERE, Moment, Series, Totals};
