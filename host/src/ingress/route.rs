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
    /// The path names the function, under a host name that all tenants share.
    pub by_path: bool,
}

/// The target of a request, or none where neither path nor host name names a function.
///
/// A host name below the domain is a function's, `{function}.{tenant}.{domain}`, or nobody's: what a path
/// says there is for the function alone, so that no tenant answers under another's name. Everywhere else
/// `/fn/{tenant}/{function}[@{selector}][/{path}]` names the function.
pub fn target(uri: &http::Uri, host: Option<&str>, domain: &str) -> Option<Target> {
    // `OPTIONS *`, or an authority in the place of a path.
    if !uri.path().starts_with('/') {
        return None;
    }
    match host.and_then(|host| below(host, domain)) {
        Some(names) => by_host(uri, &names),
        None => by_path(uri),
    }
}

/// Whether the text names a host: a name or an address, and a port where there is one. An empty one is
/// allowed where a client has no name for the host (RFC 9112, section 3.2).
pub fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<http::uri::Authority>() else { return text.is_empty() };
    let name = authority.host();
    let is_port = |port: &str| port.is_empty() || port.parse::<u16>().is_ok();
    let Some(port) = text.strip_prefix(name) else { return false };
    let has_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    let is_address = name.starts_with('[');
    let name = name.strip_suffix('.').unwrap_or(name);
    has_port && (is_address || name.split('.').all(|part| !part.is_empty()))
}

/// The part of a host name that stands before the domain.
fn below(host: &str, domain: &str) -> Option<String> {
    let host = host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    Some(host.strip_suffix(domain)?.strip_suffix('.')?.to_owned())
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
        by_path: true,
    })
}

fn by_host(uri: &http::Uri, names: &str) -> Option<Target> {
    let (function, tenant) = names.split_once('.')?;
    if function.is_empty() || tenant.is_empty() || tenant.contains('.') {
        return None;
    }
    let path = with_query(uri.path(), uri);
    Some(Target { tenant: tenant.into(), function: function.into(), selector: None, path, by_path: false })
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
    fn under_a_tenants_host_name_no_path_leads_to_another() {
        let mallory = "/fn/mallory/phish/login";
        for host in ["shop.acme.example.org", "SHOP.acme.example.org:8080", "shop.acme.example.org."] {
            assert_eq!(route(mallory, Some(host)), to("acme", "shop", None, mallory), "{host}");
        }
        for host in ["acme.example.org", "a.shop.acme.example.org"] {
            assert_eq!(route(mallory, Some(host)), None, "{host}");
        }
        for host in ["example.org", "127.0.0.1:7070", "other.net"] {
            assert_eq!(route(mallory, Some(host)), to("mallory", "phish", None, "/login"), "{host}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port_or_without() {
        for host in
            ["", "localhost", "a.b.example.org:80", "a.example.org.", "127.0.0.1:7070", "[::1]:80", "x:"]
        {
            assert!(is_host(host), "{host}");
        }
        for other in
            ["..", ".", "a..b", ".a", "a:1:2", "a:b", "a:99999", "user@a", "a/b", "a b", ":80", "a\u{e9}"]
        {
            assert!(!is_host(other), "{other}");
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

    #[test]
    fn a_name_or_path_that_was_changed_at_random_leads_somewhere_or_nowhere() {
        let hosts: [&[u8]; 3] =
            [b"hello.acme.example.org:8080", b"SHOP.acme.example.org.", b"127.0.0.1:7070"];
        let paths: [&[u8]; 3] = [b"/fn/acme/hello@live/a/b?c=d", b"/fn/acme/hello", b"/p?q=1"];
        let mut host = String::new();
        let samples: Vec<&[u8]> = hosts.into_iter().chain(paths).collect();
        crate::mutate::each(&samples, |bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            if let Ok(uri) = text.parse::<http::Uri>()
                && is_host(&host)
                && let Some(target) = target(&uri, Some(&host), "example.org")
            {
                assert!(target.path.starts_with('/'), "{:?}", target.path);
                // Below the domain nothing but the host name says whose function answers.
                let named = host.parse::<http::uri::Authority>().map(|a| a.host().to_ascii_lowercase());
                let named = named.unwrap_or_default();
                if named.strip_suffix('.').unwrap_or(&named).ends_with(".example.org") {
                    assert!(!target.by_path && named.contains(&target.tenant), "{host} and {uri}");
                }
            }
            host = text;
        });
    }
}
