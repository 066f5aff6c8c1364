//! Capabilities of a process, and what is said of those that it cannot have, in runc's words.

use std::collections::{BTreeSet, HashSet};

use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder, Process};

use crate::log::Log;

/// Adds to the sets that a program has its capabilities from, as runc does it. Answers with the names that are none.
pub(super) fn add(process: &mut Process, names: &[String]) -> Vec<String> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut all = process
        .capabilities()
        .clone()
        .map_or_else(|| LinuxCapabilitiesBuilder::default().build(), Ok)
        .expect("nothing has to be given");
    let mut unknown = Vec::new();
    for name in names {
        let named = serde_json::from_value(name.to_ascii_uppercase().into());
        let Ok(capability) = named else {
            unknown.push(name.clone());
            continue;
        };
        let with = |set: &Option<HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        all.set_bounding(with(all.bounding()));
        all.set_effective(with(all.effective()));
        all.set_permitted(with(all.permitted()));
        // One that is not inheritable cannot be ambient.
        if all
            .inheritable()
            .as_ref()
            .is_some_and(|set| !set.is_empty())
        {
            all.set_ambient(with(all.ambient()));
        }
    }
    process.set_capabilities(Some(all));
    unknown
}

/// Warns of `unknown` names, which were left out.
pub(super) fn warn_of_unknown(log: &Log, unknown: &[String]) {
    if !unknown.is_empty() {
        let names = unknown.join(" ");
        log.warning(&format!(
            "ignoring unknown or unavailable capabilities: [{names}]"
        ));
    }
}

/// Warns of those that are to be ambient, and will not be.
pub(super) fn warn_of_ambient(log: &Log, process: &Process) {
    for name in not_to_be_raised(process) {
        log.warning(&format!(
            "can't raise ambient capability {name}: operation not permitted"
        ));
    }
}

/// An ambient one has to be permitted and inheritable.
fn not_to_be_raised(process: &Process) -> BTreeSet<String> {
    let Some(sets) = process.capabilities() else {
        return BTreeSet::new();
    };
    let has = |set: &Option<HashSet<Capability>>, one: &Capability| {
        set.as_ref().is_some_and(|set| set.contains(one))
    };
    let ambient = sets.ambient().iter().flatten();
    ambient
        .filter(|one| !has(sets.inheritable(), one) || !has(sets.permitted(), one))
        .filter_map(|one| serde_json::to_value(one).ok()?.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn process(sets: &Value) -> Process {
        let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "capabilities": sets});
        serde_json::from_value(process).unwrap()
    }

    /// `sets` of a process to which `CAP_SYSLOG` and one that there is not are added.
    fn added(sets: &Value) -> Value {
        let mut process = process(sets);
        let unknown = add(&mut process, &["cap_syslog".to_owned(), "CAP_X".to_owned()]);
        assert_eq!(unknown, ["CAP_X"]);
        serde_json::to_value(process.capabilities()).unwrap()
    }

    #[test]
    fn added_ones_are_ambient_where_some_are_inheritable() {
        let only = json!(["CAP_SYSLOG"]);
        assert_eq!(
            added(&json!({})),
            json!({"bounding": only, "effective": only, "permitted": only})
        );
        assert_eq!(
            added(&json!({"inheritable": only})),
            json!({"bounding": only, "effective": only, "permitted": only, "inheritable": only, "ambient": only})
        );
    }

    #[test]
    fn what_is_not_inheritable_and_permitted_is_not_ambient() {
        let sets = json!({
            "ambient": ["CAP_CHOWN", "CAP_KILL", "CAP_SYSLOG"],
            "inheritable": ["CAP_KILL", "CAP_SYSLOG"],
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
        });
        let names = not_to_be_raised(&process(&sets));
        assert_eq!(Vec::from_iter(names), ["CAP_CHOWN", "CAP_SYSLOG"]);
    }
}
