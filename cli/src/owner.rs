//! `expman owner`: the process that owns a run. Ranks start it; people need not.

use crate::console::Console;
use crate::exit::Exit;

/// Serves one run, given in the environment, until its last rank has left.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(_console: &mut Console) -> anyhow::Result<Exit> {
        expman_actors::owner::main()?;
        Ok(Exit::Done)
    }
}
