//! The head of an HTTP/1.1 request, checked before hyper sees it.
//!
//! hyper mends what it can: it takes a bare line feed for the end of a line, the last of several
//! `Transfer-Encoding`s, and any number of `Host`s. A proxy in front may read the same bytes
//! differently, so here they are faults. Whatever passes has one reading: what [`Head`] says of the
//! length of the body is what hyper finds, too.

use axum::http::uri::Authority;

use crate::domain::authority;
use crate::http::layers::head_fault::HeadFault;

/// What a head says of what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub body: BodyLength,
    /// Whether the connection may become something else once the request is answered.
    pub asks_upgrade: bool,
}

/// The extent of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    Bytes(u64),
    Chunked,
}

/// Headers that decide where a request ends and whom it is for.
#[derive(Debug, Default)]
struct Decisive<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    is_chunked: bool,
    asks_upgrade: bool,
}

/// Checks a head: from its request line to the empty line behind it, inclusive. Every line feed in
/// it follows a carriage return.
///
/// # Errors
/// The first fault.
pub fn check(head: &[u8]) -> Result<Head, HeadFault> {
    let lines = head.strip_suffix(b"\r\n\r\n").unwrap_or(head).split(|byte| *byte == b'\n');
    let mut lines = (1..).zip(lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)));
    let (number, request_line) = lines.next().unwrap_or((1, b""));
    let (target, is_http11) = request_line_of(number, request_line)?;
    let mut found = Decisive::default();
    for (number, line) in lines {
        header(number, line, &mut found)?;
    }
    check_host(target, is_http11, found.host)?;
    let body = match (found.is_chunked, found.length) {
        (true, _) if !is_http11 => return Err(HeadFault::OldCoding),
        (true, Some(_)) => return Err(HeadFault::TwoLengths),
        (true, None) => BodyLength::Chunked,
        (false, length) => BodyLength::Bytes(length.unwrap_or(0)),
    };
    Ok(Head { body, asks_upgrade: found.asks_upgrade && is_http11 })
}

/// The host that the target of the request names, if it names one, and whether this is HTTP/1.1.
fn request_line_of(number: usize, line: &[u8]) -> Result<(Option<&[u8]>, bool), HeadFault> {
    no_control(number, line)?;
    let parts: Vec<_> = line.splitn(4, |byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else { return Err(HeadFault::RequestLine) };
    let is_http11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(HeadFault::RequestLine),
    };
    if !is_token(method) || target.contains(&b'\t') {
        return Err(HeadFault::RequestLine);
    }
    if target.starts_with(b"/") || target == b"*" || method == b"CONNECT" {
        return Ok((None, is_http11));
    }
    let scheme = memchr::memmem::find(target, b"://").ok_or(HeadFault::RequestLine)?;
    let rest = &target[scheme + 3..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    Ok((Some(&rest[..end]), is_http11))
}

/// Reads one header line.
fn header<'a>(number: usize, line: &'a [u8], found: &mut Decisive<'a>) -> Result<(), HeadFault> {
    no_control(number, line)?;
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(HeadFault::Folded { line: number });
    }
    let colon = memchr::memchr(b':', line).ok_or(HeadFault::NoHeader { line: number })?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if !is_token(name) {
        return Err(HeadFault::NoHeader { line: number });
    }
    if name.eq_ignore_ascii_case(b"host") {
        if found.host.replace(value).is_some() {
            return Err(HeadFault::ManyHosts);
        }
    } else if name.eq_ignore_ascii_case(b"content-length") {
        // Even the same number twice: a proxy may have added one of them.
        if found.length.replace(length(value)?).is_some() {
            return Err(HeadFault::Length);
        }
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        if found.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(HeadFault::Coding);
        }
        found.is_chunked = true;
    } else if name.eq_ignore_ascii_case(b"upgrade") {
        found.asks_upgrade = true;
    }
    Ok(())
}

/// A number of bytes. `parse` alone would take a sign.
fn length(value: &[u8]) -> Result<u64, HeadFault> {
    let digits = std::str::from_utf8(value).ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(HeadFault::Length)
}

fn check_host(target: Option<&[u8]>, is_http11: bool, host: Option<&[u8]>) -> Result<(), HeadFault> {
    let host = match host {
        Some(host) => host,
        None if is_http11 => return Err(HeadFault::NoHost),
        None => return Ok(()),
    };
    // What a client sends that has no host to name (RFC 9112, section 3.2).
    if !host.is_empty() {
        // A port may be empty.
        let named = Authority::try_from(host.strip_suffix(b":").unwrap_or(host)).map_err(|_| HeadFault::BadHost)?;
        if named.as_str().contains('@') || authority::check(&named).is_err() {
            return Err(HeadFault::BadHost);
        }
    }
    match target.is_none_or(|target| target.eq_ignore_ascii_case(host)) {
        true => Ok(()),
        false => Err(HeadFault::OtherHost),
    }
}

fn no_control(number: usize, line: &[u8]) -> Result<(), HeadFault> {
    let control = line.iter().find(|byte| byte.is_ascii_control() && **byte != b'\t');
    control.map_or(Ok(()), |byte| Err(HeadFault::Control { line: number, byte: *byte }))
}

/// Whether the bytes are a name in the sense of HTTP (RFC 9110, section 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
