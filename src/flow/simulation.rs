//! A model server in simulated time, and what the concurrency limiter makes of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::ConcurrencyLimiter;

/// How much work a row is: seconds that it takes alone.
#[derive(Debug, Clone, Copy)]
pub enum Rows {
    Equal(f64),
    /// Exponential around a mean.
    Spread(f64),
    /// Half of these, half of those.
    Mixed(f64, f64),
}

impl Rows {
    pub fn draw(self, random: &mut fastrand::Rng) -> f64 {
        match self {
            Self::Equal(work) => work,
            Self::Spread(mean) => (-mean * (1.0 - random.f64()).ln()).max(mean / 50.0),
            Self::Mixed(short, long) => {
                if random.bool() {
                    short
                } else {
                    long
                }
            }
        }
    }
}

/// What a server does with so many calls.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// All calls share. The throughput rises to the knee and then falls: for each further `knee`
    /// calls, by so much as [`Model::fall`] says.
    Shares,
    /// Calls beyond the knee wait for their turn.
    Queues,
    /// All calls share, and each further one brings less: `knee * n / (n + knee)`.
    Saturates,
}

/// A server.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    pub knee: u32,
    pub fall: f64,
    pub shape: Shape,
}

impl Model {
    /// Seconds of work done in a second with `calls`.
    pub fn speed(&self, calls: u32) -> f64 {
        let (n, knee) = (f64::from(calls), f64::from(self.knee));
        match self.shape {
            Shape::Saturates => knee * n / (n + knee),
            Shape::Shares | Shape::Queues if n <= knee => n,
            Shape::Shares | Shape::Queues => knee / (1.0 + self.fall * (n - knee) / knee),
        }
    }

    /// The most that any fixed number of calls, up to a thousand, gets done.
    fn best(&self) -> f64 {
        (1..=1_024).map(|calls| self.speed(calls)).fold(0.0, f64::max)
    }
}

/// By how much the times of calls vary beside their work.
const JITTER: f64 = 0.15;

/// A call, by what the server has to do for it, what it did before, and its number.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Due(f64, usize);

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

/// What others leave of the machine: a factor that lasts for a third of a second to six seconds.
struct Others {
    random: fastrand::Rng,
    spread: f64,
    leave: f64,
    until: f64,
}

impl Others {
    fn leave(&mut self, seconds: f64) -> f64 {
        while seconds >= self.until {
            let normal = (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0;
            self.leave = (normal * self.spread).exp();
            self.until += 0.3 * 20.0_f64.powf(self.random.f64());
        }
        self.leave
    }
}

struct Server {
    model: Model,
    others: Others,
    rows: Rows,
    random: fastrand::Rng,
    now: Instant,
    /// What each call in work has got so far, had it been there from the start.
    served: f64,
    busy: BinaryHeap<Reverse<Due>>,
    queue: VecDeque<Due>,
    /// When each call was sent, and its work.
    calls: Vec<(Instant, f64)>,
}

impl Server {
    fn in_flight(&self) -> u32 {
        u32::try_from(self.busy.len() + self.queue.len()).unwrap()
    }

    fn has_place(&self) -> bool {
        !matches!(self.model.shape, Shape::Queues) || self.busy.len() < self.model.knee as usize
    }

    fn send(&mut self) {
        let work = self.rows.draw(&mut self.random);
        let chance = (0..4).map(|_| self.random.f64() - 0.5).sum::<f64>() * 1.73 * JITTER;
        let due = Due(work * chance.exp(), self.calls.len());
        self.calls.push((self.now, work));
        if self.has_place() {
            self.busy.push(Reverse(Due(self.served + due.0, due.1)));
        } else {
            self.queue.push_back(due);
        }
    }

