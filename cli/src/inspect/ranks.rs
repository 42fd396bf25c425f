//! The table of ranks.

use expman_model::{RankMeta, RunMeta};

use crate::table::{self, Side, Table, or_dash};

/// Every process of every rank: how it stands, and how its records fare.
pub(super) fn all(run: &RunMeta) -> Table {
    use Side::{Left, Right};
    let mut head = vec![
        ("RANK", Right),
        ("STATE", Left),
        ("STATUS", Left),
        ("ATTEMPT", Right),
        ("HOST", Left),
        ("PID", Right),
        ("ROWS", Right),
        ("LAST STEP", Right),
        ("DURABLE SEQ", Right),
        ("DROPPED", Left),
    ];
    // What is only of interest where something went wrong takes no room where nothing did.
    if run.ranks.values().flatten().any(is_troubled) {
        head.extend([
            ("QUEUED", Right),
            ("SPOOLED", Right),
            ("RECONNECTS", Right),
            ("LAST ERROR", Left),
        ]);
    }
    let mut table = Table::new(&head);
    for (rank, processes) in &run.ranks {
        for process in processes {
            let dropped: Vec<String> = process
                .dropped
                .iter()
                .map(|(why, n)| format!("{n} {why}"))
                .collect();
            table.push(&[
                rank.to_string(),
                match process.silent_since {
                    Some(_) => "silent".to_owned(),
                    None => format!("{:?}", process.state).to_lowercase(),
                },
                process.status.to_string(),
                process.attempt.to_string(),
                process.host.clone(),
                process.pid.to_string(),
                process.rows.to_string(),
                or_dash(process.last_step),
                process.durable_seq.to_string(),
                if dropped.is_empty() {
                    "-".to_owned()
                } else {
                    dropped.join(", ")
                },
                waiting(process.queued_bytes),
                waiting(process.spooled_bytes),
                process.reconnects.to_string(),
                or_dash(process.last_error.as_ref()),
            ]);
        }
    }
    table
}

/// Whether its way to the disk was ever anything but smooth.
fn is_troubled(rank: &RankMeta) -> bool {
    rank.spooled_bytes > 0 || rank.reconnects > 0 || rank.last_error.is_some()
}

/// Bytes that are not durable yet.
fn waiting(bytes: u64) -> String {
    or_dash((bytes > 0).then(|| table::bytes(bytes)))
}
