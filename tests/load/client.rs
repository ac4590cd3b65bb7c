//! A plain HTTP/1.1 client, one connection per request: bodies go out and come in through a buffer,
//! so that a file of any size costs no memory here.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use serde_json::Value;

const BUFFER: usize = 256 << 10;
const BOUNDARY: &str = "load-form-2f0c6d";

/// Gets the body of one answer.
pub fn get(address: SocketAddr, path: &str, coding: &str) -> io::Result<Vec<u8>> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept-encoding: {coding}\r\nconnection: close\r\n\r\n");
    exchange(address, &head, io::empty())?.whole()
}

/// Gets the body of one answer as JSON.
pub fn get_json(address: SocketAddr, path: &str) -> io::Result<Value> {
    Ok(serde_json::from_slice(&get(address, path, "identity")?)?)
}

/// Posts JSON; returns the answer.
pub fn post_json(address: SocketAddr, path: &str, body: &Value) -> io::Result<Value> {
    let body = body.to_string();
    let head = post_head(address, path, "application/json", body.len() as u64);
    Ok(serde_json::from_slice(&exchange(address, &head, body.as_bytes())?.whole()?)?)
}

/// Uploads a file for a batch; returns its id.
pub fn upload(address: SocketAddr, path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let start = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"input.jsonl\"\r\n\r\n"
    );
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let length = start.len() as u64 + file.metadata()?.len() + end.len() as u64;
    let head = post_head(address, "/v1/files", &format!("multipart/form-data; boundary={BOUNDARY}"), length);
    let answer = exchange(address, &head, start.as_bytes().chain(file).chain(end.as_bytes()))?.whole()?;
    text_field(&serde_json::from_slice(&answer)?, "id")
}

/// Reads a file to its end, each piece into `sink`; returns its length.
pub fn download(address: SocketAddr, path: &str, mut sink: impl Write) -> io::Result<u64> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut answer = exchange(address, &head, io::empty())?;
    let mut buffer = vec![0; BUFFER];
    let mut length = 0;
    loop {
        match answer.body.read(&mut buffer)? {
            0 => break,
            n => {
                sink.write_all(&buffer[..n])?;
                length += n as u64;
            }
        }
    }
    if answer.length.is_some_and(|announced| announced != length) {
        return Err(io::Error::other(format!("{path} ended after {length} bytes")));
    }
    Ok(length)
}

/// A text field of a JSON object.
pub fn text_field(value: &Value, name: &str) -> io::Result<String> {
    value[name].as_str().map(str::to_owned).ok_or_else(|| io::Error::other(format!("no `{name}` in {value}")))
}

fn post_head(address: SocketAddr, path: &str, kind: &str, length: u64) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")
}

/// A successful answer, read up to its body.
struct Answer {
    length: Option<u64>,
    body: BufReader<TcpStream>,
}

impl Answer {
    fn whole(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.body.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn exchange(address: SocketAddr, head: &str, mut body: impl Read) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(head.as_bytes())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match body.read(&mut buffer)? {
            0 => break,
            n => stream.write_all(&buffer[..n])?,
        }
    }
    let mut body = BufReader::with_capacity(BUFFER, stream);
    let (mut status, mut length) = (String::new(), None);
    body.read_line(&mut status)?;
    loop {
        let mut line = String::new();
        body.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
    }
    let answer = Answer { length, body };
    if status.starts_with("HTTP/1.1 200") {
        return Ok(answer);
    }
    Err(io::Error::other(format!("{}: {}", status.trim(), String::from_utf8_lossy(&answer.whole()?))))
}
