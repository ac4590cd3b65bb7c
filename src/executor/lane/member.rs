//! One server of a lane, and which server of several gets the next row.
//!
//! Rows go where there is room: to the server with the fewest calls in flight for what it has been
//! found to take. On a lane by prefix, rows of one family, which begin alike, have an owner among the servers,
//! whose cache then has it. A server takes its own rows first, and those of others only when it would
//! be idle otherwise, so that none waits for a busy one. Owners are found by rendezvous hashing: a
//! server that joins or leaves moves only its own share.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::flow_control::FlowControl;

/// A server of a lane.
pub struct Member {
    /// Its index in the table of servers.
    pub pool: usize,
    pub flow: FlowControl,
    /// The provider has the server now. An earlier server stays here for its calls in flight.
    pub is_listed: bool,
    /// Stands for the server's address.
    pub identity: u64,
}

impl Member {
    pub fn new(pool: usize, flow: FlowControl, address: &str) -> Self {
        Self { pool, flow, is_listed: true, identity: hash(&address) }
    }

    /// The server is at another address from now on.
    pub fn readdress(&mut self, address: &str) {
        self.identity = hash(&address);
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.flow.in_flight_gauge.in_flight
    }

    /// How busy the server would be with one more call, for what it takes.
    fn load(&self) -> f64 {
        f64::from(self.in_flight() + 1) / f64::from(self.flow.capacity().max(1))
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The least busy server, for what each takes.
pub fn least_busy<'a>(members: impl Iterator<Item = (usize, &'a Member)>) -> Option<usize> {
    members.min_by(|(_, one), (_, other)| one.load().total_cmp(&other.load())).map(|(index, _)| index)
}

/// The server that owns the rows of a family.
pub fn owner<'a>(members: impl Iterator<Item = (usize, &'a Member)>, family: u64) -> Option<usize> {
    members.max_by_key(|(_, member)| rank(member.identity, family)).map(|(index, _)| index)
}

/// The rank of a server for the rows of a family: the first of all owns them.
pub fn rank(identity: u64, family: u64) -> u64 {
    hash(&(identity, family))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::domain::provider::connection::Limits;
    use crate::executor::lane::blame::LaneTraits;

    const TRAITS: LaneTraits = LaneTraits { is_local: true, is_shared: false, hold_after: 3, can_be_down: true };

    fn member(name: &str, takes: u32) -> Member {
        let limits = Limits { in_flight: Some(takes), ..Limits::default() };
        Member::new(0, FlowControl::new(limits, takes, TRAITS), name)
    }

    #[test]
    fn rows_go_where_there_is_room_for_what_each_server_takes() {
        let (mut members, now) = ([member("a", 4), member("b", 8), member("c", 2)], Instant::now());
        for _ in 0..7 {
            let index = least_busy(members.iter().enumerate()).unwrap();
            members[index].flow.start(now, 1, 0);
        }
        assert_eq!(members.map(|member| member.in_flight()), [2, 4, 1]);
    }

    #[test]
    fn a_server_that_joins_moves_only_its_own_share() {
        let members = ["a", "b", "c"].map(|name| member(name, 8));
        let of = |count: usize| (1..=600).map(|family| owner(members[..count].iter().enumerate(), family).unwrap()).collect::<Vec<_>>();
        let (two, three) = (of(2), of(3));
        assert!(two.iter().zip(&three).all(|(before, after)| before == after || *after == 2));
        for server in 0..3 {
            let share = three.iter().filter(|owner| **owner == server).count();
            assert!((150..250).contains(&share), "{share} of 600");
        }
    }
}
