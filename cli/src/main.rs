//! The `expman` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(expman_cli::run(std::env::args_os()))
}
