//! Configuration of the host: a TOML file, and flags above it.

use ipnet::IpNet;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use vesta_core::price::{PriceError, PricePlan, Prices};
use vesta_engine::{ChildLimits, ModelLimits};

/// The configuration file. Every key has a default; unknown keys are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// The data directory. Default: the user's data directory, `vesta` below it.
    pub data: Option<PathBuf>,
    /// Address of invocations.
    pub listen: SocketAddr,
    /// Address of the control API, of health and of metrics.
    pub control: SocketAddr,
    /// Where clients reach invocations, if not at `listen`: behind a balancer, or by a name. No `/` at its
    /// end.
    pub public_url: Option<String>,
    /// Invocations are also routed by host name: `{function}.{tenant}.{domain}`.
    pub domain: String,
    /// Pages of public functions that a path names carry `nosniff` and a sandboxing policy: they have one
    /// origin.
    pub path_sandbox: bool,
    pub tls: Option<Tls>,
    /// Memory for code, models, instances and buffers together: bytes, a size such as `"8GiB"`, or a share of
    /// what the machine and the process's control group allow, such as `"80%"` (the default).
    pub memory: MemorySize,
    /// The disk's space that the packages of one tenant may take, as `memory` is written: a share is one of
    /// the whole disk that the data directory lies on.
    pub tenant_disk: MemorySize,
    /// Instances that may live at once in the whole host.
    pub instances_max: u32,
    /// Connections that may be open at once, on each listener.
    pub connections_max: usize,
    /// Seconds for which a connection may be quiet between requests.
    pub keep_alive_seconds: u64,
    /// Runs of models at once. Default: one for each core.
    #[serde(alias = "inference_threads")]
    pub inference_slots: Option<usize>,
    /// Runs of models that may wait for a slot; of one tenant half as many.
    pub inference_waiting_max: usize,
    /// The program that runs models: it is called with `inference-worker` and the host's process id. Default:
    /// this one.
    pub inference_program: Option<PathBuf>,
    /// The library of ONNX Runtime (`libonnxruntime.so`, 1.24 or later), in the place of the one that
    /// `vesta engines install onnxruntime` installs. Default: none.
    pub onnx_runtime: Option<PathBuf>,
    /// Operators on the longest path of a model's graph, which the engine follows on its stack: a run of a
    /// much deeper one than by default ends its worker.
    pub model_depth_max: u64,
    /// Seconds that a cold start may take before the requests that wait for it are refused.
    pub start_seconds_max: u64,
    /// Seconds that running invocations are given on SIGTERM.
    pub drain_seconds: u64,
    /// With `true` a record is on the disk before its response ends, so that a power cut loses none either.
    pub durable: bool,
    /// Days that single usage records are kept; their sums stay.
    pub usage_retention_days: u32,
    /// Days that logs are kept.
    pub log_retention_days: u32,
    /// Seconds between two passes that remove what is past its retention, and compare sums with records.
    pub housekeeping_seconds: u64,
    /// Most bytes of one package.
    pub package_bytes_max: u64,
    /// Bounds of the child process that compiles components and checks models.
    pub prepare: ChildLimits,
    /// Networks that guests may reach although they are not public. Default: none.
    pub outbound_allow_networks: Vec<IpNet>,
    /// Name servers for outbound calls of guests. Default: those of the system.
    pub name_servers: Vec<SocketAddr>,
    pub prices: PricePlan,
}

/// How much memory to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub enum MemorySize {
    Bytes(u64),
    /// Of what there is, in percent.
    Share(u8),
}

/// Least memory of a host, in bytes: what the smallest functions need.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Bytes(u64),
    Text(String),
}

impl TryFrom<SizeText> for MemorySize {
    type Error = String;

    fn try_from(size: SizeText) -> Result<Self, String> {
        let bad = |text: &str| {
            format!(
                "{text:?} must be a size from 1MiB (bytes, or as in \"8GiB\") or a share from \"1%\" to \"100%\""
            )
        };
        let text = match size {
            SizeText::Bytes(bytes) if bytes >= MEMORY_BYTES_MIN => return Ok(MemorySize::Bytes(bytes)),
            SizeText::Bytes(bytes) => return Err(bad(&bytes.to_string())),
            SizeText::Text(text) => text,
        };
        if let Some(share) = text.strip_suffix('%') {
            let share = share.trim().parse().ok().filter(|share| (1..=100).contains(share));
            return share.map(MemorySize::Share).ok_or_else(|| bad(&text));
        }
        let bytes = crate::package::units::parse_size(&text).ok().filter(|bytes| *bytes >= MEMORY_BYTES_MIN);
        bytes.map(MemorySize::Bytes).ok_or_else(|| bad(&text))
    }
}