    /// The next call that ends: how many were in flight, its time and its work.
    fn next(&mut self) -> (u32, Duration, f64) {
        let in_flight = self.in_flight();
        let each = self.others.leave * self.model.speed(in_flight) / self.busy.len() as f64;
        let Reverse(Due(at, number)) = self.busy.pop().unwrap();
        self.now += Duration::from_secs_f64(((at - self.served) / each).max(1e-6));
        self.served = self.served.max(at);
        while self.has_place() {
            let Some(due) = self.queue.pop_front() else { break };
            self.busy.push(Reverse(Due(self.served + due.0, due.1)));
        }
        let (sent, work) = self.calls[number];
        (in_flight, self.now - sent, work)
    }
}

/// Runs a limiter against a server that changes, each model until a second; returns the work done in
/// each second and the limit.
fn run(models: &[(u64, Model)], rows: Rows, seed: u64, limiter: &mut ConcurrencyLimiter) -> Vec<(f64, u32)> {
    run_beside(0.0, models, rows, seed, limiter)
}

/// The same on a machine that others use, too: what they leave varies so much. The work done is that
/// of a machine of one's own.
fn run_beside(spread: f64, models: &[(u64, Model)], rows: Rows, seed: u64, limiter: &mut ConcurrencyLimiter) -> Vec<(f64, u32)> {
    let start = Instant::now();
    let mut server = Server {
        model: models[0].1,
        others: Others { random: fastrand::Rng::with_seed(seed), spread, leave: 1.0, until: 0.0 },
        rows,
        random: fastrand::Rng::with_seed(seed),
        now: start,
        served: 0.0,
        busy: BinaryHeap::new(),
        queue: VecDeque::new(),
        calls: Vec::new(),
    };
    let mut done = Vec::new();
    for (until, model) in models {
        server.model = *model;
        while server.now < start + Duration::from_secs(*until) {
            while server.in_flight() < limiter.limit() {
                server.send();
            }
            let leave = server.others.leave((server.now - start).as_secs_f64());
            let (in_flight, took, work) = server.next();
            let second = usize::try_from((server.now - start).as_secs()).unwrap();
            done.resize(done.len().max(second + 1), (0.0, limiter.limit()));
            done[second].0 += work / leave;
            let tokens = Duration::from_secs_f64(work).as_millis().max(1);
            limiter.on_success(server.now, in_flight, took, u64::try_from(tokens).unwrap());
        }
    }
    done
}

/// The part of the best throughput of a fixed number of calls that was reached in some seconds.
fn share(done: &[(f64, u32)], seconds: std::ops::Range<usize>, best: f64) -> f64 {
    let length = seconds.len() as f64;
    done[seconds].iter().map(|second| second.0).sum::<f64>() / (length * best)
}

fn found(model: Model, rows: Rows, from: usize, seconds: usize) {
    let mut limiter = ConcurrencyLimiter::new(None, 4_096);
    let done = run(&[(seconds as u64, model)], rows, u64::from(model.knee), &mut limiter);
    let share = share(&done, from..seconds, model.best());
    assert!(share >= 0.9, "{share:.3} of the best: {model:?}, {rows:?}, limit {}", limiter.limit());
}

#[test]
fn a_knee_is_found_within_thirty_seconds() {
    for knee in [8, 64, 256] {
        for (shape, fall) in [(Shape::Shares, 1.0), (Shape::Shares, 0.25), (Shape::Shares, 0.0), (Shape::Queues, 1.0), (Shape::Queues, 0.0)]
        {
            for rows in [Rows::Equal(0.2), Rows::Spread(0.2)] {
                found(Model { knee, fall, shape }, rows, 30, 70);
            }
        }
    }
}

#[test]
fn a_knee_between_the_doublings_is_found() {
    for knee in [11, 90] {
        for (shape, fall) in [(Shape::Shares, 0.5), (Shape::Queues, 0.5)] {
            found(Model { knee, fall, shape }, Rows::Spread(0.2), 30, 70);
        }
    }
}

#[test]
fn rows_of_any_length_and_any_mixture_show_the_knee() {
    for knee in [8, 64, 256] {
        found(Model { knee, fall: 0.5, shape: Shape::Shares }, Rows::Spread(0.005), 5, 20);
        found(Model { knee, fall: 0.0, shape: Shape::Queues }, Rows::Mixed(0.05, 1.0), 60, 180);
        found(Model { knee, fall: 0.25, shape: Shape::Shares }, Rows::Mixed(0.05, 1.0), 60, 180);
    }
    // Answers of twenty seconds take as many seconds to tell anything.
    found(Model { knee: 64, fall: 0.25, shape: Shape::Shares }, Rows::Equal(20.0), 400, 1_500);
}

/// Each doubling brings less, as with large batches on a GPU.
#[test]
fn where_there_is_no_knee_most_of_what_calls_can_bring_is_had() {
    for knee in [64, 256] {
        found(Model { knee, fall: 0.0, shape: Shape::Saturates }, Rows::Spread(0.2), 30, 70);
    }
}

#[test]
fn a_server_that_has_changed_is_found_out_again() {
    for (before, after) in [(8, 64), (64, 8), (64, 256), (256, 64), (8, 256)] {
        for (shape, fall) in [(Shape::Shares, 0.25), (Shape::Queues, 0.25)] {
            let model = |knee| Model { knee, fall, shape };
            let mut limiter = ConcurrencyLimiter::new(None, 4_096);
            let done = run(&[(50, model(before)), (130, model(after))], Rows::Spread(0.2), 3, &mut limiter);
            let (early, late) = (share(&done, 30..50, f64::from(before)), share(&done, 80..130, f64::from(after)));
            assert!(early >= 0.9 && late >= 0.9, "{early:.3} and {late:.3}: {shape:?}, {before} to {after}, limit {}", limiter.limit());
        }
    }
}

#[test]
fn a_machine_that_others_use_too_is_no_other_server() {
    let model = Model { knee: 8, fall: 0.0, shape: Shape::Queues };
    let shares = (0..20).map(|seed| {
        let mut limiter = ConcurrencyLimiter::new(None, 4_096);
        let done = run_beside(0.6, &[(150, model)], Rows::Spread(0.2), seed, &mut limiter);
        share(&done, 30..149, model.best())
    });
    let shares: Vec<f64> = shares.collect();
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean >= 0.9, "{mean:.3}: {shares:.2?}");
}

#[test]
fn a_fast_server_is_used_up_within_two_seconds() {
    let model = Model { knee: 2_000, fall: 0.0, shape: Shape::Shares };
    let mut limiter = ConcurrencyLimiter::new(None, 512);
    let done = run(&[(4, model)], Rows::Equal(0.01), 1, &mut limiter);
    assert!(share(&done, 2..4, 512.0) >= 0.95, "{done:?}");
}

#[test]
fn a_stated_limit_is_used_and_no_more_than_a_knee_below_it() {
    for rows in [Rows::Equal(0.1), Rows::Spread(0.5)] {
        let mut limiter = ConcurrencyLimiter::new(Some(64), 4_096);
        let done = run(&[(60, Model { knee: 1_000, fall: 0.0, shape: Shape::Shares })], rows, 1, &mut limiter);
        assert!(share(&done, 2..60, 64.0) >= 0.95, "{rows:?}: {:.3}", share(&done, 2..60, 64.0));
        assert!(limiter.limit() <= 64);
    }
    let model = Model { knee: 16, fall: 0.5, shape: Shape::Queues };
    let mut limiter = ConcurrencyLimiter::new(Some(64), 4_096);
    let done = run(&[(120, model)], Rows::Equal(0.2), 1, &mut limiter);
    assert!(share(&done, 60..120, 16.0) >= 0.9, "{:.3}, {}", share(&done, 60..120, 16.0), limiter.limit());
}
