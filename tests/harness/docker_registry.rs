//! A registry that others made: Debian's `docker-registry`, on the loopback of the test's own network.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::containerd::Containerd;

/// Where it listens. Nobody else is in the test's network.
pub const ADDRESS: &str = "127.0.0.1:5000";
/// A name for it that only containerd's configuration knows.
pub const ALIAS: &str = "registry.example";

/// Longest time that it may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running registry. It ends with the test.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Child,
}

impl DockerRegistry {
    /// Starts one in containerd's network and directory, and tells containerd that [`ALIAS`] is its name.
    ///
    /// # Panics
    /// When it does not listen; is the package installed?
    #[must_use]
    pub fn start(containerd: &Containerd) -> Self {
        let hosts = containerd.registries().join(ALIAS);
        fs::create_dir_all(&hosts).expect("a directory");
        let toml = format!(
            "server = \"http://{ADDRESS}\"\n\
             [host.\"http://{ADDRESS}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(hosts.join("hosts.toml"), toml).expect("written");
        let dir = containerd.dir().join("registry");
        fs::create_dir(&dir).expect("a directory");
        fs::write(dir.join("config.yml"), configuration(&dir)).expect("written");
        let log = fs::File::create(dir.join("log")).expect("a log");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("docker-registry starts; is the package installed?");
        let registry = Self { process };
        let started = Instant::now();
        while TcpStream::connect(ADDRESS).is_err() {
            let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Gives it an image under a name like `app:1`.
    ///
    /// # Panics
    /// When it does not take it.
    pub fn push(&self, image: &str, name: &str) {
        let copied = Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false", image])
            .arg(format!("docker://{ADDRESS}/{name}"))
            .output()
            .expect("skopeo runs");
        let _ = Outcome(copied).ok();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // One that has ended by itself has failed the test already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(dir: &Path) -> String {
    format!(
        "version: 0.1\n\
         storage:\n  filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: {ADDRESS}\n",
        dir.join("storage").display()
    )
}
