//! Puts right what killed processes have left.

use hull_sandbox::{ExitRecord, ExitStatus};
use hull_shim::client::PodProcess;

use super::directory::ContainerDir;
use super::lock::ContainerLock;
use super::record::State;
use super::store::{Container, ContainerStore, StoreError, remove_dir, write_json};
use hull_shim::client;

/// Brings all containers to a state that is true, and removes what belongs to none.
pub(crate) async fn sweep(store: &ContainerStore) -> Result<(), StoreError> {
    for id in store.ids()? {
        let dir = store.dir(&id);
        match Container::read(dir.clone())? {
            Some(container) => {
                settle(container).await?;
            }
            None => {
                // A directory gets its lock and its record under this lock.
                let _names = store.lock_names()?;
                let unfinished = Container::read(dir.clone())?.is_none();
                if unfinished && !ContainerLock::is_held(&dir.lock())? {
                    remove_dir(&dir.data)?;
                }
            }
        }
    }
    for id in store.state_ids()? {
        let dir = store.dir(&id);
        if !dir.data.exists() {
            // The rest of a container whose data went first.
            client::end(&dir.state).await;
            remove_dir(&dir.state)?;
        }
    }
    for file in store.orphaned_exit_files()? {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::files("remove", &file)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

async fn is_alive(dir: &ContainerDir) -> bool {
    PodProcess::connect(&dir.state).await.is_ok()
}

/// Finds out what a container really is: one that was to run and whose pod is gone has ended, one
/// that nobody makes any more is no container. Returns what is left of it.
pub(crate) async fn settle(container: Container) -> Result<Option<Container>, StoreError> {
    match container.state() {
        State::Created | State::Exited { .. } => return Ok(Some(container)),
        State::Creating | State::Running { .. } => {}
    }
    let dir = container.dir.clone();
    if ContainerLock::is_held(&dir.lock())? {
        return Ok(Some(container));
    }
    let runs = matches!(container.state(), State::Running { .. });
    if runs && !container.record.phase.is_orphaned() && is_alive(&dir).await {
        return Ok(Some(container));
    }
    let _lock = match ContainerLock::try_take(&dir.lock()) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Container::read(dir),
        Err(_) if !dir.data.exists() => return Ok(None),
        Err(error) => return Err(error),
    };
    // It may have changed before it was ours.
    let Some(mut container) = Container::read(dir.clone())? else {
        return Ok(None);
    };
    match container.state() {
        State::Created | State::Exited { .. } => return Ok(Some(container)),
        State::Creating => {
            client::end(&dir.state).await;
            container.remove()?;
            return Ok(None);
        }
        State::Running { .. } => {}
    }
    if container.record.phase.is_orphaned() {
        // Killed together with its pod process, its owner could not end it.
        client::end(&dir.state).await;
        match Container::read(dir.clone())? {
            None => return Ok(None),
            Some(ended) if ended.exit.is_some() => return Ok(Some(ended)),
            Some(_) => {}
        }
    } else if is_alive(&dir).await {
        return Ok(Some(container));
    }
    if container
        .record
        .settings
        .as_ref()
        .is_some_and(|settings| settings.auto_remove)
    {
        container.remove()?;
        return Ok(None);
    }
    let record = ExitRecord {
        exit: Some(ExitStatus::killed()),
        failure: Some("the pod process was killed, or the host was".to_owned()),
        console: vec![],
    };
    write_json(&dir.exit(), &record)?;
    remove_dir(&dir.state)?;
    container.exit = Some(record);
    Ok(Some(container))
}
