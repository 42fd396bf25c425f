//! The `expman` command: serve, list, inspect, follow, export, clean and mend folders of runs.
//!
//! One entry, [`run`], is behind both the binary and the console script of the Python wheel.
//! Data goes to stdout, everything else to stderr, and the returned number is the exit code.
//!
//! ```
//! let base = tempfile::tempdir()?;
//! let code = expman_cli::run(["expman".into(), "list".into(), base.path().into()]);
//! assert_eq!(code, 0);
//! # Ok::<(), std::io::Error>(())
//! ```

mod clean;
mod console;
mod crash;
mod doctor;
mod exit;
mod export;
mod inspect;
mod json;
mod list;
mod locate;
mod logs;
mod owner;
mod recover;
mod serve;
mod table;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use console::Console;
use exit::Exit;

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed: something could not be read or written; or doctor found something that is left to do
  2  wrong usage
  3  the run, experiment or folder was not found
  4  done, but something was damaged and left out; stderr names it

Environment:
  EXPMAN_DIR    folder of experiments where none is given (default: experiments)
  EXPMAN_TOKEN  token of `expman serve`
  EXPMAN_LOG    what to log on stderr, e.g. `info` or `expman_server=debug` (default: warn)
  NO_COLOR      when set, nothing is coloured";

/// Looks after folders of runs: BASE/EXPERIMENT/RUN.
#[derive(Debug, Parser)]
#[command(name = "expman", bin_name = "expman", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    List(list::Args),
    Inspect(inspect::Args),
    Logs(logs::Args),
    Export(export::Args),
    Clean(clean::Args),
    Doctor(doctor::Args),
    Recover(recover::Args),
    Owner(owner::Args),
}

/// Runs the command line `args`, the program's name first, and returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(told) => {
            // Help and version are no errors; nobody is left to tell when printing them fails.
            drop(told.print());
            return u8::try_from(told.exit_code()).unwrap_or(Exit::Usage as u8);
        }
    };
    Console::start_log();
    let mut console = Console::standard();
    let done = match cli.command {
        Command::Serve(args) => args.run(&mut console),
        Command::List(args) => args.run(&mut console),
        Command::Inspect(args) => args.run(&mut console),
        Command::Logs(args) => args.run(&mut console),
        Command::Export(args) => args.run(&mut console),
        Command::Clean(args) => args.run(&mut console),
        Command::Doctor(args) => args.run(&mut console),
        Command::Recover(args) => args.run(&mut console),
        Command::Owner(_) => owner::Args::run(&mut console),
    };
    let done = done.and_then(|exit| console.flush().map(|()| exit));
    exit::report(done, &console) as u8
}
