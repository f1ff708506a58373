//! From a request's path or host name to the function it means.

/// What a request addresses. The names are not checked: the registry knows them or does not.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    pub tenant: String,
    pub function: String,
    /// A version number or an alias; none means `live`.
    pub selector: Option<String>,
    /// Path and query as the guest sees them; begins with `/`.
    pub path: String,
}

/// The target of a request, or none where neither path nor host name names a function.
///
/// `/fn/{tenant}/{function}[@{selector}][/{path}]` stands above `{function}.{tenant}.{domain}`.
pub fn target(uri: &http::Uri, host: Option<&str>, domain: &str) -> Option<Target> {
    by_path(uri).or_else(|| by_host(uri, host?, domain))
}

fn by_path(uri: &http::Uri) -> Option<Target> {
    let rest = uri.path().strip_prefix("/fn/")?;
    let (tenant, rest) = rest.split_once('/')?;
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (function, selector) = match name.split_once('@') {
        Some((function, selector)) => (function, Some(selector.to_string())),
        None => (name, None),
    };
    if tenant.is_empty() || function.is_empty() {
        return None;
    }
    Some(Target {
        tenant: tenant.into(),
        function: function.into(),
        selector,
        path: with_query(&format!("/{path}"), uri),
    })
}

fn by_host(uri: &http::Uri, host: &str, domain: &str) -> Option<Target> {
    let host = host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase();
    let names = host.strip_suffix(domain)?.strip_suffix('.')?;
    let (function, tenant) = names.split_once('.')?;
    if function.is_empty() || tenant.is_empty() || tenant.contains('.') {
        return None;
    }
    let path = with_query(uri.path(), uri);
    Some(Target { tenant: tenant.into(), function: function.into(), selector: None, path })
}

fn with_query(path: &str, uri: &http::Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(uri: &str, host: Option<&str>) -> Option<(String, String, Option<String>, String)> {
        let t = target(&uri.parse().expect("uri"), host, "example.org")?;
        Some((t.tenant, t.function, t.selector, t.path))
    }

    fn to(
        tenant: &str,
        function: &str,
        selector: Option<&str>,
        path: &str,
    ) -> Option<(String, String, Option<String>, String)> {
        Some((tenant.into(), function.into(), selector.map(Into::into), path.into()))
    }

    #[test]
    fn a_path_names_tenant_function_selector_and_the_guests_own_path() {
        assert_eq!(route("/fn/acme/hello", None), to("acme", "hello", None, "/"));
        assert_eq!(route("/fn/acme/hello/a/b?c=d", None), to("acme", "hello", None, "/a/b?c=d"));
        assert_eq!(route("/fn/acme/hello@3/x", None), to("acme", "hello", Some("3"), "/x"));
        assert_eq!(route("/fn/acme/hello@live?q", None), to("acme", "hello", Some("live"), "/?q"));
        for nothing in ["/", "/fn", "/fn/", "/fn/acme", "/fn//hello", "/fn/acme/", "/fnord/a/b"] {
            assert_eq!(route(nothing, None), None, "{nothing}");
        }
    }

    #[test]
    fn a_host_name_names_function_and_tenant() {
        assert_eq!(route("/p?q=1", Some("hello.acme.example.org:8080")), to("acme", "hello", None, "/p?q=1"));
        assert_eq!(route("/", Some("Hello.Acme.EXAMPLE.org")), to("acme", "hello", None, "/"));
        for nothing in [
            "example.org",
            "acme.example.org",
            "a.b.c.example.org",
            "hello.acme.example.com",
            ".x.example.org",
        ] {
            assert_eq!(route("/", Some(nothing)), None, "{nothing}");
        }
    }
}
