//! The signature, against the vector of the reference, and who gets to send; the rest is tested against a running daemon.

use super::sender::signature;
use super::{AT_ONCE, OF_ORG, Slots, TO_HOST};
use crate::domain::delivery::Route;
use crate::domain::id::{EventId, OrgId};

#[test]
fn the_signature_is_the_one_of_the_reference() {
    let body = br#"{"event":"batch.completed","batch_id":"bat_0001","status":"completed"}"#;
    assert_eq!(body.len(), 70);
    assert_eq!(signature(b"a-long-random-shared-secret", body), "7b194aa334e75c42a1f613a0669940f7f77d03feaac9c69ad4ae5a9c1c0cc9ab");
}

#[test]
fn neither_a_host_nor_an_organisation_takes_every_place() {
    let mut slots = Slots::default();
    let mut take = |event: u128, host: u128, org: u128| slots.take(EventId::from_u128(event), Route { host, org: OrgId::from_u128(org) });
    let flood = (0..1_000).filter(|event| take(*event, 1, 1)).count();
    assert_eq!(flood, TO_HOST);
    let many_hosts = (1_000..2_000).filter(|event| take(*event, *event, 1)).count();
    assert_eq!(many_hosts, OF_ORG - TO_HOST);
    assert!(take(2_000, 2, 2) && !take(2_000, 2, 2), "each message once");
    let others = (3_000..4_000).filter(|event| take(*event, *event, *event)).count();
    assert_eq!(OF_ORG + 1 + others, AT_ONCE);
}
