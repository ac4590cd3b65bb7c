//! Outages over real sockets: a server that is down in every way that is usual, for a few seconds. No
//! row is lost, few calls are made meanwhile, and the batch says why its rows wait.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::api::counts;
use crate::support::seeds::Seeds;
use crate::support::upstream::{Call, FakeUpstream, Reply};
use crate::support::{rows, wait};

/// What is wrong with the server.
#[derive(Debug, Clone, Copy)]
enum Outage {
    /// The server answers so.
    Answers(fn(&Call) -> Reply),
    /// Nothing listens at its address.
    Refused,
    /// Its name is not known, until the catalog is mended.
    NoName,
    /// TLS is spoken to a port that does not speak it, until the catalog is mended.
    NotTls,
}

use Outage::{Answers, NoName, NotTls, Refused};

/// Each kind with the reason that the batch shows, and a part of what is said to it.
const DOWN: [(&str, Outage, &str, &str); 9] = [
    ("503", Answers(|_| Reply::error(503)), "failing", "503"),
    ("502", Answers(|_| Reply::new(502, "<html>Bad Gateway</html>")), "failing", "502"),
    ("500", Answers(|_| Reply::error(500)), "failing", "500"),
    ("429", Answers(|_| Reply::error(429)), "rate_limited", "429"),
    ("reset", Answers(|_| Reply::reset()), "failing", "connection"),
    ("timeout", Answers(|_| Reply::stall()), "failing", "300"),
    ("refused", Refused, "unreachable", "refused"),
    ("no such name", NoName, "unreachable", "server.invalid"),
    ("broken TLS", NotTls, "unreachable", "TLS"),
];

const DENIED: [(&str, Outage, &str, &str); 5] = [
    ("401", Answers(|_| denied(401, "invalid_api_key", "Incorrect API key provided")), "key_refused", "Incorrect API key"),
    ("402", Answers(|_| denied(402, "", "Insufficient Balance")), "no_credit", "Insufficient Balance"),
    ("403", Answers(|_| denied(403, "", "Country, region, or territory not supported")), "access_denied", "Country"),
    ("404", Answers(|_| denied(404, "model_not_found", "The model `m` does not exist")), "model_unknown", "does not exist"),
    ("quota", Answers(|_| denied(429, "insufficient_quota", "You exceeded your current quota")), "no_credit", "quota"),
];

fn denied(status: u16, code: &str, message: &str) -> Reply {
    Reply::new(status, format!(r#"{{"error":{{"message":"{message}","type":"scripted","code":"{code}"}}}}"#))
}

/// A listener that passes connections on to a server, from the moment at which it is opened.
fn pass_on(listener: TcpListener, to: String) {
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let Ok(mut server) = std::net::TcpStream::connect(&to) else { continue };
            let (Ok(mut from_server), Ok(mut to_client)) = (server.try_clone(), client.try_clone()) else { continue };
            std::thread::spawn(move || {
                std::io::copy(&mut from_server, &mut to_client).map(|_| to_client.shutdown(std::net::Shutdown::Both))
            });
            std::thread::spawn(move || {
                let mut buffer = [0; 16 << 10];
                while let Ok(read @ 1..) = client.read(&mut buffer) {
                    if server.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A server that answers a greeting in TLS as plain servers do.
fn without_tls() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            // Whatever the client makes of it.
            let _ = client.read(&mut [0; 4 << 10]);
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        }
    });
    address
}

/// The longest that it may take until the reason can be seen.
const SEEN: Duration = wait::A_WHILE;

/// Runs three batches through an outage that ends when its reason has been seen, and three seconds have
/// passed.
fn survives((name, outage, reason, said): (&str, Outage, &str, &str)) {
    let (down, vain) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let (is_down, in_vain) = (down.clone(), vain.clone());
    let upstream = FakeUpstream::start(move |call| match outage {
        Answers(reply) if is_down.load(SeqCst) => {
            in_vain.fetch_add(1, SeqCst);
            reply(call)
        }
        _ => Reply::ok(call),
    });
    // Reserved, and free until somebody listens there.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let right = upstream.url();
    let url = match outage {
        Answers(_) => right.clone(),
        Refused => format!("http://{free}"),
        NoName => "http://server.invalid".to_owned(),
        NotTls => format!("https://{}", without_tls()),
    };
    let seeds = Seeds::new();
    let provider = |url: &str, name: &str| {
        format!("schema = 1\nid = \"p\"\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"{url}\"\n[timeouts]\ntotal = \"300ms\"\n")
    };
    seeds.write("providers/p.toml", provider(&url, "P"));
    seeds.write(
        "models/m.toml",
        "schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nendpoints = [\"/v1/chat/completions\"]\n[[model.offering]]\nprovider = \"p\"\n",
    );
    let daemon = seeds.daemon(&["--retry-base", "5ms", "--retry-cap", "50ms"]);
    let began = Instant::now();
    let batches = [1, 20, 64].map(|count| (count, daemon.submit(rows::many(count, "m"))));

    for (count, id) in &batches {
        let shown =
            wait::poll(SEEN, || Some(daemon.batch(id)["batchd"]["waiting"][0].clone()).filter(|waiting| waiting["reason"] == reason));
        let shown = shown.unwrap_or_else(|| panic!("{name}: {}", daemon.batch(id)));
        assert_eq!((&shown["lane"], shown["rows"].as_u64()), (&Value::from("p/m"), Some(*count as u64)), "{name}: {shown}");
        assert!(shown["provider_said"].as_str().is_some_and(|text| text.contains(said)), "{name}: {shown}");
    }
    let lanes = daemon.get("/admin/lanes").expect(200);
    assert!(lanes.to_string().contains(reason), "{name}: {lanes}");
    std::thread::sleep(Duration::from_secs(3).saturating_sub(began.elapsed()));

    down.store(false, SeqCst);
    let calls = vain.load(SeqCst);
    match outage {
        // Whatever changes may be what was wrong: a lane that is held looks at once.
        Answers(_) => seeds.write("providers/p.toml", provider(&right, "Another")),
        Refused => pass_on(TcpListener::bind(free).expect("the port is free"), right.trim_start_matches("http://").to_owned()),
        NoName | NotTls => seeds.write("providers/p.toml", provider(&right, "P")),
    }
    if !matches!(outage, Refused) {
        assert_eq!(daemon.post_empty("/admin/catalog/reload").expect(200)["status"], "reloaded", "{name}");
    }
    // Those in flight when the circuit opens or the lane is held, and a few a second.
    let most = 64 + 4 * (began.elapsed().as_secs() + 1);
    assert!(calls <= most, "{name}: {calls} calls in vain, of {most}");
    for (count, id) in &batches {
        let count = *count as u64;
        let batch = daemon.wait_ended(id, wait::A_WHILE);
        assert_eq!((batch["status"].as_str(), counts(&batch)), (Some("completed"), (count, count, 0)), "{name}: {batch}");
    }
}

/// Beside one another: most of the time goes into waiting.
fn all_survive(outages: &[(&'static str, Outage, &'static str, &'static str)]) {
    std::thread::scope(|scope| {
        let running: Vec<_> = outages.iter().map(|outage| scope.spawn(|| survives(*outage))).collect();
        for ended in running {
            ended.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

#[test]
fn no_row_is_lost_to_a_server_that_is_down_for_seconds() {
    all_survive(&DOWN[..5]);
    all_survive(&DOWN[5..]);
}

#[test]
fn no_row_is_lost_to_a_provider_that_denies_everything_for_seconds() {
    all_survive(&DENIED);
}
