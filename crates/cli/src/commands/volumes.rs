//! `hull volume`.

use serde_json::{Value, json};

use super::table::table;
use super::{CommandError, Context, print};
use crate::arguments::VolumeCommand;
use crate::bundle::BundleError;
use crate::volume::{VolumeError, VolumeStore};

/// `hull volume`.
pub(crate) async fn volume(context: &Context, command: &VolumeCommand) -> Result<u8, CommandError> {
    let store = VolumeStore::new(context.locations.volumes());
    match command {
        VolumeCommand::Ls { json } => {
            let names = store.list().map_err(BundleError::from)?;
            if *json {
                let all = names
                    .iter()
                    .map(|name| json!({"name": name, "path": store.data(name)}));
                return print(&format!("{:#}\n", Value::Array(all.collect())));
            }
            let rows: Vec<_> = names.into_iter().map(|name| vec![name]).collect();
            print(&table(&["NAME"], &rows))
        }
        VolumeCommand::Rm { volumes } => {
            context.sweep().await?;
            for name in volumes {
                remove(context, &store, name)?;
                print(&format!("{name}\n"))?;
            }
            Ok(0)
        }
    }
}

fn remove(context: &Context, store: &VolumeStore, name: &str) -> Result<(), CommandError> {
    // A name that is none could lead elsewhere.
    let unknown = |_| BundleError::from(VolumeError::Unknown(name.to_owned()));
    crate::values::name::parse(name).map_err(unknown)?;
    for container in context.store.list()? {
        let settings = container.record.settings.as_ref();
        if settings.is_some_and(|settings| settings.volumes.iter().any(|used| used == name)) {
            let in_use = VolumeError::InUse {
                volume: name.to_owned(),
                container: container.record.name,
            };
            return Err(BundleError::from(in_use).into());
        }
    }
    Ok(store.remove(name).map_err(BundleError::from)?)
}
