//! The real `vesta serve`, in a process of its own with a data directory of its own.

use crate::process::Process;
use crate::{Api, PATIENCE, Reply, guests, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// A running host. Dropping it kills it.
pub struct Host {
    child: Child,
    options: Builder,
    dir: Arc<tempfile::TempDir>,
    ready: Ready,
}

#[derive(Clone)]
struct Ready {
    invoke: String,
    control: String,
    operator_key: String,
    tenant_key: String,
}

/// How a host is started.
#[derive(Clone, Default)]
pub struct Builder {
    config: Option<String>,
    arguments: Vec<String>,
    worker: Option<String>,
    data: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// The text of its configuration file.
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// Models run in a worker that misbehaves so; see [`guests::rogue_worker`].
    pub fn worker(mut self, misbehaves: &str) -> Self {
        self.worker = Some(misbehaves.into());
        self
    }

    /// A further argument of `vesta serve`.
    pub fn argument(mut self, text: &str) -> Self {
        self.arguments.push(text.into());
        self
    }

    /// Another data directory than one of its own.
    pub fn data(mut self, path: &Path) -> Self {
        self.data = Some(path.into());
        self
    }

    /// A variable of its environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn start(self) -> Host {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let (child, ready) = self.spawn(dir.path(), None);
        Host { child, options: self, dir, ready }
    }

    fn spawn(&self, dir: &Path, first: Option<&Ready>) -> (Child, Ready) {
        let ready_file = dir.join("ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let mut command = Command::new(guests::vesta());
        command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        let data = self.data.clone().unwrap_or_else(|| dir.join("data"));
        command.arg("--data").arg(data).arg("--ready-file").arg(&ready_file);
        let worker = self.worker.as_ref().map(|name| {
            let program = guests::rogue_worker(name, dir);
            format!("inference_program = {:?}\n", program.to_str().expect("a plain path"))
        });
        if worker.is_some() || self.config.is_some() {
            let path = dir.join("config.toml");
            let text = worker.unwrap_or_default() + self.config.as_deref().unwrap_or_default();
            std::fs::write(&path, text).expect("write the configuration");
            command.arg("--config").arg(path);
        }
        let open = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log"));
        let log = open.expect("open the log");
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        isolate(&mut command, dir);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().expect("start vesta serve");
        let text = wait_for("the ready file of vesta serve", PATIENCE, || {
            if let Some(status) = child.try_wait().expect("a child to wait for") {
                panic!("vesta serve ended with {status}:\n{}", tail(dir));
            }
            std::fs::read_to_string(&ready_file).ok().filter(|t| t.trim_end().ends_with('}'))
        });
        (child, Ready::read(&text, first))
    }
}

/// Keeps the developer's own configuration out of a command.
pub(crate) fn isolate(command: &mut Command, dir: &Path) {
    for name in [
        "VESTA_URL",
        "VESTA_KEY",
        "VESTA_CONFIG",
        "VESTA_TENANT",
        "VESTA_HOST_CONFIG",
        "VESTA_INVOKE_URL",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    // The command may run cargo, which has its own homes below the user's.
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    for (name, below) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        command.env(name, std::env::var_os(name).map_or(home.join(below), PathBuf::from));
    }
    for name in ["CARGO_BUILD_BUILD_DIR", "CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    command.env("HOME", dir).env("XDG_CONFIG_HOME", dir.join("config")).env("NO_COLOR", "1");
}

fn tail(dir: &Path) -> String {
    let log = std::fs::read(dir.join("log")).unwrap_or_default();
    String::from_utf8_lossy(&log[log.len().saturating_sub(8000)..]).into_owned()
}

impl Ready {
    fn read(text: &str, first: Option<&Ready>) -> Self {
        let json: Value = serde_json::from_str(text).expect("the ready file is JSON");
        let address = |name: &str| {
            let text = json[name].as_str().unwrap_or_else(|| panic!("the ready file has no {name}: {json}"));
            text.trim_start_matches("http://").trim_end_matches('/').to_string()
        };
        // Keys are shown on the first start only.
        let key = |name: &str, first: Option<&String>| {
            let shown = json[name].as_str().map(str::to_string);
            shown.or(first.cloned()).unwrap_or_else(|| panic!("the ready file has no {name}: {json}"))
        };
        Self {
            invoke: address("invoke"),
            control: address("control"),
            operator_key: key("operator_key", first.map(|f| &f.operator_key)),
            tenant_key: key("tenant_key", first.map(|f| &f.tenant_key)),
        }
    }
}

impl Host {
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One host for all tests that leave it as they found it; it ends with the last of them.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Host>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(host) = shared.upgrade() {
            return host;
        }
        let host = Arc::new(Self::start());
        *shared = Arc::downgrade(&host);
        host
    }

    /// `address:port` of the data plane.
    pub fn invoke_address(&self) -> &str {
        &self.ready.invoke
    }
    /// `address:port` of the control API.
    pub fn control_address(&self) -> &str {
        &self.ready.control
    }
    pub fn tenant_key(&self) -> &str {
        &self.ready.tenant_key
    }
    pub fn operator_key(&self) -> &str {
        &self.ready.operator_key
    }

    /// The control API with the default tenant's key.
    pub fn control(&self) -> Api {
        Api::new(&format!("http://{}", self.ready.control), Some(&self.ready.tenant_key))
    }
    /// The control API with the operator's key.
    pub fn operator(&self) -> Api {
        self.control().with_key(&self.ready.operator_key)
    }
    /// The data plane with the default tenant's key; paths begin with `/fn/`.
    pub fn data(&self) -> Api {
        Api::new(&format!("http://{}", self.ready.invoke), Some(&self.ready.tenant_key))
    }

    /// Invokes a function of the default tenant with GET and the tenant's key. `path` begins with `/`.
    pub fn invoke(&self, function: &str, path: &str) -> Reply {
        self.data().get(&format!("/fn/default/{function}{path}"))
    }

    /// The usage record of an invocation of the default tenant.
    #[track_caller]
    pub fn record(&self, invocation: &str) -> Value {
        self.control().get(&format!("/api/v1/invocations/{invocation}")).expect(200).json()
    }

    /// The usage records of a function of the default tenant, newest first.
    pub fn records(&self, function: &str) -> Vec<Value> {
        let json = self.control().get(&format!("/api/v1/invocations?function={function}&limit=100"));
        json.expect(200).json()["invocations"].as_array().expect("invocations").clone()
    }

    /// Creates a tenant and gives its key.
    pub fn tenant(&self, name: &str) -> String {
        let reply = self.operator().post_json("/api/v1/tenants", &serde_json::json!({ "name": name }));
        reply.expect(201).json()["key"].as_str().expect("the tenant's key").to_string()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.options.data.clone().unwrap_or_else(|| self.dir.path().join("data"))
    }
    /// A directory of the test's own, gone with the host.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }
    /// The end of what the host has written to its log.
    pub fn log(&self) -> String {
        tail(self.dir.path())
    }

    pub fn process(&self) -> Process {
        Process::new(self.child.id())
    }

    /// All of `/metrics`, as they are at one moment.
    pub fn metrics(&self) -> Metrics {
        Metrics(self.control().without_key().get("/metrics").expect(200).text())
    }

    /// One value of `/metrics`: the sum of a metric's samples over all labels.
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics().sum(name)
    }

    pub fn is_ready(&self) -> bool {
        self.control().without_key().get("/readyz").status == 200
    }

    /// SIGKILL: nothing of the host's own runs any more.
    pub fn kill_9(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(status.expect("run kill").success(), "kill");
    }

    /// Waits for the process to end by itself; its exit status.
    pub fn wait(&mut self, within: Duration) -> std::process::ExitStatus {
        let child = &mut self.child;
        wait_for("the host's end", within, || child.try_wait().expect("a child to wait for"))
    }

    /// Ends it, and starts it again with another configuration file.
    pub fn restart_with(&mut self, toml: &str) {
        self.kill_9();
        self.options.config = Some(toml.into());
        self.restart();
    }

    /// Starts it again on the same data directory; the addresses are new.
    pub fn restart(&mut self) {
        let (child, ready) = self.options.spawn(self.dir.path(), Some(&self.ready));
        self.child = child;
        self.ready = ready;
    }
}

/// What `/metrics` said.
pub struct Metrics(String);

impl Metrics {
    /// The sum of a metric's samples over all labels.
    #[track_caller]
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_of(name, "")
    }

    /// The sum of a metric's samples, of those with the label's value.
    #[track_caller]
    pub fn sum_of(&self, name: &str, label: &str) -> f64 {
        let samples = self.0.lines().filter(|l| !l.starts_with('#')).filter_map(|l| {
            let (series, value) = l.rsplit_once(' ')?;
            let same = series.split('{').next()? == name && series.contains(label);
            same.then(|| value.parse::<f64>().ok()).flatten()
        });
        let samples: Vec<f64> = samples.collect();
        assert!(!samples.is_empty(), "/metrics has no {name}:\n{}", self.0);
        samples.iter().sum()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the host's log ---\n{}", tail(self.dir.path()));
        }
    }
}
