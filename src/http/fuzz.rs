//! What strangers may send, for the fuzz targets of `tests/fuzz`: each function takes any bytes and
//! panics where a rule does not hold.

use axum::http::Uri;
use bytes::Bytes;

use super::dialect::of_create;
use super::request::Object;
use super::request::json_digest::digest;
use super::server::framing::{Framing, Stop};
use super::{batchrouter, phaseo};
use crate::domain::webhook::target_policy::Targets;

/// The longest head, in bytes: as short as lets both kinds of heads be met.
const MAX_HEAD: usize = 1 << 10;

/// The bytes of a connection mean the same however they arrive. The first byte tells where they are
/// divided.
pub fn heads(bytes: &[u8]) {
    let Some((place, bytes)) = bytes.split_first() else { return };
    let place = usize::from(*place) % (bytes.len() + 1);
    let (mut at_once, mut divided) = (Framing::new(MAX_HEAD), Framing::new(MAX_HEAD));
    let whole = at_once.scan(bytes);
    assert!(whole.clear <= bytes.len());
    let first = divided.scan(&bytes[..place]);
    let (clear, stop) = match first.stop {
        Some(stop) => (first.clear, Some(stop)),
        None => {
            let rest = divided.scan(&bytes[first.clear..]);
            (first.clear + rest.clear, rest.stop)
        }
    };
    assert_eq!((stop, divided.heads()), (whole.stop, at_once.heads()));
    // Of a body that turns out to be at fault, more has passed if it came in parts.
    assert!(clear == whole.clear || stop == Some(Stop::BadChunk) && clear > whole.clear, "{clear} {whole:?}");
}

/// Any body of a create is read or refused, in every dialect.
pub fn bodies(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let _ = of_create(&body);
    let _ = batchrouter::batches::create_body::CreateBody::read(&body);
    let _ = phaseo::batches::create_body::CreateBody::read(&body);
    let read = Object::read(body.clone());
    // Two bodies of the same content have the same digest, whatever the space between their parts.
    if let (Ok(_), Ok(value)) = (read, serde_json::from_slice::<serde_json::Value>(&body)) {
        let spaced = serde_json::to_vec_pretty(&value).unwrap_or_default();
        if serde_json::from_slice::<serde_json::Value>(&spaced).is_ok_and(|again| again == value) {
            let tight = serde_json::to_vec(&value).unwrap_or_default();
            assert_eq!(digest(&tight).ok(), digest(&spaced).ok());
        }
    }
}

/// A receiver's URL is good for the public targets only if it is good for all, and never names a host
/// that cannot be called.
pub fn webhook_urls(bytes: &[u8]) {
    let Some(url) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Uri>().ok()) else { return };
    if Targets::Public.check(&url).is_ok() {
        assert!(Targets::Any.check(&url).is_ok(), "{url}");
        assert_eq!(url.scheme_str(), Some("https"), "{url}");
        assert!(url.host().is_some_and(|host| !host.is_empty()), "{url}");
    }
}
