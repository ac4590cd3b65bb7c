//! What the servers do over time, which rows fail by themselves, and what is recorded of the calls.

use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;
use proptest::sample::select;

use super::super::outage::{Models, OUTAGES, Outage};
use super::super::*;
use crate::domain::row::retry::FailureClass;
use crate::provider::class_of;

/// What a server does for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fine,
    /// Every call fails so.
    Down(Outage),
    /// Every call is refused with this status and a wait in seconds.
    Asks(u16, u64),
    /// One call of so many fails so.
    Flaky(Outage, u32),
    /// So many calls at a time are taken, others refused at once with this status.
    Crowded(u32, u16),
    /// So many calls a second are taken, others refused with 429, perhaps with a wait in seconds.
    Limited(u32, Option<u64>),
    /// Each answer takes so many milliseconds.
    Slow(u64),
}

/// Rows that fail by themselves.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Rows whose index, divided by 10, leaves this.
    pub digit: u32,
    /// The first so many calls of each fail.
    pub times: u32,
    pub how: Outage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One server of one's own.
    One,
    /// Three servers of one's own for the same model.
    Replicas,
    /// Two hosted providers of the model.
    TwoLanes,
}

/// A whole script.
#[derive(Debug, Clone)]
pub struct Case {
    pub layout: Layout,
    pub limit: Option<u32>,
    pub models: Models,
    pub max_attempts: u32,
    pub falls_back: bool,
    /// Milliseconds of a good answer.
    pub takes: u64,
    /// By server, one weather after the other, each for so many seconds; fine after the last.
    pub servers: [Vec<(u64, Weather)>; 3],
    pub faults: Vec<Fault>,
    /// Rows, window, and seconds before the batch is created.
    pub batches: Vec<(u32, &'static str, u64)>,
    pub seed: u64,
}

impl Case {
    pub fn server_of(&self, name: char) -> usize {
        ['a', 'b', 'c'].iter().position(|known| *known == name).unwrap_or_default()
    }

    /// The weather at a server so long after the start.
    pub fn weather(&self, server: usize, since: Duration) -> Weather {
        let mut until = Duration::ZERO;
        for (secs, weather) in &self.servers[server] {
            until += Duration::from_secs(*secs);
            if since < until {
                return *weather;
            }
        }
        Weather::Fine
    }

    pub fn fault_of(&self, row: u32) -> Option<&Fault> {
        self.faults.iter().find(|fault| row % 10 == fault.digit)
    }
}

/// What a server said to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// An answer.
    Good,
    /// Never charged: a slower pace is asked for, or there was no connection.
    Uncharged,
    /// A failure; equal ones have the same mark.
    Fails { mark: u64, is_outage: bool, is_denial: bool },
    /// The call was given up before.
    Nothing,
}