impl MemorySize {
    /// In bytes, where the machine has `there` bytes.
    pub fn of(self, there: Option<u64>) -> u64 {
        match self {
            MemorySize::Bytes(bytes) => bytes,
            // A machine that does not say what it has is taken for one of 1 GiB.
            MemorySize::Share(share) => there.unwrap_or(1 << 30) / 100 * u64::from(share),
        }
    }
}

/// Certificate and key, as PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            data: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            control: SocketAddr::from(([127, 0, 0, 1], 7071)),
            public_url: None,
            domain: "localhost".into(),
            path_sandbox: true,
            tls: None,
            memory: MemorySize::Share(80),
            tenant_disk: MemorySize::Share(25),
            instances_max: 1_000,
            connections_max: 10_000,
            keep_alive_seconds: 75,
            inference_slots: None,
            inference_waiting_max: 1_024,
            inference_program: None,
            onnx_runtime: None,
            model_depth_max: ModelLimits::default().depth_max,
            start_seconds_max: 30,
            drain_seconds: 30,
            durable: false,
            usage_retention_days: 400,
            log_retention_days: 7,
            housekeeping_seconds: 600,
            package_bytes_max: 2 << 30,
            prepare: ChildLimits::default(),
            outbound_allow_networks: Vec::new(),
            name_servers: Vec::new(),
            prices: PricePlan::default(),
        }
    }
}

/// `vesta serve`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "VESTA_HOST_CONFIG")]
    pub config: Option<PathBuf>,
    /// Data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address of invocations [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Address of the control API [default: 127.0.0.1:7071]
    #[arg(long, value_name = "ADDRESS")]
    pub control: Option<SocketAddr>,
    /// Write addresses and, on a new data directory, keys to this file once the host serves
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}", path = path.display())]
    Parse { path: PathBuf, message: String },
    #[error(transparent)]
    Price(#[from] PriceError),
    #[error("{field} = {value} is out of bounds: {min} to {max}")]
    Bound { field: &'static str, value: u64, min: u64, max: u64 },
    #[error("public_url: {0:?} must be like https://functions.example.org, without '/' at its end")]
    PublicUrl(String),
    #[error(
        "public_url: {url:?} is below domain = {domain:?}, where the host name says which function answers; use the domain itself, or another name"
    )]
    PublicUrlBelowDomain { url: String, domain: String },
    #[error("there is no data directory: give --data, or set HOME")]
    NoDataDirectory,
}

impl HostConfig {
    /// The file's settings with the flags' above them, checked.
    pub fn load(args: &ServeArgs) -> Result<(HostConfig, Prices), ConfigError> {
        let mut config = match &args.config {
            Some(path) => read(path)?,
            None => HostConfig::default(),
        };
        config.data = args.data.clone().or(config.data);
        config.listen = args.listen.unwrap_or(config.listen);
        config.control = args.control.unwrap_or(config.control);
        config.domain = config.domain.to_ascii_lowercase();
        config.check()?;
        let prices = config.prices.checked()?;
        Ok((config, prices))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let bound = |field, value: u64, min, max| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::Bound { field, value, min, max })
            }
        };
        if let Some(url) = &self.public_url {
            let sound =
                url.parse::<http::Uri>().is_ok_and(|u| u.scheme().is_some() && u.authority().is_some());
            if !sound || url.ends_with('/') {
                return Err(ConfigError::PublicUrl(url.clone()));
            }
            let host = url.parse::<http::Uri>().ok().and_then(|u| Some(u.host()?.to_ascii_lowercase()));
            if host.is_some_and(|host| host.ends_with(&format!(".{}", self.domain))) {
                return Err(ConfigError::PublicUrlBelowDomain {
                    url: url.clone(),
                    domain: self.domain.clone(),
                });
            }
        }
        // Each instance reserves address space; 10,000 of 4 GiB worked and 30,000 did not.
        bound("instances_max", self.instances_max.into(), 1, 5_000)?;
        bound("connections_max", self.connections_max as u64, 1, 1_000_000)?;
        bound("keep_alive_seconds", self.keep_alive_seconds, 1, 86_400)?;
        bound("inference_slots", self.inference_slots.unwrap_or(1) as u64, 1, 1_024)?;
        bound("inference_waiting_max", self.inference_waiting_max as u64, 1, 1_000_000)?;
        bound("model_depth_max", self.model_depth_max, 1, 100_000)?;
        bound("start_seconds_max", self.start_seconds_max, 1, 3_600)?;
        bound("drain_seconds", self.drain_seconds, 0, 3_600)?;
        bound("usage_retention_days", self.usage_retention_days.into(), 1, 36_500)?;
        bound("housekeeping_seconds", self.housekeeping_seconds, 1, 86_400)?;
        bound("log_retention_days", self.log_retention_days.into(), 1, 36_500)?;
        bound("package_bytes_max", self.package_bytes_max, 1 << 10, 1 << 42)?;
        bound("prepare.cpu_seconds", self.prepare.cpu_seconds, 1, 86_400)?;
        bound("prepare.wall_seconds", self.prepare.wall_seconds, 1, 86_400)?;
        bound("prepare.memory_bytes", self.prepare.memory_bytes, 256 << 20, 1 << 46)
    }

    /// The data directory.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        match &self.data {
            Some(dir) => Ok(dir.clone()),
            None => {
                let dirs =
                    directories::ProjectDirs::from("", "", "vesta").ok_or(ConfigError::NoDataDirectory)?;
                Ok(dirs.data_dir().to_path_buf())
            }
        }
    }
}

