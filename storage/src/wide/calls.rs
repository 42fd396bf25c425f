//! Which rows make a call, and in which order the calls stand in the table.

use crate::rows::{Call, Rows};

/// [`calls`], where in each stretch of the rows the same calls logged every name, as in most runs: then only one row
/// of each call has to find its place. `None` where it is otherwise.
pub(super) fn alike(rows: &Rows) -> Option<(Vec<u32>, Vec<usize>)> {
    let same_calls =
        |a: usize, b: usize, n: usize| (0..n).all(|at| rows.call(a + at) == rows.call(b + at));
    u32::try_from(rows.len()).ok()?;
    // Where a stretch begins, how many calls are in it, and how many names, one behind the other.
    let mut stretches: Vec<(usize, usize, usize)> = Vec::new();
    let mut last_seen = vec![0; rows.keys.len()];
    let mut at = 0;
    while let Some(&key) = rows.key.get(at) {
        let rest = &rows.key[at..];
        let length = rest.iter().position(|k| *k != key).unwrap_or(rest.len());
        let now = stretches.len();
        match stretches.last_mut() {
            Some((start, calls, names))
                if last_seen[key as usize] < now
                    && *calls == length
                    && same_calls(*start, at, length) =>
            {
                *names += 1;
            }
            _ => stretches.push((at, length, 1)),
        }
        last_seen[key as usize] = stretches.len();
        at += length;
    }
    // Of each call its first row, and its stretch.
    let mut calls: Vec<(usize, usize)> = Vec::new();
    for (at, (start, length, _)) in stretches.iter().enumerate() {
        calls.extend((*start..start + length).map(|row| (row, at)));
    }
    let call = |&(i, _): &(usize, usize)| place(rows.call(i));
    if !calls.is_sorted_by(|a, b| call(a) < call(b)) {
        calls.sort_by_key(call);
        if !calls.is_sorted_by(|a, b| call(a) < call(b)) {
            return None; // the names of a call stand in several stretches, or a name twice
        }
    }
    let mut order = Vec::with_capacity(rows.len());
    let mut starts = Vec::with_capacity(calls.len() + 1);
    for (row, stretch) in calls {
        let (_, length, names) = stretches[stretch];
        starts.push(order.len());
        #[expect(clippy::cast_possible_truncation, reason = "the number of rows fits")]
        order.extend((0..names).map(|name| (row + name * length) as u32));
    }
    starts.push(order.len());
    Some((order, starts))
}

/// The rows of each call together, calls in the table's order, and where each begins.
pub(super) fn calls(rows: &Rows) -> (Vec<u32>, Vec<usize>) {
    let call = |i: u32| place(rows.call(i as usize));
    let key = |i: u32| rows.key[i as usize];
    let mut order: Vec<u32> = (0..u32::try_from(rows.len()).unwrap_or(u32::MAX)).collect();
    order.sort_by_key(|&i| (call(i), key(i)));
    // How often the name stood in the call before.
    let mut repeats = vec![0u32; rows.len()];
    for pair in order.windows(2) {
        let &[a, b] = pair else { continue };
        if call(a) == call(b) && key(a) == key(b) {
            repeats[b as usize] = repeats[a as usize] + 1;
        }
    }
    let row = |i: u32| (call(i), repeats[i as usize]);
    if repeats.iter().any(|&n| n > 0) {
        order.sort_by_key(|&i| row(i));
    }
    let mut starts: Vec<usize> = Vec::new();
    for (at, &i) in order.iter().enumerate() {
        if at == 0 || row(order[at - 1]) != row(i) {
            starts.push(at);
        }
    }
    starts.push(order.len());
    (order, starts)
}

/// Where a call stands in the table.
const fn place(call: &Call) -> (bool, i64, i32, i32, i64) {
    (call.has_step, call.step, call.rank, call.attempt, call.seq)
}
