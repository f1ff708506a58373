//! Where the command line finds its host and its key: flags, then the environment, then the file.

use super::exit::{Exit, Failure};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use vesta_core::TenantName;

const URL: &str = "http://127.0.0.1:7071";

/// The configuration file: `$VESTA_CONFIG`, or `vesta/config.toml` in the user's configuration directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// The control API.
    pub url: Option<String>,
    /// Invocations.
    pub invoke_url: Option<String>,
    pub key: Option<String>,
}

/// Which host, and as whom; the flags of every command that talks to a host.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// URL of the control API
    #[arg(long, env = "VESTA_URL", value_name = "URL")]
    pub url: Option<String>,
    /// URL of invocations
    #[arg(long, env = "VESTA_INVOKE_URL", value_name = "URL")]
    pub invoke_url: Option<String>,
    /// API key
    #[arg(long, env = "VESTA_KEY", hide_env_values = true, value_name = "KEY")]
    pub key: Option<String>,
    /// The tenant to act on, with an operator's key
    #[arg(long, env = "VESTA_TENANT", value_name = "NAME")]
    pub tenant: Option<TenantName>,
}

/// What a command works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub url: String,
    /// Where it is not set, the host is asked.
    pub invoke_url: Option<String>,
    pub key: Option<String>,
    pub tenant: Option<TenantName>,
}

impl Connection {
    pub fn settings(&self) -> anyhow::Result<Settings> {
        self.over(ConfigFile::load()?)
    }

    fn over(&self, file: ConfigFile) -> anyhow::Result<Settings> {
        let first = |flag: &Option<String>, file| flag.clone().filter(|t| !t.is_empty()).or(file);
        let same_host = self.url.as_ref().is_none_or(String::is_empty) || file.url == self.url;
        // The file's address of invocations belongs to the file's host.
        let invoke_url = first(&self.invoke_url, file.invoke_url.filter(|_| same_host));
        Ok(Settings {
            url: checked_url(first(&self.url, file.url).as_deref().unwrap_or(URL))?,
            invoke_url: invoke_url.as_deref().map(checked_url).transpose()?,
            key: first(&self.key, file.key).map(|k| k.trim().to_string()),
            tenant: self.tenant.clone(),
        })
    }
}

/// An http or https URL without the slash at its end; `http://` is added where there is no scheme.
pub fn checked_url(text: &str) -> anyhow::Result<String> {
    let url = if text.contains("://") { text.to_string() } else { format!("http://{text}") };
    let of_host = |uri: http::Uri| {
        let scheme = uri.scheme_str().unwrap_or_default();
        matches!(scheme, "http" | "https")
            && uri.host().is_some_and(|h| !h.is_empty())
            && uri.query().is_none()
    };
    match url.parse().is_ok_and(of_host) {
        true => Ok(url.trim_end_matches('/').to_string()),
        false => Err(Failure::error(Exit::Usage, format!("{text:?} is not an http or https URL of a host"))),
    }
}

impl ConfigFile {
    pub fn path() -> anyhow::Result<PathBuf> {
        if let Some(path) = std::env::var_os("VESTA_CONFIG").filter(|p| !p.is_empty()) {
            return Ok(path.into());
        }
        let dirs = directories::BaseDirs::new().context("no home directory; set VESTA_CONFIG")?;
        Ok(dirs.config_dir().join("vesta").join("config.toml"))
    }

    /// The file's content; the defaults where there is none.
    pub fn load() -> anyhow::Result<Self> {
        let path = Self::path()?;
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{}", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| format!("{}", path.display())),
        }
    }

    /// Writes the file at once or not at all, readable by its owner only.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || -> anyhow::Result<()> {
            std::fs::create_dir_all(dir)?;
            // A temporary file is made with mode 0600, and keeps it.
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(toml::to_string(self)?.as_bytes())?;
            file.persist(path)?;
            Ok(())
        };
        write().with_context(|| format!("{}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn flags_go_before_the_file_and_the_file_before_the_defaults() {
        let file =
            ConfigFile { url: Some("http://file:1/".into()), key: Some("k\n".into()), ..Default::default() };
        let file = ConfigFile { invoke_url: Some("file:3".into()), ..file };
        let plain = Connection::default().over(file.clone()).expect("sound");
        assert_eq!(plain.url, "http://file:1");
        assert_eq!(plain.invoke_url.as_deref(), Some("http://file:3"));
        assert_eq!(plain.key.as_deref(), Some("k"));
        let flags = Connection { url: Some("flag:2".into()), ..Default::default() };
        let flags = flags.over(file).expect("sound");
        assert_eq!((flags.url.as_str(), flags.invoke_url), ("http://flag:2", None));
    }

    #[test]
    fn what_is_not_a_url_of_a_host_is_refused() {
        for bad in ["ftp://x", "http://", "a b", "http://x?y=z", ""] {
            assert!(checked_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_file_is_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a/b/config.toml");
        let file = ConfigFile { key: Some("secret".into()), ..Default::default() };
        file.save(&path).expect("saved");
        let mode = path.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read: ConfigFile = toml::from_str(&std::fs::read_to_string(&path).expect("read")).expect("toml");
        assert_eq!(read, file);
    }
}
