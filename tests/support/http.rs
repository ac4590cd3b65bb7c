//! A small blocking HTTP/1.1 client, one connection per request.
//!
//! It is our own code, because the tests must also send what no decent client sends: bodies cut
//! short, false lengths, broken chunks. It knows `content-length` and chunked bodies and nothing
//! more.

use std::io::{self, BufReader, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// The time of silence on the socket after which a request has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request body.
pub enum Body {
    Bytes(Vec<u8>),
    /// Exactly this many bytes, read as they are sent.
    Stream(u64, Box<dyn Read + Send>),
    /// Sent with `transfer-encoding: chunked`, one chunk for each element.
    Chunked(Vec<Vec<u8>>),
}

/// A request under construction.
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Body>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: vec![], body: None }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = Some(body);
        self
    }

    #[must_use]
    pub fn bytes(self, body: impl Into<Vec<u8>>) -> Self {
        self.body(Body::Bytes(body.into()))
    }

    #[must_use]
    pub fn json(self, value: &serde_json::Value) -> Self {
        self.header("content-type", "application/json").bytes(value.to_string())
    }

    pub fn form(self, form: Form) -> Self {
        let kind = form.content_type();
        self.header("content-type", &kind).body(form.finish())
    }

    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            head.push_str("host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &self.body {
            None if self.method == "GET" => {}
            None => head.push_str("content-length: 0\r\n"),
            Some(Body::Bytes(bytes)) => head.push_str(&format!("content-length: {}\r\n", bytes.len())),
            Some(Body::Stream(length, _)) => head.push_str(&format!("content-length: {length}\r\n")),
            Some(Body::Chunked(_)) => head.push_str("transfer-encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        head
    }
}

/// A `multipart/form-data` body.
#[derive(Default)]
pub struct Form {
    parts: Vec<u8>,
}

impl Form {
    const BOUNDARY: &'static str = "batchd-test-boundary-7d1f";

    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        let part = format!("--{}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n", Self::BOUNDARY);
        self.parts.extend_from_slice(part.as_bytes());
        self
    }

    #[must_use]
    pub fn file(self, name: &str, filename: &str, content: &[u8]) -> Self {
        self.typed_file(name, filename, "application/octet-stream", content)
    }

    #[must_use]
    pub fn typed_file(mut self, name: &str, filename: &str, kind: &str, content: &[u8]) -> Self {
        let head = Self::file_head(name, filename).replace("application/octet-stream", kind);
        self.parts.extend_from_slice(head.as_bytes());
        self.parts.extend_from_slice(content);
        self.parts.extend_from_slice(b"\r\n");
        self
    }

    fn file_head(name: &str, filename: &str) -> String {
        format!(
            "--{}\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"{filename}\"\r\ncontent-type: application/octet-stream\r\n\r\n",
            Self::BOUNDARY
        )
    }

    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", Self::BOUNDARY)
    }

    /// The bytes of the form, its last boundary included.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.parts.extend_from_slice(format!("--{}--\r\n", Self::BOUNDARY).as_bytes());
        self.parts
    }

    fn finish(self) -> Body {
        Body::Bytes(self.into_bytes())
    }

    /// A form whose last part is a file of `length` bytes, read as it is sent.
    pub fn streamed(self, name: &str, filename: &str, length: u64, content: impl Read + Send + 'static) -> Body {
        let mut start = self.parts;
        start.extend_from_slice(Self::file_head(name, filename).as_bytes());
        let end = format!("\r\n--{}--\r\n", Self::BOUNDARY).into_bytes();
        let total = (start.len() + end.len()) as u64 + length;
        Body::Stream(total, Box::new(io::Cursor::new(start).chain(content.take(length)).chain(io::Cursor::new(end))))
    }
}