impl Says {
    pub fn of(reply: &Result<Answer, CallError>) -> Self {
        let fails = |mark: &dyn Fn(&mut DefaultHasher), class: FailureClass, is_denial| {
            let mut hasher = DefaultHasher::new();
            mark(&mut hasher);
            Self::Fails { mark: hasher.finish(), is_outage: class.is_outage(), is_denial }
        };
        match reply {
            Ok(answer) if answer.status == 200 => Self::Good,
            Ok(answer) => {
                let said = OUTAGES
                    .into_iter()
                    .find(|known| matches!(known, Outage::Denied(status, body) if *status == answer.status && answer.body == *body));
                let class = FailureClass::of_status(answer.status, None);
                match class {
                    FailureClass::RateLimited { .. } if said.is_none() => Self::Uncharged,
                    FailureClass::Refused { .. } if said.is_none() => Self::Good,
                    _ => fails(&|hasher| (answer.status, said.is_some()).hash(hasher), class, said.is_some()),
                }
            }
            Err(error) => match class_of(error) {
                FailureClass::Connect => Self::Uncharged,
                class => fails(&|hasher| class.code().hash(hasher), class, false),
            },
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct LoggedCall {
    pub seen: SeenCall,
    pub ended: Option<Instant>,
    pub says: Says,
}

/// The calls in the order in which they went out, and how many each row has made.
type Calls = (Vec<LoggedCall>, HashMap<(BatchId, u32), u32>);

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Calls>>);

impl Log {
    /// Notes a call; returns the number of its row's calls so far, and where it is in the log.
    pub fn begin(&self, seen: SeenCall) -> (u32, usize) {
        let (calls, rows) = &mut *self.0.lock().unwrap();
        calls.push(LoggedCall { seen, ended: None, says: Says::Nothing });
        let nth = rows.entry((seen.batch, seen.row)).or_default();
        *nth += 1;
        (*nth, calls.len() - 1)
    }

    pub fn end(&self, index: usize, says: Says) {
        let call = &mut self.0.lock().unwrap().0[index];
        (call.ended, call.says) = (Some(Instant::now()), says);
    }

    pub fn take(&self) -> Vec<LoggedCall> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }
}

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        3 => Just(Weather::Fine),
        6 => select(&OUTAGES[..]).prop_map(Weather::Down),
        1 => (select(vec![429, 503]), select(vec![1, 5, 30])).prop_map(|(status, wait)| Weather::Asks(status, wait)),
        2 => (select(&OUTAGES[..]), 2..12_u32).prop_map(|(outage, one_of)| Weather::Flaky(outage, one_of)),
        2 => (1..5_u32, select(vec![500, 503])).prop_map(|(room, status)| Weather::Crowded(room, status)),
        2 => (select(vec![1, 3, 20]), select(vec![None, Some(1), Some(10)])).prop_map(|(most, wait)| Weather::Limited(most, wait)),
        1 => select(vec![3_000, 20_000]).prop_map(Weather::Slow),
    ]
}

fn spells() -> impl Strategy<Value = Vec<(u64, Weather)>> {
    let secs = prop_oneof![1..10_u64, 10..60_u64, 60..600_u64];
    prop::collection::vec((secs, weather()), 0..6)
}

fn fault() -> impl Strategy<Value = Fault> {
    // What the row alone may meet: no server is unreachable, or without credit, for one row alone.
    let own: Vec<_> = OUTAGES
        .into_iter()
        .filter(|how| !matches!(how, Outage::NoConnection(_) | Outage::Denied(401 | 402 | 429, _) | Outage::Status(429)))
        .collect();
    (0..10_u32, prop_oneof![1..4_u32, Just(u32::MAX)], select(own)).prop_map(|(digit, times, how)| Fault { digit, times, how })
}

pub fn case() -> impl Strategy<Value = Case> {
    let layout = prop_oneof![3 => Just(Layout::One), 1 => Just(Layout::Replicas), 2 => Just(Layout::TwoLanes)];
    let models = select(vec![Models::None, Models::Served, Models::Fails]);
    let limit = prop_oneof![4 => Just(Some(8)), 1 => Just(Some(1)), 1 => Just(None)];
    let rows = prop_oneof![Just(1_u32), 2..20_u32, 20..80_u32];
    let window = prop_oneof![4 => Just("12h"), 1 => Just("10m"), 1 => Just("3m")];
    let batches = prop::collection::vec((rows, window, 0..40_u64), 1..4);
    let servers = [spells(), spells(), spells()];
    let faults = prop::collection::vec(fault(), 0..2);
    let numbers = (prop_oneof![3 => Just(1_u32), 1 => 2..4_u32, 2 => Just(6)], select(vec![20_u64, 100, 1_000]), any::<u64>());
    (layout, limit, models, numbers, any::<bool>(), servers, faults, batches).prop_map(
        |(layout, limit, models, (max_attempts, takes, seed), falls_back, servers, faults, batches)| Case {
            layout,
            limit,
            models,
            max_attempts,
            falls_back,
            takes,
            servers,
            faults,
            batches,
            seed,
        },
    )
}
