//! `expman serve`: the dashboard and the API over a folder of runs.

use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use expman_server::{ServeConfig, ServeError};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::console::Console;
use crate::exit::{Exit, Refusal};

/// Serve the dashboard and the API over a folder of runs
///
/// The first line on stdout is `listening on http://HOST:PORT`. Ctrl-C and SIGTERM stop it, with exit code 0.
/// It only reads files, but for names, descriptions and tags that are edited on the page, so it can be started and
/// stopped at any time.
///
/// Without a token only this machine is served: another --host than `127.0.0.1`, `::1` or `localhost` needs one.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// Folder of experiments; one that does not exist yet is empty
    #[arg(value_name = "DIR", env = "EXPMAN_DIR", default_value = "experiments")]
    dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 for any free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Serve what stands in the files now and then, without following live runs
    #[arg(long)]
    no_live: bool,
    /// Refuse to change names, descriptions and tags
    #[arg(long)]
    read_only: bool,
    /// Path below which a proxy shows the page, such as `/expman`
    #[arg(
        long,
        value_name = "PATH",
        env = "EXPMAN_BASE_PATH",
        default_value = ""
    )]
    base_path: String,
    /// Name that a proxy has this server reached under; may be given several times
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    /// Origin whose pages may show this one in a frame, such as `http://localhost:*`; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    embed: Vec<String>,
    /// End when stdin does: whoever started this is gone
    #[arg(long, hide = true)]
    until_eof: bool,
    /// What clients must show; other users of this machine can read a command line, so prefer --token-file
    #[arg(
        long,
        env = "EXPMAN_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    token: Option<String>,
    /// File whose first line is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Make the first line on stdout an object: {"url": …}
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, console: &mut Console) -> anyhow::Result<Exit> {
        let config = ServeConfig {
            base_dir: self.dir.clone(),
            host: self.host.clone(),
            port: self.port,
            token: self.token()?,
            live: !self.no_live,
            read_only: self.read_only,
            base_path: self.base_path.clone(),
            allow_hosts: self.allow_host.clone(),
            embed: self.embed.clone(),
        };
        if !self.dir.exists() {
            console.note(&format!("{} does not exist yet", self.dir.display()));
        }
        if !expman_server::has_dashboard() {
            console.note("this build has no dashboard; only the API is served");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("expman-serve")
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(async {
            // Before anybody can know the address, so that no signal is missed.
            let stopped = stopped(self.until_eof).context("listen for signals")?;
            let listener = expman_server::bind(&config).await.map_err(refused)?;
            let url = format!(
                "http://{}",
                listener.local_addr().context("learn the address")?
            );
            let out = console.out();
            if self.json {
                writeln!(out, "{}", json!({"url": url}))?;
            } else {
                writeln!(out, "listening on {url}")?;
            }
            out.flush()?;
            expman_server::serve_with_listener(config, listener, stopped).await?;
            Ok(Exit::Done)
        })
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else {
            return Ok(self.token.clone());
        };
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let token = text.lines().next().unwrap_or_default().trim();
        anyhow::ensure!(
            !token.is_empty(),
            "the first line of {} is empty",
            path.display()
        );
        Ok(Some(token.to_owned()))
    }
}

/// A missing or weak token is wrong usage, anything else a failure.
fn refused(error: ServeError) -> anyhow::Error {
    match error {
        ServeError::NoOrigin { .. } | ServeError::NoPath { .. } => {
            Refusal::usage(error.to_string()).into()
        }
        ServeError::TokenNeeded { .. } | ServeError::WeakToken { .. } => {
            Refusal::usage(error.to_string())
                .hint("give one with --token-file")
                .into()
        }
        other => other.into(),
    }
}

/// Ends with the first SIGINT or SIGTERM, or with stdin if asked to.
fn stopped(until_eof: bool) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (alone, mut eof) = tokio::sync::oneshot::channel::<()>();
    if until_eof {
        // A thread of its own: a read of a terminal or a pipe is not cancelled, and must not keep the runtime.
        let read = move || {
            drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
            drop(alone);
        };
        std::thread::Builder::new()
            .name("expman-stdin".to_owned())
            .spawn(read)?;
    } else {
        std::mem::forget(alone);
    }
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = &mut eof => {}
        }
    })
}
