//! The view: HTTP API, event streams and the embedded page over a folder of runs.
//!
//! The server reads files and never talks to training, so it can be started and killed at will.
//!
//! ```
//! use expman_server::{ServeConfig, bind, serve_with_listener};
//!
//! # let base = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let config = ServeConfig { base_dir: base.path().into(), port: 0, ..ServeConfig::default() };
//! let listener = bind(&config).await?;
//! println!("listening on http://{}", listener.local_addr().unwrap());
//! serve_with_listener(config, listener, async { /* until this future ends */ }).await?;
//! # Ok::<(), expman_server::ServeError>(())
//! # }).unwrap();
//! ```

mod assets;
mod bell;
mod blocking;
mod card;
mod chart;
mod client;
mod cursor;
mod drawn;
mod error;
mod follow;
mod frames;
mod index;
mod listener;
mod openapi;
mod question;
mod ring;
mod router;
mod routes;
mod saved;
mod search;
mod security;
mod series;
mod sparks;
mod stamps;
mod token;
mod watch;
mod watched;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch as signal;

pub use error::{Refusal, Result, ServeError};
pub use listener::WRITE_TIMEOUT;
pub use token::TOKEN_CHARS_MIN;

use listener::BoundedListener;
use router::{AppState, router};
use security::Guard;
use token::Token;

/// How long open requests may go on after the server was told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What to serve, and where.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// The folder of experiments; one that does not exist yet is empty.
    pub base_dir: PathBuf,
    /// Address or name to listen on; one that other machines can reach needs a token.
    pub host: String,
    /// Port; 0 for a free one.
    pub port: u16,
    /// What clients must show, as a bearer or once as `/?token=…`.
    pub token: Option<String>,
    /// Whether runs are followed; without it every answer is a snapshot.
    pub live: bool,
    /// Whether nothing can be changed by way of this server.
    pub read_only: bool,
    /// The path below which a proxy shows it, such as `/expman`; it is served there and at the root.
    pub base_path: String,
    /// Names that a proxy has it reached under, besides those of this machine.
    pub allow_hosts: Vec<String>,
    /// Origins whose pages may show it in a frame, such as `http://localhost:*`.
    pub embed: Vec<String>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            base_dir: "experiments".into(),
            host: "127.0.0.1".to_owned(),
            port: 8000,
            token: None,
            live: true,
            read_only: false,
            base_path: String::new(),
            allow_hosts: Vec::new(),
            embed: Vec::new(),
        }
    }
}

/// Binds the port, so that the caller knows the real address before anything is served.
///
/// # Errors
/// When the host can be reached from outside and there is no token, the token is weak, the name has no
/// address, or the port can't be bound.
pub async fn bind(config: &ServeConfig) -> Result<TcpListener> {
    let host = config.host.trim_matches(['[', ']']);
    let bind_error = |source| ServeError::Bind {
        host: config.host.clone(),
        port: config.port,
        source,
    };
    let addrs: Vec<SocketAddr> = tokio::net::lookup_host((host, config.port))
        .await
        .map_err(bind_error)?
        .collect();
    security::frame_ancestors(&config.embed)?;
    router::prefix(&config.base_path)?;
    match &config.token {
        Some(token) => drop(Token::new(token, config.port)?),
        None if addrs.iter().all(|addr| addr.ip().is_loopback()) => {}
        None => {
            return Err(ServeError::TokenNeeded {
                host: config.host.clone(),
            });
        }
    }
    TcpListener::bind(addrs.as_slice())
        .await
        .map_err(bind_error)
}

/// Serves on a bound listener until `shutdown` ends; open streams are then closed within two seconds.
///
/// # Errors
/// When the listener is not one that [`bind`] would have allowed, or accepting fails for good.
pub async fn serve_with_listener(
    config: ServeConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let listener = BoundedListener::new(listener);
    let addr = axum::serve::Listener::local_addr(&listener).map_err(|source| ServeError::Bind {
        host: config.host.clone(),
        port: config.port,
        source,
    })?;
    if config.token.is_none() && !addr.ip().is_loopback() {
        return Err(ServeError::TokenNeeded { host: config.host });
    }
    let (stop, stopping) = signal::channel(false);
    let app = build(config, addr.port(), stopping.clone())?;
    let told = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    let serving = axum::serve(listener, app).with_graceful_shutdown(told);
    let mut late = stopping;
    let deadline = async move {
        told_to_stop(&mut late).await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        served = serving => served.map_err(|source| ServeError::Serve { addr, source }),
        () = deadline => Ok(()),
    }
}

/// Binds, tells the address, and serves until `shutdown` ends.
///
/// # Errors
/// See [`bind`] and [`serve_with_listener`].
pub async fn serve(
    config: ServeConfig,
    listening: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let listener = bind(&config).await?;
    let addr = listener.local_addr().map_err(|source| ServeError::Bind {
        host: config.host.clone(),
        port: config.port,
        source,
    })?;
    listening(addr);
    serve_with_listener(config, listener, shutdown).await
}

/// All routes as a service, for callers that bring their own transport.
///
/// `port` is where clients will reach it, which the token's cookie is named by.
///
/// # Errors
/// When the token is weak.
pub fn app(config: ServeConfig, port: u16) -> Result<axum::Router> {
    // No one tells this one to stop: its streams end with their connections.
    build(config, port, signal::channel(false).1)
}

fn build(config: ServeConfig, port: u16, stopping: signal::Receiver<bool>) -> Result<axum::Router> {
    let token = config
        .token
        .as_deref()
        .map(|token| Token::new(token, port))
        .transpose()?;
    let guard = Guard::new(&config.host, token)
        .also_known_as(&config.allow_hosts)
        .framed_by(&config.embed)?;
    let prefix = router::prefix(&config.base_path)?;
    let app = router(AppState::new(config, stopping), guard);
    Ok(router::below(&prefix, app))
}

/// Waits until the server is told to stop; for ever, where nobody can tell it.
async fn told_to_stop(stopping: &mut signal::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The description of the API, as `GET /api/openapi.json` answers it.
pub fn openapi() -> String {
    openapi::text(&router::described().1)
}

/// Whether the page was built into this server.
pub fn has_dashboard() -> bool {
    assets::is_built()
}
