//! Links that are valid for a while and need no key: the file that they lead to, the end of their
//! validity, and the daemon's signature over both.

use std::time::Duration;

use axum::http::header::HOST;
use axum::http::{HeaderMap, Uri};

use super::error::ApiError;
use crate::domain::error::Code;
use crate::domain::id::FileId;
use crate::domain::time::{Timestamp, later};
use crate::store::Seal;

/// How long a link is valid, as observed.
const GOOD_FOR: Duration = Duration::from_secs(15 * 60);
/// The paths that such links lead to.
const FOLDERS: [&str; 2] = ["/v1/files/", "/batchrouter/v1/files/"];

/// The file that a link leads to, among the extensions of a request that used the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed(pub FileId);

/// A link that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub url: String,
    pub expires_at: Timestamp,
}

/// The base URL of this daemon, as its client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base(String);

impl Base {
    /// The base URL: the public URL of the settings, or else the host that the request names.
    pub fn of(public: Option<&str>, headers: &HeaderMap) -> Self {
        let host = || headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        Self(public.map_or_else(|| format!("http://{}", host()), |url| url.trim_end_matches('/').to_owned()))
    }

    /// A base URL that is already known.
    pub fn at(url: String) -> Self {
        Self(url)
    }

    /// The absolute URL of a path.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// A link to a file.
    pub fn link(&self, seal: &Seal, file: FileId, now: Timestamp) -> Link {
        let expires_at = later(now, GOOD_FOR);
        Link { url: self.join(&seal.link(file, expires_at.as_second())), expires_at }
    }
}

/// The file of the link that a request used; `None` if the request did not use a link.
///
/// # Errors
/// When the link is invalid or has expired.
pub fn signed(uri: &Uri, seal: &Seal, now: Timestamp) -> Option<Result<Signed, ApiError>> {
    let name = FOLDERS.iter().find_map(|folder| uri.path().strip_prefix(folder))?;
    let member = |wanted: &str| {
        let mut pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    let signature = member("signature")?;
    let checked = || {
        let file = name.parse::<FileId>().ok()?;
        let expires = member("expires")?.parse::<i64>().ok()?;
        // Checked before the expiry, so that only a client with a genuine link learns that it has
        // expired.
        seal.is_link(file, expires, signature).then_some((Signed(file), expires))
    };
    Some(match checked() {
        Some((signed, expires)) if now.as_second() < expires => Ok(signed),
        Some(_) => Err(ApiError::new(Code::Forbidden, "the link has expired; ask for a new one")),
        None => Err(ApiError::new(Code::Forbidden, "the signature of the link is not good; use the link as it was given")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_good_for_its_file_and_its_time_alone() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let seal = |dir: &tempfile::TempDir| Seal::for_tests(dir.path());
        let (seal, foreign) = (seal(&dir), seal(&other));
        let at = |second: i64| Timestamp::from_second(1_790_000_000 + second).unwrap();
        let file = FileId::from_u128(7);
        let headers = HeaderMap::from_iter([(HOST, "localhost:7400".parse().unwrap())]);
        let link = Base::of(None, &headers).link(&seal, file, at(0));
        assert!(link.url.starts_with("http://localhost:7400/v1/files/file_0"), "{}", link.url);
        assert_eq!(link.url.split("signature=").nth(1).map(str::len), Some(43));
        let uri: Uri = link.url.parse().unwrap();
        assert_eq!(signed(&uri, &seal, at(899)).unwrap().unwrap(), Signed(file));
        assert!(signed(&uri, &seal, at(900)).unwrap().is_err());
        assert!(signed(&uri, &foreign, at(0)).unwrap().is_err());
        for (from, to) in [("00007?", "00008?"), ("expires=179", "expires=189"), ("signature=", "signature=A"), ("expires=", "until=")] {
            let forged: Uri = link.url.replace(from, to).parse().unwrap();
            assert!(signed(&forged, &seal, at(0)).unwrap().is_err(), "{forged}");
        }
        assert!(signed(&"/v1/files/file_1?limit=1".parse().unwrap(), &seal, at(0)).is_none());
        assert!(signed(&"/v1/batches/x?signature=a".parse().unwrap(), &seal, at(0)).is_none());
        assert_eq!(Base::of(Some("https://batch.example/"), &headers).join("/v1"), "https://batch.example/v1");
    }
}
