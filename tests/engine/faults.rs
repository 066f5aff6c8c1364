//! Processes behind a container are killed, at any time.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::Duration;

use harness::engine::{BUSYBOX, Engine, is_hull};
use harness::machine::{self, POD_PROCESS};
use harness::number;
use harness::orphans::ended_orphans;
use harness::random::Random;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// What is asked of an engine meanwhile.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Run,
    Exec,
    Stop,
}

const MOMENTS: [Moment; 3] = [Moment::Run, Moment::Exec, Moment::Stop];

/// Who is killed: by a part of the command line, or of the program's path.
fn victims(engine: &Engine) -> Vec<&'static str> {
    // What stands between an engine and its runtime.
    let shim = match engine.is_docker() {
        true => "containerd-shim-runc-v2",
        false => "conmon",
    };
    // Of the runtime it is a monitor, or the command line itself.
    let mut victims = machine::programs();
    victims.extend([POD_PROCESS, "/hull-runtime", shim]);
    victims
}

/// Whatever is killed and when, the engine's own removal leaves nothing. That is tried twice, or `HULL_TEST_FAULTS`
/// times. `HULL_TEST_SEED` sets other times; nothing waits for anything by them.
pub(crate) fn kills_at_any_time_leave_nothing(engine: &Engine) {
    if !is_hull() {
        eprintln!("skipped: these are processes of Hull");
        return;
    }
    let mut random = Random(number("HULL_TEST_SEED", 4));
    let mut plans = Vec::new();
    for round in 0..number("HULL_TEST_FAULTS", 2) {
        if plans.is_empty() {
            plans = MOMENTS
                .iter()
                .flat_map(|moment| victims(engine).into_iter().map(|victim| (*moment, victim)))
                .collect();
        }
        let (moment, victim) = random.choose(&mut plans);
        let longest = match moment {
            Moment::Run => 4000,
            Moment::Exec | Moment::Stop => 400,
        };
        let delay = Duration::from_millis(random.below(longest));
        eprintln!("{round}: {victim} during {moment:?}, after {delay:?}");
        hit(engine, moment, victim, delay);
        if victim == "conmon" {
            // Podman waits in vain, once, for what conmon would have written.
            reaping(|| drop(engine.remove_all()));
        }
        reaping(|| engine.assert_nothing_left());
    }
}

fn hit(engine: &Engine, moment: Moment, victim: &str, delay: Duration) {
    let script = "echo started; trap 'exit 3' TERM; while true; do sleep 0.1; done";
    if !matches!(moment, Moment::Run) {
        engine.start("box", &[], script);
        engine.wait_for_output("box", "started");
    }
    std::thread::scope(|scope| {
        // What is asked for may be done or fail; it must end.
        let asked = scope.spawn(|| match moment {
            Moment::Run => {
                let run = ["run", "-d", "--name", "box", "--network", "none"];
                engine.call([&run[..], &[BUSYBOX, "sh", "-c", script]].concat())
            }
            Moment::Exec => engine.exec("box", "sleep 0.2"),
            Moment::Stop => engine.call(["stop", "--time", "2", "box"]),
        });
        sleep(delay);
        kill_one(engine, victim);
        let outcome = asked.join().expect("no panic");
        eprintln!("  {:?} {}", outcome.code(), outcome.stderr().trim());
    });
}

/// Kills a process that is a `victim`, if there is one now.
fn kill_one(engine: &Engine, victim: &str) {
    let is_victim = |pid: u32, line: &str| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        let program = program.map(|path| path.display().to_string());
        program.is_ok_and(|path| path.contains(victim)) || line.contains(victim)
    };
    let found = engine
        .processes()
        .into_iter()
        .find(|(pid, line)| is_victim(*pid, line));
    match found {
        // It may have ended meanwhile.
        Some((pid, _)) => drop(kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)),
        None => eprintln!("  there is none"),
    }
}

/// Reaps meanwhile what conmon would have, as init does; the engine waits for it.
fn reaping(run: impl FnOnce()) {
    let (running, ended) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Until the other end is gone.
            while ended.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Timeout) {
                for pid in ended_orphans("hull-runtime") {
                    // It is ours, and has ended.
                    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
                }
            }
        });
        // Dropped in any case, also when this panics.
        let _running = running;
        run();
    });
}
