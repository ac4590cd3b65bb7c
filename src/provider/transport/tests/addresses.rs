//! Connections to one address of a name that has several.

use std::net::{IpAddr, SocketAddr};

use super::*;

/// Calls to a name at one of its addresses.
fn at(url: &str, address: IpAddr) -> Transport {
    let connection = ServerConnection { addresses: HostAddresses::One(address), ..connection(url, limits(20_000), 100) };
    Transport::open("p", &connection, &Matcher::builder().build(), &enough()).unwrap()
}

#[tokio::test]
async fn each_address_is_reached_under_the_name() {
    let one = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    let port = one.address().port();
    let other = Loopback::start_at(SocketAddr::from(([127, 0, 0, 2], port)), vec![Reply::answer("200 OK", "", "{}")]).await;
    // No resolver knows this name.
    let url = format!("http://models.invalid:{port}/v1/x");
    for (server, count) in [(&one, 3), (&other, 2)] {
        let transport = at(&url, server.address().ip());
        for _ in 0..count {
            post(&transport, &url).await.unwrap();
        }
    }
    assert_eq!((one.requests().len(), other.requests().len()), (3, 2));
    assert!(other.requests()[0].starts_with(&format!("POST /v1/x HTTP/1.1\r\nhost: models.invalid:{port}\r\n")), "{:?}", other.requests());
    let error = post(&at(&url, IpAddr::from([127, 0, 0, 3])), &url).await.unwrap_err().to_string();
    let expected = format!("could not connect to models.invalid:{port} at 127.0.0.3: nothing listens at this address (");
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn names_are_looked_up_that_stand_for_servers_and_that_no_proxy_looks_up() {
    let proxy = Matcher::builder().all("http://proxy.example:3128").no("own.example").build();
    let no_proxy = Matcher::builder().build();
    let each = HostAddresses::Each;
    for (url, addresses, proxies, name) in [
        ("http://models:8000/v1", each, &no_proxy, Some(("models", 8000))),
        ("https://models.example/v1", each, &no_proxy, Some(("models.example", 443))),
        ("http://models", HostAddresses::One(IpAddr::from([10, 0, 0, 1])), &no_proxy, Some(("models", 80))),
        ("http://models:8000", HostAddresses::Any, &no_proxy, None),
        ("http://models:8000", each, &proxy, None),
        ("http://own.example:8000", each, &proxy, Some(("own.example", 8000))),
        ("http://10.0.0.1:8000", each, &no_proxy, None),
        ("http://[fd00::1]:8000", each, &no_proxy, None),
        ("http://localhost:8000", each, &no_proxy, None),
    ] {
        let connection = ServerConnection { addresses, ..connection(url, limits(20_000), 100) };
        let transport = Transport::open("p", &connection, proxies, &enough()).unwrap();
        assert_eq!(transport.name(), name.map(|(name, port)| (name.to_owned(), port)), "{url} {addresses:?}");
    }
}
