//! An upstream with a delay, a limit and counters, in a process of its own: this program again,
//! with a word that is in no usage text. It is written on bare sockets in one thread, because it
//! shares its cores with the daemon: a call costs it two system calls, a timer and a connection of
//! some 2 KiB.

mod ledger;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub use ledger::{Counts, Tally};

use self::ledger::Ledger;
use self::wire::Wire;
use super::batch::ANSWER;
use super::client;
use super::options::Options;
use super::server::{Server, free_address, with_all_files};

/// The word that makes this program an upstream.
pub const SUBCOMMAND: &str = "upstream";
const OPTIONS: [(&str, u64); 9] = [
    ("port", 0),
    ("hosts", 1),
    ("delay-ms", 0),
    ("rate", 0),
    ("burst", 0),
    ("window-ms", 0),
    ("retry-after", 0),
    ("spelling", 0),
    ("dead", 0),
];
/// The mark of rows that can never be answered.
pub const DEAD: &str = "dead";
/// Connections that wait to be accepted; by default the kernel allows no more.
const BACKLOG: u32 = 4_096;
const REFUSAL: &str = r#"{"error":{"message":"Rate limit reached.","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
const FAULT: &str = r#"{"error":{"message":"This cannot be answered.","type":"server_error","param":null,"code":null}}"#;
/// The timer rounds up to a whole millisecond, and so does the kernel that it waits in: each adds
/// half a millisecond on average.
const ROUNDING: Duration = Duration::from_millis(1);

/// How an upstream behaves.
#[derive(Clone, Copy, Default)]
pub struct Behaviour {
    /// How long an answer takes. Refusals come at once.
    pub delay: Duration,
    pub limit: Option<Limit>,
    /// What a refusal says about when to try again.
    pub told: Option<Told>,
    /// The status that rows with the mark [`DEAD`] get at once.
    pub dead: Option<u16>,
}

/// A wait that a refusal asks for.
#[derive(Clone, Copy)]
pub struct Told {
    pub seconds: u64,
    pub spelling: Spelling,
}

/// How the wait is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `retry-after`, in seconds.
    Seconds,
    /// `retry-after`, as a date: whole seconds, rounded up.
    Date,
    /// `retry-after-ms`.
    Milliseconds,
}

impl Spelling {
    const ALL: [Self; 3] = [Self::Seconds, Self::Date, Self::Milliseconds];
}

impl Told {
    /// The header of a refusal that goes out now.
    #[expect(clippy::disallowed_methods, reason = "the header is a date of the wall clock")]
    fn header(self) -> String {
        match self.spelling {
            Spelling::Seconds => format!("retry-after: {}\r\n", self.seconds),
            Spelling::Date => {
                let at = SystemTime::now() + Duration::from_secs(self.seconds) + Duration::from_millis(999);
                format!("retry-after: {}\r\n", httpdate::fmt_http_date(at))
            }
            Spelling::Milliseconds => format!("retry-after-ms: {}\r\n", self.seconds * 1_000),
        }
    }
}

/// Calls that each model takes.
#[derive(Clone, Copy)]
pub struct Limit {
    /// Calls per second.
    pub rate: u64,
    pub kind: Kind,
}

/// How calls are counted.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A bucket that fills all the time and holds this many calls.
    Bucket { burst: u64 },
    /// Each window of this length has its share of the rate, and ignores the window before.
    Windows { length: Duration },
}

/// A running upstream.
pub struct Upstream {
    pub server: Server,
}

impl Upstream {
    /// Starts an upstream; it ends with this process at the latest.
    pub fn start(dir: &Path, behaviour: Behaviour) -> io::Result<Self> {
        Self::start_at(dir, behaviour, 1)
    }

