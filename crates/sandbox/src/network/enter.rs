//! Work in another network namespace.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::Handle;

use super::NetworkError;

/// Runs `task` on a thread in the namespace, with a netlink connection of that namespace.
pub(super) async fn inside<T, F>(
    namespace: File,
    task: impl FnOnce(Handle) -> F + Send + 'static,
) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, NetworkError>>,
{
    within(namespace, || with_netlink(task)).await
}

/// Runs `task` on a thread in the namespace.
pub(super) async fn within<T, F>(
    namespace: File,
    task: impl FnOnce() -> F + Send + 'static,
) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, NetworkError>>,
{
    let enter = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| NetworkError::host("enter the network namespace")(error.into()))
    };
    on_a_thread(enter, task).await
}

/// Runs `task` on a thread in a new namespace, with a netlink connection of that namespace, which is the second part of the
/// answer. It is gone when that is closed and nothing that was made in it is left.
pub(super) async fn inside_a_new_one<T, F>(
    task: impl FnOnce(Handle) -> F + Send + 'static,
) -> Result<(T, OwnedFd), NetworkError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, NetworkError>>,
{
    let enter = || {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| NetworkError::host("make a network namespace")(error.into()))
    };
    let run = || async {
        let made = with_netlink(task).await?;
        let namespace = File::open("/proc/thread-self/ns/net");
        let namespace = namespace.map_err(NetworkError::host("open a network namespace"))?;
        Ok((made, namespace.into()))
    };
    on_a_thread(enter, run).await
}

async fn with_netlink<T, F>(task: impl FnOnce(Handle) -> F) -> Result<T, NetworkError>
where
    F: Future<Output = Result<T, NetworkError>>,
{
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(NetworkError::host("talk to the kernel's network"))?;
    tokio::spawn(connection);
    task(handle).await
}

/// Runs `task` on a thread that has entered a namespace. Such a thread is of no use for anything else, so it ends with
/// the task.
async fn on_a_thread<T, F>(
    enter: impl FnOnce() -> Result<(), NetworkError> + Send + 'static,
    task: impl FnOnce() -> F + Send + 'static,
) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, NetworkError>>,
{
    let (answer, answered) = tokio::sync::oneshot::channel();
    let run = move || {
        enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(NetworkError::host("talk to the kernel's network"))?;
        runtime.block_on(async { task().await })
    };
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || drop(answer.send(run())))
        .map_err(NetworkError::host("start a thread"))?;
    answered.await.expect("the thread answers")
}
