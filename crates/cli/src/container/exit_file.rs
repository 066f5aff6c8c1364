//! Exit records that only one process waits for.
//!
//! With `--rm` the container's directory is gone when its exit record is read, so the record lies
//! beside the state directories. Its name says which process reads and removes it, so that those of
//! killed processes can be told from the others.

use hull_vm::process::ProcessRecord;

/// The name of the record of container `id` for this process.
pub(crate) fn exit_file_name(id: &str) -> String {
    let pid = i32::try_from(std::process::id()).expect("process ids are positive `int`s");
    // A process can read its own entry in /proc; without /proc the record is everybody's to sweep.
    let ticks = ProcessRecord::of(pid).map_or(0, |own| own.start_ticks);
    format!("{id}.{pid}.{ticks}.exit")
}

/// Whether this is the name of a record that nobody waits for any more.
pub(super) fn is_orphan(name: &str) -> bool {
    let parse = || {
        let mut fields = name.strip_suffix(".exit")?.split('.').skip(1);
        let pid = fields.next()?.parse().ok()?;
        let start_ticks = fields.next()?.parse().ok()?;
        Some(ProcessRecord { pid, start_ticks })
    };
    parse().is_some_and(|reader| !reader.is_alive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_orphaned_when_its_reader_is_gone() {
        assert!(!is_orphan(&exit_file_name("abc")));
        assert!(is_orphan("abc.1.99999999999.exit"));
        assert!(!is_orphan("abc"));
        assert!(!is_orphan("abc.exit"));
    }
}
