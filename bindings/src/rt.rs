//! Our runtime behind pyo3-async-runtimes: its own global one can be neither rebuilt after a fork nor stopped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{ContextExt, JoinError, Runtime};

use crate::exit::Attaching;

tokio::task_local! {
    static LOCALS: TaskLocals;
}

/// See the module.
pub(crate) struct MeshRuntime;

/// Why a spawned future has no result.
pub(crate) struct Failed(Option<tokio::task::JoinError>);

impl JoinError for Failed {
    fn is_panic(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(tokio::task::JoinError::is_panic)
    }

    fn into_panic(self) -> Box<dyn std::any::Any + Send + 'static> {
        match self.0 {
            Some(e) => e.into_panic(),
            None => Box::new("the runtime could not be started"),
        }
    }
}

/// A spawned future.
pub(crate) struct Spawned(Option<tokio::task::JoinHandle<()>>);

impl Future for Spawned {
    type Output = Result<(), Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(handle) => Pin::new(handle).poll(cx).map_err(|e| Failed(Some(e))),
            None => Poll::Ready(Err(Failed(None))),
        }
    }
}

impl Runtime for MeshRuntime {
    type JoinError = Failed;
    type JoinHandle = Spawned;

    fn spawn<F: Future<Output = ()> + Send + 'static>(fut: F) -> Spawned {
        Spawned(
            expman_actors::runtime::current()
                .ok()
                .map(|rt| rt.spawn(Attaching(Box::pin(fut)))),
        )
    }

    fn spawn_blocking<F: FnOnce() + Send + 'static>(f: F) -> Spawned {
        Spawned(
            expman_actors::runtime::current()
                .ok()
                .map(|rt| rt.spawn_blocking(f)),
        )
    }
}

impl ContextExt for MeshRuntime {
    fn scope<F, R>(locals: TaskLocals, fut: F) -> Pin<Box<dyn Future<Output = R> + Send>>
    where
        F: Future<Output = R> + Send + 'static,
    {
        Box::pin(LOCALS.scope(locals, fut))
    }

    fn get_task_locals() -> Option<TaskLocals> {
        LOCALS.try_with(Clone::clone).ok()
    }
}
