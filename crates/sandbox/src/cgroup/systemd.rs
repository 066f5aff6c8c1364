//! A pod's group as a scope of systemd's (org.freedesktop.systemd1(5), "Transient Units"; systemd.resource-control(5)):
//! what systemd has not been told of it would remove, and would take its limits back when it is reloaded.

use std::path::{Path, PathBuf};

use super::dbus::{Body, Bus, BusError, Target, Value};
use crate::error::SandboxError;

/// There where systemd runs the host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A scope, which has the pod's processes while it runs.
#[derive(Debug)]
pub(super) struct Scope {
    bus: PathBuf,
    slice: String,
    unit: String,
}

impl Scope {
    /// The one of `SLICE:PREFIX:NAME`, where systemd can be told of it: by root, on a host that it runs.
    pub(super) fn find(path: &str) -> Option<Self> {
        let can = nix::unistd::geteuid().is_root()
            && !super::in_user_namespace()
            && Path::new(BOOTED).exists();
        can.then(|| Self::named(path, Path::new(SYSTEM_BUS)))?
    }

    pub(super) fn named(path: &str, bus: &Path) -> Option<Self> {
        let [slice, prefix, name] = path.split(':').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Self {
            bus: bus.to_owned(),
            slice: slice.to_owned(),
            unit: super::unit(prefix, name),
        })
    }

    /// Has systemd make the scope with this process in it.
    pub(super) fn start(&self) -> Result<(), SandboxError> {
        let mut properties = vec![
            (
                "Description",
                Value::Text(format!("virtual machine {}", self.unit)),
            ),
            ("Slice", Value::Text(self.slice.clone())),
            ("PIDs", Value::Numbers(vec![std::process::id()])),
            ("Delegate", Value::Bool(true)),
            ("DefaultDependencies", Value::Bool(false)),
        ];
        let accounting = ["MemoryAccounting", "CPUAccounting", "TasksAccounting"];
        properties.extend(accounting.map(|name| (name, Value::Bool(true))));
        self.failed("start", || {
            let mut bus = Bus::connect(&self.bus)?;
            bus.call(MANAGER, "Subscribe", "", Body::default())?;
            bus.listen(&format!(
                "type='signal',interface='{}',member='JobRemoved'",
                MANAGER.interface
            ))?;
            let started = match self.start_unit(&mut bus, &properties) {
                // Of a pod that was killed, say.
                Err(BusError::Answer { name, .. }) if name == UNIT_EXISTS => {
                    self.end_unit(&mut bus)?;
                    self.start_unit(&mut bus, &properties)?
                }
                other => other?,
            };
            self.finished(&mut bus, &started)
        })
    }

    fn start_unit(&self, bus: &mut Bus, properties: &[(&str, Value)]) -> Result<String, BusError> {
        let mut body = Body::default();
        body.text(&self.unit);
        // Were there a job already, it is of a pod with this name that is no more.
        body.text("replace");
        body.properties(properties);
        body.nothing();
        let answer = bus.call(MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", body)?;
        Ok(answer.texts("o")?.concat())
    }

    /// Waits for the end of a job.
    fn finished(&self, bus: &mut Bus, job: &str) -> Result<(), BusError> {
        loop {
            let removed = bus.signal("JobRemoved")?.texts("uoss")?;
            if removed[1] == job {
                return match removed[3].as_str() {
                    "done" => Ok(()),
                    result => Err(BusError::Answer {
                        name: "the job".to_owned(),
                        text: result.to_owned(),
                    }),
                };
            }
        }
    }

    /// Tells systemd of other limits, which it would take back otherwise.
    pub(super) fn limit(&self, properties: &[(&str, Value)]) -> Result<(), SandboxError> {
        if properties.is_empty() {
            return Ok(());
        }
        self.failed("limit", || {
            let mut body = Body::default();
            body.text(&self.unit);
            // Until the next boot, as the scope.
            body.number(1);
            body.properties(properties);
            let mut bus = Bus::connect(&self.bus)?;
            bus.call(MANAGER, "SetUnitProperties", "sba(sv)", body)
                .map(drop)
        })
    }

    /// Ends the scope, whose processes have ended. That it is gone is no error.
    pub(super) fn end(&self) -> Result<(), SandboxError> {
        self.failed("end", || self.end_unit(&mut Bus::connect(&self.bus)?))
    }

    fn end_unit(&self, bus: &mut Bus) -> Result<(), BusError> {
        let mut body = Body::default();
        body.text(&self.unit);
        body.text("replace");
        let stopped = bus.call(MANAGER, "StopUnit", "ss", body).map(drop);
        let mut body = Body::default();
        body.text(&self.unit);
        let reset = bus.call(MANAGER, "ResetFailedUnit", "s", body).map(drop);
        for outcome in [stopped, reset] {
            match outcome {
                Err(BusError::Answer { name, .. }) if name == NO_SUCH_UNIT => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    fn failed(
        &self,
        action: &str,
        call: impl FnOnce() -> Result<(), BusError>,
    ) -> Result<(), SandboxError> {
        let what = format!("have systemd {action} {}", self.unit);
        call().map_err(|error| SandboxError::host(what)(std::io::Error::other(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Child, Command, Stdio};

    use super::super::dbus;
    use super::*;

    /// A bus that is none. It answers each of these members so; the last one ends it.
    fn serve(listener: UnixListener, answers: Vec<(&'static str, Answer)>) -> Vec<Vec<u8>> {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        assert!(line.starts_with(b"\0AUTH EXTERNAL 3"), "{line:?}");
        stream.write_all(b"OK 0123\r\n").unwrap();
        let mut begin = [0; 7];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"BEGIN\r\n");
        let answers = answers.into_iter();
        answers
            .map(|(member, answer)| {
                let message = read(&mut stream);
                assert!(has(&message, member), "{member}");
                let serial = u32::from_le_bytes(message[8..12].try_into().unwrap());
                stream.write_all(&answer(serial)).unwrap();
                message
            })
            .collect()
    }

    type Answer = Box<dyn FnOnce(u32) -> Vec<u8> + Send>;

    fn read(stream: &mut UnixStream) -> Vec<u8> {
        let mut message = vec![0; 16];
        stream.read_exact(&mut message).unwrap();
        let number = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap());
        let rest = (number(12).next_multiple_of(8) + number(4)) as usize;
        message.resize(16 + rest, 0);
        stream.read_exact(&mut message[16..]).unwrap();
        message
    }

    fn has(message: &[u8], text: &str) -> bool {
        let text = text.as_bytes();
        message.windows(text.len()).any(|part| part == text)
    }

    fn done(body: fn(&mut Body)) -> Answer {
        Box::new(move |serial| dbus::tests::answer(serial, body))
    }

    fn error(name: &'static str) -> Answer {
        Box::new(move |serial| dbus::tests::error(serial, name))
    }

    #[test]
    fn systemd_makes_a_scope_and_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let listener = UnixListener::bind(&socket).unwrap();
        let scope = Scope::named("a.slice:cri:x", &socket).unwrap();
        let job = |body: &mut Body| body.text("/org/freedesktop/systemd1/job/7");
        let answers: Vec<(&str, Answer)> = vec![
            ("Hello", done(|body| body.text(":1.1"))),
            ("Subscribe", done(|_| {})),
            ("AddMatch", done(|_| {})),
            ("StartTransientUnit", error(UNIT_EXISTS)),
            ("StopUnit", done(job)),
            ("ResetFailedUnit", error(NO_SUCH_UNIT)),
            (
                "StartTransientUnit",
                Box::new(move |serial| {
                    let other =
                        dbus::tests::job_removed("/org/freedesktop/systemd1/job/6", "failed");
                    let own = dbus::tests::job_removed("/org/freedesktop/systemd1/job/7", "done");
                    // The job's end may be told before its number.
                    [other, own, dbus::tests::answer(serial, job)].concat()
                }),
            ),
        ];
        let bus = std::thread::spawn(move || serve(listener, answers));
        scope.start().unwrap();
        let calls = bus.join().unwrap();
        let start = calls.last().unwrap();
        for text in [
            "cri-x.scope",
            "a.slice",
            "PIDs",
            "Delegate",
            "DefaultDependencies",
        ] {
            assert!(has(start, text), "{text}");
        }
        assert!(has(start, "ssa(sv)a(sa(sv))"));
    }

    #[test]
    fn a_job_that_fails_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let listener = UnixListener::bind(&socket).unwrap();
        let scope = Scope::named("a.slice:cri:x", &socket).unwrap();
        let answers: Vec<(&str, Answer)> = vec![
            ("Hello", done(|_| {})),
            ("Subscribe", done(|_| {})),
            ("AddMatch", done(|_| {})),
            (
                "StartTransientUnit",
                Box::new(|serial| {
                    let job = dbus::tests::answer(serial, |body| body.text("/j"));
                    [job, dbus::tests::job_removed("/j", "failed")].concat()
                }),
            ),
        ];
        let bus = std::thread::spawn(move || serve(listener, answers));
        let failed = scope.start().unwrap_err();
        assert_eq!(failed.to_string(), "cannot have systemd start cri-x.scope");
        bus.join().unwrap();
    }

    /// A bus of the test's own, which ends with it.
    struct Daemon(Child);

    impl Daemon {
        fn start(socket: &Path) -> Option<Self> {
            let address = format!("--address=unix:path={}", socket.display());
            let daemon = Command::new("dbus-daemon")
                .args(["--session", "--nofork", "--print-address", &address])
                .stdout(Stdio::piped())
                .spawn();
            let mut daemon = Self(daemon.ok()?);
            // It says where it listens once it does.
            let said = daemon.0.stdout.as_mut().unwrap().read_exact(&mut [0]);
            said.ok().map(|()| daemon)
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_real_bus_understands_what_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let Some(_daemon) = Daemon::start(&socket) else {
            eprintln!("skipped: there is no dbus-daemon");
            return;
        };
        let scope = Scope::named("a.slice:cri:x", &socket).unwrap();
        let mut bus = Bus::connect(&socket).unwrap();
        bus.listen("type='signal'").unwrap();
        let properties = [
            ("Slice", Value::Text("a.slice".to_owned())),
            ("PIDs", Value::Numbers(vec![1, 2])),
            ("MemoryMax", Value::U64(5)),
            ("Delegate", Value::Bool(true)),
        ];
        let refused = scope.start_unit(&mut bus, &properties).unwrap_err();
        // And not for the message: nobody there is systemd.
        let BusError::Answer { name, text } = refused else {
            panic!("{refused}");
        };
        assert!(text.contains(MANAGER.destination), "{name}: {text}");
    }
}
