//! How a command names a function: `NAME`, `NAME@VERSION`, and for `invoke` also a path.

use std::str::FromStr;
use vesta_core::FunctionName;
use vesta_core::id::AliasName;

/// A function, with or without a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub function: FunctionName,
    pub selector: Option<Selector>,
}

/// What stands after the `@`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Version(u32),
    Alias(AliasName),
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, selector) = match text.split_once('@') {
            Some((name, selector)) => (name, Some(selector.parse()?)),
            None => (text, None),
        };
        let function = name.parse().map_err(|e: vesta_core::id::IdError| e.to_string())?;
        Ok(Target { function, selector })
    }
}

impl FromStr for Selector {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(version) = text.parse() {
            return Ok(Selector::Version(version));
        }
        let wrong = |_| format!("{text:?} is neither a version (a number) nor an alias");
        text.parse().map(Selector::Alias).map_err(wrong)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.selector {
            None => write!(f, "{}", self.function),
            Some(Selector::Version(version)) => write!(f, "{}@{version}", self.function),
            Some(Selector::Alias(alias)) => write!(f, "{}@{alias}", self.function),
        }
    }
}

/// A function and the path of a request to it, with its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub target: Target,
    /// Begins with `/`.
    pub path: String,
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(['/', '?']).unwrap_or(text.len());
        let (target, path) = text.split_at(end);
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Ok(Endpoint { target: target.parse()?, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_written() {
        for text in ["hello", "hello@3", "text-embed@live"] {
            assert_eq!(text.parse::<Target>().expect(text).to_string(), text);
        }
        for bad in ["", "@3", "hello@", "Hello", "a b", "hello@-", "../x", "hello@3@4"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_has_a_path_that_begins_with_a_slash() {
        for (text, target, path) in [
            ("hello", "hello", "/"),
            ("hello/", "hello", "/"),
            ("hello@2/a/b?c=d", "hello@2", "/a/b?c=d"),
            ("hello?c=d@e", "hello", "/?c=d@e"),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!((endpoint.target.to_string().as_str(), endpoint.path.as_str()), (target, path));
        }
        assert!("/x".parse::<Endpoint>().is_err());
    }
}
