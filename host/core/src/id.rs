//! Names and identifiers, checked where they enter.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest function or tenant name, in bytes: both are labels of a host name (RFC 1035).
pub const NAME_LEN_MAX: usize = 63;

/// Why a name or an identifier was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error(
        "{kind} {value:?} must be 1 to {NAME_LEN_MAX} of a-z, 0-9 and '-', and must not begin or end with '-'"
    )]
    Name { kind: &'static str, value: String },
    #[error("digest {0:?} must be 'sha256:' and 64 lower-case hexadecimal digits")]
    Digest(String),
    #[error("invocation id {0:?} must be a ULID: 26 characters of Crockford's base 32")]
    Invocation(String),
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    (1..=NAME_LEN_MAX).contains(&b.len())
        && b.iter().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && b[0] != b'-'
        && b[b.len() - 1] != b'-'
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                if is_label(s) {
                    Ok(Self(s.into()))
                } else {
                    Err(IdError::Name { kind: $kind, value: s.chars().take(80).collect() })
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0.to_string()
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name_type!(
    /// The name of a tenant: a label of a host name.
    TenantName, "tenant name");
name_type!(
    /// The name of a function: a label of a host name, unique within its tenant.
    FunctionName, "function name");
name_type!(
    /// The name of an alias of a function, such as `live`.
    AliasName, "alias");

/// The alias that invocations without a version or alias follow.
pub const LIVE: &str = "live";

/// A SHA-256 digest of a blob's bytes, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// The 64 hexadecimal digits without the algorithm: a safe file name.
    pub fn hex(&self) -> String {
        use fmt::Write;
        self.0.iter().fold(String::with_capacity(64), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })
    }
}
impl FromStr for Digest {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let bad = || IdError::Digest(s.chars().take(80).collect());
        let hex = s.strip_prefix("sha256:").ok_or_else(bad)?.as_bytes();
        if hex.len() != 64 {
            return Err(bad());
        }
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = (digit(pair[0]).ok_or_else(bad)? << 4) | digit(pair[1]).ok_or_else(bad)?;
        }
        Ok(Self(out))
    }
}
impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}
impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.to_string()
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The permanent, unique id of an invocation and of its usage record: a ULID, so that ids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InvocationId(ulid::Ulid);

impl InvocationId {
    /// From the wall clock in milliseconds since 1970 and 80 random bits.
    pub fn new(unix_ms: u64, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(unix_ms, random))
    }
}
impl FromStr for InvocationId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        ulid::Ulid::from_string(s).map(Self).map_err(|_| IdError::Invocation(s.chars().take(80).collect()))
    }
}
impl TryFrom<String> for InvocationId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}
impl From<InvocationId> for String {
    fn from(i: InvocationId) -> String {
        i.0.to_string()
    }
}
impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_of_a_host_name() {
        for good in ["a", "text-embed", "x9", &"a".repeat(63)] {
            assert!(good.parse::<FunctionName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_read_back_as_written() {
        let d = Digest::from_bytes(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(d.to_string().parse::<Digest>(), Ok(d));
        assert!("sha256:00".parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "G".repeat(64)).parse::<Digest>().is_err());
        assert!(format!("md5:{}", d.hex()).parse::<Digest>().is_err());
    }
}
