//! `GET /v1/catalog/models` on the shipped catalog, against nginx serving the same bytes as a file:
//! same connections, same cores, taking turns.

use std::fmt::Write as _;
use std::{fs, io};

use super::peers::{Server, get, wrk};

const PATH: &str = "/v1/catalog/models";

pub fn run(rounds: u32, seconds: u32) -> io::Result<String> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let daemon = Server::batchd(dir.path())?;
    // nginx serves the compressed form of a file that lies beside it.
    let (plain, packed) = (get(daemon.address, PATH, "identity")?, get(daemon.address, PATH, "gzip")?);
    fs::write(dir.path().join("models.json"), &plain)?;
    fs::write(dir.path().join("models.json.gz"), &packed)?;
    let nginx = Server::nginx(dir.path())?;
    let mut report = format!("{PATH} against nginx, 64 connections, one core each side, {rounds} rounds of {seconds} s\n");
    for (coding, bytes) in [(None, plain.len()), (Some("gzip"), packed.len())] {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let urls = [format!("http://{}/models.json", nginx.address), format!("http://{}{PATH}", daemon.address)];
            for (url, rates) in urls.iter().zip(&mut rates) {
                let load = wrk(url, coding, seconds)?;
                if let Some(trouble) = load.trouble {
                    return Err(io::Error::other(format!("{url}: {trouble}")));
                }
                rates.push(load.per_second);
            }
        }
        let [ceiling, ours] = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        let name = coding.unwrap_or("identity");
        let _ = writeln!(report, "{name:8} {bytes:>7} bytes: nginx {ceiling:>8.0}/s, batchd {ours:>8.0}/s, ratio {:.2}", ours / ceiling);
    }
    Ok(report)
}
