//! Reads the proxies that the environment names.
//!
//! Invariant: a variable that names a proxy is obeyed or refused. The matcher alone drops values
//! that it does not understand, and then calls that should go through a proxy would go out
//! directly.

use std::env::VarError;

use hyper_util::client::proxy::matcher::Matcher;

use crate::provider::SetupError;

const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const NO: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxies that the environment variables name, as for every HTTP client.
///
/// # Errors
/// When one of the variables cannot be used. The text names the variable, but nothing of its value
/// except the scheme, because the value may hold a password.
pub(in crate::provider) fn from_env(provider: &str) -> Result<Matcher, SetupError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "no setting of this program: every HTTP client reads these variables, and without this function the matcher did"
    )]
    read(|name| std::env::var(name)).map_err(|reason| SetupError::Proxy { provider: provider.into(), reason })
}

fn read(variable: impl Fn(&str) -> Result<String, VarError>) -> Result<Matcher, String> {
    // An empty variable counts as unset and does not hide its counterpart in the other case.
    let first = |names: [&str; 2], check: fn(&str, &str) -> Result<(), String>| {
        let mut first = None;
        for name in names {
            match variable(name) {
                Ok(value) if value.is_empty() => {}
                Ok(value) => {
                    // Desktop environments write `socks://` and mean version 5.
                    let value = value.strip_prefix("socks://").map_or(value.clone(), |proxy| format!("socks5h://{proxy}"));
                    check(name, &value)?;
                    first = first.or(Some(value));
                }
                Err(VarError::NotPresent) => {}
                Err(VarError::NotUnicode(_)) => return Err(format!("`{name}` is not UTF-8")),
            }
        }
        Ok(first.unwrap_or_default())
    };
    let exempt = first(NO, |_, _| Ok(()))?;
    Ok(Matcher::builder().http(first(HTTP, check)?).https(first(HTTPS, check)?).all(first(ALL, check)?).no(exempt).build())
}

/// Asks the matcher itself, so that a value that passes here is what the matcher will use.
fn check(name: &str, value: &str) -> Result<(), String> {
    let unreadable = || format!("`{name}` is not the URL of a proxy, such as http://proxy.example:3128");
    let url: http::Uri = value.parse().map_err(|_| unreadable())?;
    if let Some(scheme) = url.scheme_str()
        && !matches!(scheme, "http" | "https" | "socks5" | "socks5h")
    {
        return Err(format!("`{name}` names a proxy of kind `{scheme}`; only http, https, socks5 and socks5h are supported"));
    }
    let any = http::Uri::from_static("http://upstream.invalid");
    let proxy = Matcher::builder().all(value).build().intercept(&any).ok_or_else(unreadable)?;
    let authority = proxy.uri().authority().ok_or_else(unreadable)?;
    // `proxy:80a` parses, without a port.
    if authority.host().is_empty() || (authority.as_str() != authority.host() && authority.port_u16().is_none()) {
        return Err(unreadable());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Matcher, String> {
        read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()).ok_or(VarError::NotPresent))
    }

    fn proxy_of(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        with(variables).unwrap().intercept(&url.parse().unwrap()).map(|proxy| proxy.uri().to_string())
    }

    #[test]
    fn every_variable_is_read_and_an_empty_one_hides_nothing() {
        let [http, https] = ["http://upstream.test", "https://upstream.test"];
        assert_eq!(proxy_of(http, &[]), None);
        assert_eq!(proxy_of(http, &[("HTTP_PROXY", ""), ("http_proxy", "proxy:1")]).unwrap(), "http://proxy:1/");
        assert_eq!(proxy_of(http, &[("HTTP_PROXY", "proxy"), ("http_proxy", "other")]).unwrap(), "http://proxy/");
        assert_eq!(proxy_of(https, &[("http_proxy", "proxy:1")]), None);
        assert_eq!(proxy_of(https, &[("https_proxy", "https://u:p@proxy:1")]).unwrap(), "https://proxy:1/");
        assert_eq!(proxy_of(https, &[("all_proxy", "socks5h://[::1]:2"), ("http_proxy", "p")]).unwrap(), "socks5h://[::1]:2/");
        assert_eq!(proxy_of(https, &[("ALL_PROXY", "proxy"), ("NO_PROXY", ""), ("no_proxy", ".test")]), None);
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_its_secrets() {
        for name in HTTP.into_iter().chain(HTTPS).chain(ALL) {
            for scheme in ["socks4", "socks4a", "htp", "ftp"] {
                let error = with(&[(name, &format!("{scheme}://user:secret@proxy:1"))]).unwrap_err();
                let expected = format!("`{name}` names a proxy of kind `{scheme}`; only http, https, socks5 and socks5h are supported");
                assert_eq!(error, expected);
            }
            for value in
                [" ", "/proxy", "http:/proxy", "http://user:secret@", "http://user:secret@:8080", "user:secret@proxy:80a", "pro xy"]
            {
                let error = with(&[(name, value)]).err().unwrap_or_else(|| panic!("{value:?} is accepted"));
                assert_eq!(error, format!("`{name}` is not the URL of a proxy, such as http://proxy.example:3128"), "{value:?}");
            }
        }
        // Refused even where another variable is used instead.
        assert!(with(&[("HTTP_PROXY", "proxy"), ("http_proxy", "socks4://proxy")]).is_err());
        assert!(read(|_| Err(VarError::NotUnicode("x".into()))).is_err());
    }
}
