//! What holds for Podman and for Docker alike, as their command lines are the same.

pub(crate) mod faults;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod network;
pub(crate) mod processes;
pub(crate) mod streams;

/// All of them as tests of the engine that `$start` gives, if that is installed.
macro_rules! tests_of {
    ($start:path) => {
        engine::tests_of! { $start;
            processes:
                a_program_ends_with_its_code, a_container_has_its_own_kernel,
                a_container_is_entered, signals_reach_a_container, a_signal_ends_a_container,
                a_container_is_asked_to_stop, a_container_is_frozen,
                a_running_container_is_removed, a_container_is_watched,
                a_failing_container_is_restarted, events_are_told;
            streams:
                output_is_kept, streams_pass_through_whole, a_terminal_is_passed_through,
                a_running_container_is_attached_to;
            files: files_are_copied_in_and_out, volumes_hold_files, containers_share_a_volume;
            limits:
                limits_hold, too_much_memory_ends_a_container, a_container_is_confined,
                capabilities_are_given_and_taken;
            network:
                a_port_is_published, containers_find_each_other_by_name,
                a_container_joins_anothers_network, services_work_together;
            faults: kills_at_any_time_leave_nothing;
        }
    };
    ($start:path; $($module:ident: $($name:ident),+;)+) => {
        $($(
            #[test]
            fn $name() {
                if let Some(engine) = $start() {
                    engine::$module::$name(&engine);
                }
            }
        )+)+
    };
}
pub(crate) use tests_of;
