//! HTTP/1.1 as far as an upstream needs it: requests with a `content-length`, on persistent
//! connections.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection, and the request that was last read from it.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Lengths of the request at the start of the buffer.
    head: usize,
    body: usize,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::with_capacity(1_024), head: 0, body: 0 }
    }

    /// Reads the next request; returns false if the client closed the connection between requests.
    pub async fn read(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.head + self.body);
        (self.head, self.body) = (0, 0);
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                self.head = end + 4;
                break;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(false);
            }
        }
        let body = content_length(self.head())?;
        while self.buffer.len() < self.head + body {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.body = body;
        Ok(true)
    }

    pub fn head(&self) -> &[u8] {
        &self.buffer[..self.head]
    }

    pub fn body(&self) -> &[u8] {
        &self.buffer[self.head..self.head + self.body]
    }

    pub async fn write(&mut self, answer: &[u8]) -> io::Result<()> {
        self.stream.write_all(answer).await
    }
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    const NAME: &[u8] = b"content-length:";
    let line = head.split(|byte| *byte == b'\n').find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)));
    let Some(line) = line else { return Ok(0) };
    let number = std::str::from_utf8(&line[NAME.len()..]).map_err(io::Error::other)?;
    number.trim().parse().map_err(io::Error::other)
}

/// A whole answer; each header in `headers` ends its own line.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
}