fn read(path: &Path) -> Result<HostConfig, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    // toml's message shows the line and points at the key.
    toml::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), message: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<(HostConfig, Prices), ConfigError> {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("host.toml");
        std::fs::write(&path, text).expect("write");
        HostConfig::load(&ServeArgs { config: Some(path), ..ServeArgs::default() })
    }

    #[test]
    fn flags_stand_above_the_file_and_the_file_above_the_defaults() {
        let (config, _) = load("domain = \"example.org\"\n[prices]\nrequest = \"0.1\"").expect("valid");
        assert_eq!(config.domain, "example.org");
        assert_eq!(config.prices.request, "0.1");
        assert_eq!(config.listen.port(), 7070);
        let args =
            ServeArgs { listen: Some("127.0.0.1:1".parse().expect("address")), ..ServeArgs::default() };
        assert_eq!(HostConfig::load(&args).expect("valid").0.listen.port(), 1);
    }

    #[test]
    fn memory_is_a_number_of_bytes_or_a_share_of_the_machines() {
        let memory = |text: &str| load(&format!("memory = {text}")).expect(text).0.memory;
        assert_eq!(HostConfig::default().memory.of(Some(1_000_000_000)), 800_000_000);
        assert_eq!(memory("2000000"), MemorySize::Bytes(2_000_000));
        assert_eq!(memory("\"2MiB\""), MemorySize::Bytes(2 << 20));
        assert_eq!(memory("\"50%\"").of(Some(4_000)), 2_000);
        assert_eq!(memory("\"2MiB\"").of(None), 2 << 20);
    }

    #[test]
    fn every_mistake_names_its_key() {
        for (text, key) in [
            ("surprise = 1", "surprise"),
            ("listen = \"nowhere\"", "listen"),
            ("instances_max = 100000", "instances_max"),
            ("memory = 1000", "memory"),
            ("memory = \"101%\"", "memory"),
            ("memory = \"0%\"", "memory"),
            ("memory = \"much\"", "memory"),
            ("memory = -1", "memory"),
            ("tenant_disk = \"101%\"", "tenant_disk"),
            ("memory = \"18446744073709551615615\"", "memory"),
            ("[prices]\nrequest = \"dear\"", "prices.request"),
            ("[prepare]\ncpu_seconds = 0", "prepare.cpu_seconds"),
            ("keep_alive_seconds = 0", "keep_alive_seconds"),
            ("model_depth_max = 0", "model_depth_max"),
            ("housekeeping_seconds = 0", "housekeeping_seconds"),
            ("[prepare]\nsurprise = 0", "surprise"),
            ("package_bytes_max = 0", "package_bytes_max"),
            ("public_url = \"example.org\"", "public_url"),
            ("public_url = \"https://fn.Example.org\"\ndomain = \"example.org\"", "public_url"),
        ] {
            let message = load(text).expect_err("refused").to_string();
            assert!(message.contains(key), "{message}");
        }
    }
}