    /// Starts an upstream that listens on several addresses of loopback, see [`Self::hosts`].
    pub fn start_at(dir: &Path, behaviour: Behaviour, hosts: u8) -> io::Result<Self> {
        let address = free_address()?;
        let (rate, burst, window) = match behaviour.limit {
            None => (0, 0, 0),
            Some(Limit { rate, kind: Kind::Bucket { burst } }) => (rate, burst, 0),
            Some(Limit { rate, kind: Kind::Windows { length } }) => (rate, 0, millis(length)),
        };
        let (wait, spelling) = behaviour.told.map_or((0, 0), |told| (told.seconds, told.spelling as u64));
        let values = [
            address.port().into(),
            hosts.into(),
            millis(behaviour.delay),
            rate,
            burst,
            window,
            wait,
            spelling,
            behaviour.dead.unwrap_or(0).into(),
        ];
        let mut command = with_all_files(std::env::current_exe()?);
        command.arg(SUBCOMMAND).args(OPTIONS.iter().zip(values).map(|((name, _), value)| format!("{name}={value}")));
        Ok(Self { server: Server::start(command, address, &dir.join(format!("upstream-{}.log", address.port())))? })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The first `hosts` of the upstream's addresses.
    pub fn hosts(&self, hosts: u8) -> impl Iterator<Item = SocketAddr> {
        let port = self.address().port();
        (1..=hosts).map(move |host| ([127, 0, 0, host], port).into())
    }

    /// The counts so far.
    pub fn counts(&self) -> io::Result<Counts> {
        Self::counts_at(self.address())
    }

    /// The counts so far, for a caller that has only the address.
    pub fn counts_at(address: SocketAddr) -> io::Result<Counts> {
        Ok(serde_json::from_slice(&client::get(address, "/counts", "identity")?)?)
    }

    /// Blocks until the next call comes in.
    pub fn next_call(address: SocketAddr) -> io::Result<()> {
        client::get(address, "/next", "identity").map(drop)
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// Runs the upstream itself, until its standard input closes.
#[expect(clippy::print_stderr, reason = "its standard error is its log")]
pub fn main(words: &[String]) -> ExitCode {
    match Options::read(&OPTIONS, words).and_then(|options| serve(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> io::Result<()> {
    let (rate, window) = (options.get("rate"), options.get("window-ms"));
    let kind = match window {
        0 => Kind::Bucket { burst: options.get("burst") },
        window => Kind::Windows { length: Duration::from_millis(window) },
    };
    let limit = (rate > 0).then_some(Limit { rate, kind });
    let spelling = usize::try_from(options.get("spelling")).ok().and_then(|index| Spelling::ALL.get(index).copied());
    let told = spelling.map(|spelling| Told { seconds: options.get("retry-after"), spelling }).filter(|told| told.seconds > 0);
    let dead = u16::try_from(options.get("dead")).ok().filter(|status| *status > 0);
    let behaviour = Behaviour { delay: Duration::from_millis(options.get("delay-ms")), limit, told, dead };
    let port = u16::try_from(options.get("port")).map_err(io::Error::other)?;
    let hosts = u8::try_from(options.get("hosts")).map_err(io::Error::other)?;
    let (alive, parent) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(alive);
    });
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let shared = Arc::new(Shared::new(behaviour));
        let mut listeners = JoinSet::new();
        for host in 1..=hosts {
            let socket = TcpSocket::new_v4()?;
            socket.bind(([127, 0, 0, host], port).into())?;
            listeners.spawn(accept(socket.listen(BACKLOG)?, shared.clone()));
        }
        tokio::select! {
            _ = parent => Ok(()),
            Some(ended) = listeners.join_next() => ended.map_err(io::Error::other)?,
        }
    })
}

/// State that all connections share.
struct Shared {
    delay: Duration,
    good: Vec<u8>,
    told: Option<Told>,
    /// The answer to rows that can never be answered.
    dead: Option<Vec<u8>>,
    ledger: Mutex<Ledger>,
    called: Notify,
}

impl Shared {
    fn new(behaviour: Behaviour) -> Self {
        Self {
            delay: behaviour.delay.saturating_sub(ROUNDING),
            good: wire::answer("200 OK", "", ANSWER),
            told: behaviour.told,
            dead: behaviour.dead.map(|status| wire::answer(&format!("{status} Dead"), "", FAULT)),
            ledger: Mutex::new(Ledger::new(behaviour.limit)),
            called: Notify::new(),
        }
    }

    fn refusal(&self) -> Vec<u8> {
        wire::answer("429 Too Many Requests", &self.told.map(Told::header).unwrap_or_default(), REFUSAL)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let shared = shared.clone();
                connections.spawn(async move {
                    // A client that disconnects is no error of the upstream.
                    let _ = converse(stream, &shared).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wire = Wire::new(stream);
    while wire.read().await? {
        if wire.head().starts_with(b"GET /counts ") {
            let counts = serde_json::to_string(shared.ledger().counts())?;
            wire.write(&wire::answer("200 OK", "connection: close\r\n", &counts)).await?;
            return Ok(());
        }
        if wire.head().starts_with(b"GET /next ") {
            shared.called.notified().await;
            wire.write(&wire::answer("200 OK", "connection: close\r\n", "{}")).await?;
            return Ok(());
        }
        if wire.head().starts_with(b"GET ") {
            // Servers that answer slowly list their models at once; this one has no list.
            wire.write(&wire::answer("404 Not Found", "", FAULT)).await?;
            continue;
        }
        shared.called.notify_waiters();
        if let Some(fault) = shared.dead.as_ref().filter(|_| is_dead(wire.body())) {
            wire.write(fault).await?;
            continue;
        }
        let accepted = shared.ledger().begin(wire.body(), Instant::now());
        if accepted && !shared.delay.is_zero() {
            sleep(shared.delay).await;
        }
        shared.ledger().end();
        if accepted {
            wire.write(&shared.good).await?;
        } else {
            wire.write(&shared.refusal()).await?;
        }
    }
    Ok(())
}

/// Whether a row has the mark [`DEAD`], which stands near its beginning.
fn is_dead(body: &[u8]) -> bool {
    let mark = format!(r#""user":"{DEAD}""#);
    body.windows(mark.len()).any(|part| part == mark.as_bytes())
}
