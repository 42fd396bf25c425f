//! Repeats one piece of work so often, for who counts instructions: `instructions NAME TIMES`; or lists them all.
//!
//! Counted twice, with different numbers of times, the difference is that of the repetitions alone.

use std::io::Write;
use std::process::ExitCode;

use expman_bench::PIECES;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout();
    match args.as_slice() {
        [] => {
            for piece in PIECES {
                if writeln!(out, "{}\t{}\t{}", piece.name, piece.of, piece.what).is_err() {
                    return ExitCode::FAILURE;
                }
            }
            ExitCode::SUCCESS
        }
        [name, times] => {
            let piece = PIECES.into_iter().find(|piece| piece.name == name);
            let (Some(piece), Ok(times)) = (piece, times.parse::<u32>()) else {
                return ExitCode::FAILURE;
            };
            let mut work = (piece.make)();
            for _ in 0..times {
                work.once();
            }
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}
