//! A real model server as a child process.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::support::daemon::{signal, wait_exit};
use super::support::http::{self, Request, Response};
use super::support::wait;

/// What the servers call the model.
pub const MODEL: &str = "tiny-llama";
/// A slow line, and a build on a busy machine.
const INSTALL_LIMIT: Duration = Duration::from_secs(3_600);
/// vLLM imports for a minute where others work, too.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Llama,
    Vllm,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Vllm => "vllm",
        }
    }
}

fn installed() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    target.join("real_servers")
}

/// Runs the script, which does nothing if it has run before.
fn install(kind: Kind) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_servers/install.sh");
    let mut install = Command::new("sh");
    install.arg(script).arg(installed()).arg(kind.name()).stdin(Stdio::null());
    let mut child = install.spawn().expect("sh runs");
    let status = wait_exit(&mut child, INSTALL_LIMIT);
    assert!(status.is_some_and(|status| status.success()), "install.sh {}: {status:?}", kind.name());
}

/// A model server; its whole process group ends with it.
pub struct Server {
    kind: Kind,
    addr: SocketAddr,
    args: Vec<String>,
    child: Option<Child>,
    /// Those that were stopped.
    ending: Vec<Child>,
}

impl Server {
    /// Starts a server with further arguments, and waits until it serves.
    pub fn start(kind: Kind, args: &[&str]) -> Self {
        let mut server = Self::stopped(kind, args);
        server.launch();
        server.wait_serving();
        server
    }

    /// A server that does not run yet.
    pub fn stopped(kind: Kind, args: &[&str]) -> Self {
        install(kind);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = free.local_addr().expect("its address");
        Self { kind, addr, args: args.iter().map(|arg| (*arg).to_owned()).collect(), child: None, ending: vec![] }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Each server computes with one thread: threads that wait for each other measure what else the
    /// machine does.
    fn command(&self) -> Command {
        let folder = installed();
        let mut command = match self.kind {
            Kind::Llama => {
                let mut command = Command::new(folder.join("llama/llama-server"));
                command.arg("--model").arg(folder.join("model/tiny-llama.gguf")).args(["--alias", MODEL, "--metrics"]);
                command.args(["--threads", "1", "--threads-batch", "1"]);
                command
            }
            Kind::Vllm => {
                // Its command asks for a package named `vllm`, which that for the CPU is not.
                let mut command = Command::new(folder.join("vllm/bin/python"));
                command.args(["-m", "vllm.entrypoints.openai.api_server", "--served-model-name", MODEL, "--dtype", "float32"]);
                command.args(["--enforce-eager", "--max-model-len", "1024", "--model"]).arg(folder.join("model/tiny-llama"));
                command.envs([("VLLM_TARGET_DEVICE", "cpu"), ("VLLM_CPU_KVCACHE_SPACE", "1"), ("VLLM_CPU_OMP_THREADS_BIND", "nobind")]);
                command.envs([("VLLM_NO_USAGE_STATS", "1"), ("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")]);
                command
            }
        };
        let port = self.addr.port().to_string();
        command.args(["--host", "127.0.0.1", "--port", &port]).args(&self.args).env("HOME", folder.join("home"));
        command
    }

    /// Starts the process, without waiting.
    pub fn launch(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log()).expect("a log file");
        let errors: File = log.try_clone().expect("a second handle");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        self.child = Some(command.spawn().expect("the server starts"));
    }

    fn log(&self) -> PathBuf {
        installed().join(format!("{}-{}.log", self.kind.name(), self.addr.port()))
    }

    pub fn send(&self, request: Request) -> std::io::Result<Response> {
        http::send(self.addr, request)
    }

    /// The status of its health at the moment; `None` if nobody answers.
    pub fn health(&self) -> Option<u16> {
        self.send(Request::get("/health")).ok().map(|answer| answer.status())
    }

    /// Waits until the server serves; returns the other states of health that it had before.
    pub fn wait_serving(&mut self) -> Vec<u16> {
        let mut before = vec![];
        let end = Instant::now() + START_LIMIT;
        while Instant::now() < end {
            match self.health() {
                Some(200) => return before,
                Some(other) if before.last() != Some(&other) => before.push(other),
                Some(_) | None => {}
            }
            let exit = self.child.as_mut().and_then(|child| child.try_wait().expect("the state of the server"));
            assert!(exit.is_none(), "the server ended ({exit:?}); its log: {}", self.log().display());
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server does not serve after {START_LIMIT:?}; its log: {}", self.log().display());
    }

    /// Ends the server by a signal, such as `TERM`; returns how long it took until nobody listened.
    /// vLLM then goes on for as long as calls are open, which it never answers.
    pub fn stop(&mut self, name: &str) -> Duration {
        let began = Instant::now();
        let child = self.child.take().expect("the server runs");
        signal(child.id(), name);
        self.ending.push(child);
        while TcpStream::connect(self.addr).is_ok() {
            assert!(began.elapsed() < STOP_LIMIT, "it listens {STOP_LIMIT:?} after SIG{name}");
            std::thread::sleep(Duration::from_millis(20));
        }
        began.elapsed()
    }

    /// Whether a server that was stopped is still there.
    pub fn lingers(&mut self) -> bool {
        self.ending.iter_mut().any(|child| child.try_wait().expect("the state of the server").is_none())
    }
}

/// Ends what a server may have left behind.
fn end_group(leader: u32) {
    let _ = Command::new("sh").arg("-c").arg(format!("kill -KILL -{leader} 2>/dev/null")).status();
}

impl Drop for Server {
    fn drop(&mut self) {
        for mut child in self.child.take().into_iter().chain(self.ending.drain(..)) {
            end_group(child.id());
            let _ = child.wait();
        }
        if std::thread::panicking() {
            wait::say(&format!("log of the server: {}", self.log().display()));
        } else {
            let _ = std::fs::remove_file(self.log());
        }
    }
}
