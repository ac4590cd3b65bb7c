//! A daemon whose places for clients are taken by sockets that say nothing.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::time::Instant;

use super::support::daemon::Daemon;
use super::support::http::{Request, send};

#[test]
fn silent_sockets_keep_neither_clients_nor_probes_out() {
    let most = ["--max-connections", "1000", "--max-connections-per-peer", "1000"];
    let daemon = Daemon::with(&[&most[..], &["--health-listen", "127.0.0.1:0"]].concat());
    let log = daemon.log_tail();
    let told = log.lines().find_map(|line| line.split_once("health is told there, too address=")).expect("the log names the address");
    let probes: SocketAddr = told.1.trim().parse().expect("an address");
    let silent: Vec<_> = (0..1_000).map(|_| TcpStream::connect(daemon.addr()).expect("the kernel takes it")).collect();
    std::thread::sleep(Duration::from_millis(1_500));
    for (address, path) in [(probes, "/healthz"), (probes, "/readyz"), (daemon.addr(), "/v1/files"), (daemon.addr(), "/v1/batches")] {
        let begun = Instant::now();
        send(address, Request::get(path)).expect("an answer").expect(200);
        assert!(begun.elapsed() < Duration::from_secs(2), "{path} took {:?}", begun.elapsed());
    }
    send(probes, Request::get("/v1/files")).expect("an answer").expect(404);
    drop(silent);
}