/// Status line and header fields, names in lower case.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If the body is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in the answer {self:?}"))
    }

    /// The body of an answer that must have this status.
    ///
    /// # Panics
    /// If the answer has another status.
    pub fn expect(&self, status: u16) -> serde_json::Value {
        assert_eq!(self.status(), status, "{}", self.text());
        self.json()
    }

    /// `error.code` of an answer that must have this status.
    pub fn error_code(&self, status: u16) -> String {
        self.expect(status)["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends the request and reads the whole answer.
///
/// # Errors
/// When the connection fails before a complete answer was read.
pub fn send(addr: SocketAddr, request: Request) -> io::Result<Response> {
    let (head, mut body) = open(addr, request)?;
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes)?;
    Ok(Response { head, body: bytes })
}

/// Sends the request and reads the answer's head; the body is read by the caller.
///
/// # Errors
/// When the connection fails before the head was read.
pub fn open(addr: SocketAddr, request: Request) -> io::Result<(Head, BodyReader)> {
    let stream = connect(addr)?;
    let mut writer = stream.try_clone()?;
    // A server may refuse before it has read everything, and then stop reading. So the body is sent
    // in parallel with the reading, and a failure to send it only matters if there is no answer.
    let sender = std::thread::spawn(move || write_request(&mut writer, request));
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    match read_head(&mut reader) {
        Ok(head) => {
            let framing = Framing::of(&head)?;
            Ok((head, BodyReader { reader, framing }))
        }
        Err(error) => {
            let _ = reader.get_ref().shutdown(Shutdown::Both);
            match sender.join() {
                Ok(Err(sending)) => Err(io::Error::new(error.kind(), format!("{error}; and while sending: {sending}"))),
                Ok(Ok(())) | Err(_) => Err(error),
            }
        }
    }
}

/// Sends these bytes, closes the sending half if `finish`, and returns everything that arrives
/// until the server closes.
///
/// # Errors
/// When the server cannot be reached, or keeps the connection open without sending.
pub fn raw(addr: SocketAddr, bytes: &[u8], finish: bool) -> io::Result<Vec<u8>> {
    let mut stream = connect(addr)?;
    let written = stream.write_all(bytes);
    if finish {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => {
            written?;
            Err(error)
        }
        Ok(_) | Err(_) => Ok(answer),
    }
}

/// Reads the first answer from the bytes that [`raw`] returned.
pub fn parse(bytes: &[u8]) -> io::Result<Response> {
    let mut reader = BufReader::new(bytes);
    let head = read_head(&mut reader)?;
    let mut framing = Framing::of(&head)?;
    let mut body = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match framing.read(&mut reader, &mut buffer)? {
            0 => return Ok(Response { head, body }),
            n => body.extend_from_slice(&buffer[..n]),
        }
    }
}

fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn write_request(stream: &mut TcpStream, request: Request) -> io::Result<()> {
    let mut head = request.head().into_bytes();
    match request.body {
        None => stream.write_all(&head),
        Some(Body::Bytes(bytes)) => {
            head.extend_from_slice(&bytes);
            stream.write_all(&head)
        }
        Some(Body::Stream(_, mut content)) => {
            stream.write_all(&head)?;
            let mut buffer = vec![0; 1 << 18];
            loop {
                match content.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => stream.write_all(&buffer[..n])?,
                }
            }
        }
        Some(Body::Chunked(chunks)) => {
            for chunk in chunks {
                head.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                head.extend_from_slice(&chunk);
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(b"0\r\n\r\n");
            stream.write_all(&head)
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn read_line(reader: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without an answer"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_head(reader: &mut impl io::BufRead) -> io::Result<Head> {
    loop {
        let status_line = read_line(reader)?;
        let status = status_line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| invalid(&status_line))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(reader)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        // 100 Continue and similar answers come before the final answer.
        if status >= 200 {
            return Ok(Head { status, headers });
        }
    }
}

enum Framing {
    Length(u64),
    /// The remaining length of the current chunk; `None` before its size was read.
    Chunked(Option<u64>),
    UntilClose,
    Done,
}

impl Framing {
    fn of(head: &Head) -> io::Result<Self> {
        if matches!(head.status, 204 | 304) {
            return Ok(Self::Done);
        }
        if head.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return Ok(Self::Chunked(None));
        }
        match head.header("content-length") {
            Some(length) => Ok(Self::Length(length.parse().map_err(|_| invalid(length))?)),
            None => Ok(Self::UntilClose),
        }
    }

    fn read(&mut self, reader: &mut impl io::BufRead, buffer: &mut [u8]) -> io::Result<usize> {
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short");
        loop {
            match self {
                Self::Done | Self::Length(0) => return Ok(0),
                Self::UntilClose => return reader.read(buffer),
                Self::Length(left) | Self::Chunked(Some(left)) if *left > 0 => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    let n = reader.read(&mut buffer[..most])?;
                    if n == 0 {
                        return Err(cut());
                    }
                    *left -= n as u64;
                    return Ok(n);
                }
                Self::Length(_) => return Ok(0),
                Self::Chunked(Some(_)) => {
                    read_line(reader).map_err(|_| cut())?;
                    *self = Self::Chunked(None);
                }
                Self::Chunked(None) => {
                    let line = read_line(reader).map_err(|_| cut())?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    match u64::from_str_radix(size, 16).map_err(|_| invalid(&line))? {
                        0 => *self = Self::Done,
                        size => *self = Self::Chunked(Some(size)),
                    }
                }
            }
        }
    }
}

/// The body of an answer as it arrives.
pub struct BodyReader {
    reader: BufReader<TcpStream>,
    framing: Framing,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.framing.read(&mut self.reader, buffer)
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        // Ends the sending thread if the server refused a body that is still being sent.
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}
