//! Which messages may be sent; the rest is tested against a running daemon.

use super::{AT_ONCE, OF_ORG, OF_ORG_TO_HOST, Slots, TO_HOST};
use crate::domain::id::{EventId, OrgId};
use crate::domain::webhook::delivery::Route;
use crate::store::DeliveryChoice;

#[test]
fn neither_a_host_nor_an_organisation_takes_every_place() {
    let mut slots = Slots::default();
    let mut take = |event: u128, host: u128, org: u128| slots.take(EventId::from_u128(event), Route { host, org: OrgId::from_u128(org) });
    let taken = |choices: Vec<DeliveryChoice>| choices.into_iter().filter(|choice| *choice == DeliveryChoice::Take).count();
    let flood = taken((0..1_000).map(|event| take(event, 1, 1)).collect());
    assert_eq!(flood, OF_ORG_TO_HOST);
    assert_eq!(take(1_000, 1, 1), DeliveryChoice::Pass, "others of the organisation go to other hosts");
    let many_hosts = taken((1_000..2_000).map(|event| take(event, event, 1)).collect());
    assert_eq!((many_hosts, take(2_000, 2, 1)), (OF_ORG - OF_ORG_TO_HOST, DeliveryChoice::Enough));
    assert_eq!(
        (take(2_000, 1, 2), take(2_000, 1, 2)),
        (DeliveryChoice::Take, DeliveryChoice::Pass),
        "a host has room for others; each message once"
    );
    let same_host = taken((3_000..4_000).map(|event| take(event, 1, event)).collect());
    assert_eq!(OF_ORG_TO_HOST + 1 + same_host, TO_HOST);
    let others = taken((4_000..5_000).map(|event| take(event, event, event)).collect());
    assert_eq!(OF_ORG + 1 + same_host + others, AT_ONCE);
}
