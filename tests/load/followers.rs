//! Followers of a batch, in a process of their own: this program again, with a word that is in no
//! usage text. One thread reads whatever arrives and counts it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, ExitCode, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::server::with_all_files;

/// The word that makes this program a crowd of followers.
pub const SUBCOMMAND: &str = "follow";
const BUFFER: usize = 8 << 10;
/// The text that every update contains, over either transport.
const UPDATE: &[u8] = b"job.updated";

/// How a batch is followed.
#[derive(Clone, Copy)]
pub enum Kind {
    Socket,
    Events,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "sockets",
            Self::Events => "events",
        }
    }

    fn request(self, address: &str, batch: &str) -> String {
        match self {
            Self::Socket => format!(
                "GET /v1/async/batch/{batch}/ws HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
            Self::Events => format!("GET /v1/batches/{batch}/events HTTP/1.1\r\nhost: {address}\r\n\r\n"),
        }
    }
}

/// A number of followers of one batch; they disconnect when this is dropped.
pub struct Followers {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Drop for Followers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Followers {
    /// Starts the followers, and returns when each has received the first state.
    pub fn start(kind: Kind, daemon: SocketAddr, batch: &str, count: u64) -> io::Result<Self> {
        let mut command = with_all_files(std::env::current_exe()?);
        command.args([SUBCOMMAND, kind.as_str(), &daemon.to_string(), batch, &count.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let said = child.stdout.take().ok_or_else(|| io::Error::other("it has no standard output"))?;
        let mut followers = Self { child, said: BufReader::new(said) };
        followers.line()?;
        Ok(followers)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.said.by_ref().read_line(&mut line)? {
            0 => Err(io::Error::other("the followers ended early")),
            _ => Ok(line),
        }
    }

    /// Waits until the last follower has received the end; returns the number of updates that all
    /// of them received.
    pub fn ended(mut self) -> io::Result<u64> {
        self.line()?.trim().parse().map_err(io::Error::other)
    }
}

/// Runs the followers themselves.
#[expect(clippy::print_stderr, reason = "its standard error is its log")]
pub fn main(words: &[String]) -> ExitCode {
    let followed = match words {
        [kind, address, batch, count] => follow(if kind == "sockets" { Kind::Socket } else { Kind::Events }, address, batch, count),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    match followed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn follow(kind: Kind, address: &str, batch: &str, count: &str) -> io::Result<()> {
    let count: u64 = count.parse().map_err(io::Error::other)?;
    let request = kind.request(address, batch);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut following = JoinSet::new();
        for _ in 0..count {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut buffer = vec![0; BUFFER];
            // The head, and with it or behind it the first state.
            let mut read = Vec::new();
            while memchr::memmem::find(&read, b"job.snapshot").is_none() {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Err(io::Error::other(format!("refused: {}", String::from_utf8_lossy(&read))));
                }
                read.extend_from_slice(&buffer[..n]);
            }
            following.spawn(async move { count_updates(stream, buffer).await });
        }
        say("ready")?;
        let mut updates = 0;
        while let Some(counted) = following.join_next().await {
            updates += counted.map_err(io::Error::other)?;
        }
        say(&updates.to_string())
    })
}

/// Counts updates until the end. Each update comes in one piece: updates are small, and far apart.
async fn count_updates(mut stream: TcpStream, mut buffer: Vec<u8>) -> u64 {
    let mut updates = 0;
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer).await else { return updates };
        updates += memchr::memmem::find_iter(&buffer[..n], UPDATE).count() as u64;
        // A stream of events ends, but its connection does not.
        if buffer[..n].ends_with(b"\r\n0\r\n\r\n") || buffer[..n] == *b"0\r\n\r\n" {
            return updates;
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
