//! Capabilities: all that are not named are gone for good.

use capng::{Action, Set, Type};

use super::Error;

/// Gives up every capability but `names` (without `CAP_`), the bounding set included.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_capabilities(names: &[&str]) -> Result<(), Error> {
    // The bounding set can be reduced only by who has CAP_SETPCAP; without it there is nothing in the
    // permitted set either that could come back, as nothing is ever executed.
    let sets = if has_setpcap()? { Set::BOTH } else { Set::CAPS };
    capng::clear(Set::BOTH);
    if !names.is_empty() {
        capng::updatev(
            Action::ADD,
            Type::EFFECTIVE | Type::PERMITTED,
            names.to_vec(),
        )
        .map_err(Error::Capabilities)?;
    }
    capng::apply(sets).map_err(Error::Capabilities)
}

fn has_setpcap() -> Result<bool, Error> {
    capng::get_caps_process().map_err(Error::Capabilities)?;
    let setpcap = capng::name_to_capability("SETPCAP").map_err(Error::Capabilities)?;
    Ok(capng::have_capability(Type::EFFECTIVE, setpcap))
}
