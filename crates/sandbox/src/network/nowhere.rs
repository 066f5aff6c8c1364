//! Interfaces that lead nowhere, for a guest that is nobody's yet.

use hull_vm::Device;

use super::enter::inside_a_new_one;
use super::{Interfaces, NetworkError, tap};

/// Such that a guest cannot tell them from those among `devices`, in a network namespace without a name.
///
/// # Errors
/// When no tap device or network namespace is to be had.
pub(crate) async fn leading_nowhere(devices: &[Device]) -> Result<Interfaces, NetworkError> {
    let alike: Vec<_> = devices
        .iter()
        .filter_map(|device| match device {
            Device::Net {
                mac, mtu, offload, ..
            } => Some((*mac, *mtu, *offload)),
            _ => None,
        })
        .collect();
    if alike.is_empty() {
        return Ok(Interfaces::default());
    }
    let made = inside_a_new_one(|handle| async move {
        let mut devices = Vec::new();
        for (mac, mtu, offload) in alike {
            let (_, tap) = tap::make(&handle).await?;
            devices.push(Device::Net {
                tap,
                vhost: None,
                mac,
                mtu,
                offload,
            });
        }
        Ok(devices)
    });
    let (devices, namespace) = made.await?;
    Ok(Interfaces {
        devices,
        namespace: Some(namespace),
    })
}
