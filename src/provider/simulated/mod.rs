//! The built-in provider: answers every operation without a network, a key or a model.
//!
//! For laptops, tests and demonstrations. Everything follows from the row's content: a fingerprint
//! of operation, model and body determines the answer, the latency and whether the row meets one of
//! the faults that the profile distributes by share, so that a run can be repeated exactly. Faults
//! affect the first attempt of a row only; a refusal (400) is permanent. A row can request its own
//! outcome with directives in `metadata.simulate`; see [`force`] for the table.
//!
//! Not a model: the texts are made of words, and no answer has any knowledge. Not a test double
//! either: the answers pass through the same judgement as any provider's answer.
//!
//! Invariants: the same row gets the same answer, on every machine and in every run; a latency of
//! zero never sleeps. Only rows that ask for a server that loads or is full depend on other calls.

mod bodies;
mod force;
mod json;
mod memory;
mod profile;
mod request;
mod sampling;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::BoxFuture;
use http::StatusCode;
use tokio::time::sleep;

use self::bodies::Draft;
use self::force::Forced;
use self::memory::{Memory, Slot};
use self::profile::{Dice, Disturbance};
use self::request::{Body, SimulatedRefusal};
use super::{Answer, Call, CallError, Dispatch};
use crate::domain::format::error_of_chat;
use crate::domain::format::wire::WireFormat;
use crate::domain::provider::connection::{SimulatedProfile, Timeouts};

/// The name of the host in error texts.
const HOST: &str = "the simulated provider";

/// The built-in provider.
#[derive(Debug)]
pub struct Simulated {
    default: SimulatedProfile,
    models: Vec<(String, SimulatedProfile)>,
    memory: Memory,
}

/// The decisions about a call before it is answered.
struct Case<'a> {
    body: Result<Body<'a>, SimulatedRefusal>,
    forced: Forced,
    latency: Duration,
    disturbance: Option<Disturbance>,
    seed: u64,
    dice: Dice,
}

impl Simulated {
    /// Uses the profiles in `models` for the upstream models named there, and `default` for others.
    pub fn new(default: SimulatedProfile, models: Vec<(String, SimulatedProfile)>) -> Self {
        Self { default, models, memory: Memory::default() }
    }

    fn profile(&self, model: &str) -> &SimulatedProfile {
        self.models.iter().find(|(name, _)| name == model).map_or(&self.default, |(_, profile)| profile)
    }

    async fn answer(&self, call: Call) -> Result<Answer, CallError> {
        let mut case = Case::decide(&call, self.profile(&call.upstream_model));
        // Held to the end of the call, also if the call is given up.
        let _slot = case.enter(&self.memory, &call.upstream_model);
        case.wait(call.budget).await?;
        case.end(&call)
    }
}

impl Dispatch for Simulated {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(self.answer(call))
    }
}

impl<'a> Case<'a> {
    fn decide(call: &'a Call, profile: &SimulatedProfile) -> Self {
        let parts = [call.format.endpoint().path().as_bytes(), call.upstream_model.as_bytes(), &call.body];
        let seed = match &call.recording {
            Some(file) => profile::fingerprint(&[parts[0], parts[1], parts[2], &file.content]),
            None => profile::fingerprint(&parts),
        };
        let mut dice = Dice::new(seed);
        // Always drawn in this order, so that a directive changes only what it names.
        let mut latency = profile::latency(profile, &mut dice);
        let mut disturbance = profile::fault(&profile.faults, call.attempt, &mut dice);
        let wait = profile::small_wait(&mut dice);

        let mut forced = Forced::default();
        let body = request::read(&call.body).and_then(|body| {
            if let Some(asked) = body.forced(wait)? {
                forced = asked;
                latency = asked.latency.unwrap_or(latency);
                disturbance = asked.disturbance(call.attempt);
            }
            Ok(body)
        });
        if disturbance == Some(Disturbance::Slow) {
            latency = latency.saturating_mul(10);
        }
        Self { body, forced, latency, disturbance, seed, dice }
    }

    /// Lets a row in that asked for a server that loads or is full, if that is over; a row that is
    /// kept out is told so at once.
    fn enter<'m>(&mut self, memory: &'m Memory, model: &str) -> Option<Slot<'m>> {
        let (is_in, slot) = match self.disturbance {
            Some(Disturbance::Loading(takes)) => (memory.has_loaded(model, takes), None),
            Some(Disturbance::Full { slots }) => {
                let slot = memory.enter(model, slots);
                (slot.is_some(), slot)
            }
            Some(_) | None => return None,
        };
        if is_in {
            self.disturbance = None;
        } else {
            self.latency = self.forced.latency.unwrap_or_default();
        }
        slot
    }

    async fn wait(&self, budget: Duration) -> Result<(), CallError> {
        // A real provider's calls also have a limit of their own, besides the deadline of the
        // batch.
        let budget = budget.min(Timeouts::default().total);
        if self.disturbance == Some(Disturbance::Stall) || self.latency >= budget {
            sleep(budget).await;
            let limit_ms = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
            return Err(CallError::TimedOut { host: HOST.into(), what: "finish its answer", limit_ms });
        }
        if !self.latency.is_zero() {
            sleep(self.latency).await;
        }
        Ok(())
    }

    fn end(self, call: &Call) -> Result<Answer, CallError> {
        let (seed, disturbance) = (self.seed, self.disturbance);
        let answer = |status, retry_after, body: Vec<u8>| {
            Ok(Answer { status, request_id: Some(format!("req_{seed:016x}")), retry_after, allowances: None, body: Bytes::from(body) })
        };
        let error = |status, retry_after, body: Vec<u8>| {
            let body = if call.format == WireFormat::AnthropicMessages { error_of_chat(status, &body) } else { body };
            answer(status, retry_after, body)
        };
        let body = match self.body {
            Ok(body) => body,
            Err(refusal) => return error(400, None, refusal.body()),
        };
        let retry_after = self.forced.retry_after;
        match disturbance {
            Some(Disturbance::Status { status: status @ 300.., retry_after }) => return error(status, retry_after, failure(status)),
            Some(Disturbance::Cut) => return Err(CallError::Interrupted { host: HOST.into(), reason: "simulated".into() }),
            Some(Disturbance::ErrorInside) if call.format == WireFormat::AnthropicMessages => {
                return answer(200, None, error_of_chat(502, failures::INSIDE));
            }
            Some(Disturbance::ErrorInside) => return answer(200, None, failures::INSIDE.to_vec()),
            Some(Disturbance::Quota) => return error(429, retry_after, failures::QUOTA.to_vec()),
            Some(Disturbance::WrongKey) => return error(401, retry_after, failures::WRONG_KEY.to_vec()),
            Some(Disturbance::Loading(_)) => return error(503, retry_after, failures::LOADING.to_vec()),
            Some(Disturbance::Full { .. }) => return error(503, retry_after, failures::FULL.to_vec()),
            Some(Disturbance::Status { .. } | Disturbance::Slow | Disturbance::Stall | Disturbance::InvalidJson | Disturbance::Gzip)
            | None => {}
        }
        let draft = Draft { model: &call.upstream_model, body: &body, forced: &self.forced, seed, dice: self.dice };
        match bodies::render(call.format, draft, call.recording.as_ref()) {
            Ok(mut body) => {
                let status = match disturbance {
                    Some(Disturbance::Status { status, .. }) => status,
                    Some(Disturbance::InvalidJson) => {
                        body.truncate(body.len() / 2);
                        200
                    }
                    Some(Disturbance::Gzip) => {
                        body = gzipped(&body);
                        200
                    }
                    // The others have been dealt with.
                    Some(_) | None => 200,
                };
                answer(status, None, body)
            }
            Err(refusal) => error(400, None, refusal.body()),
        }
    }
}

fn gzipped(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory cannot fail.
    encoder.write_all(body).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// Failures in the words of the servers that are known for them.
mod failures {
    /// OpenRouter's form: the status of the failure is the code of the error.
    pub const INSIDE: &[u8] = br#"{"error":{"message":"Simulated failure: the provider behind this server failed.","code":502}}"#;
    /// OpenAI's.
    pub const QUOTA: &[u8] = br#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details. (Simulated.)","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
    /// OpenAI's.
    pub const WRONG_KEY: &[u8] = br#"{"error":{"message":"Incorrect API key provided: simulated.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
    /// llama.cpp's.
    pub const LOADING: &[u8] = br#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
    pub const FULL: &[u8] = br#"{"error":{"message":"Simulated failure: every slot of the server is taken.","type":"server_error","param":null,"code":"server_busy"}}"#;
}

/// The body of a simulated error.
fn failure(status: u16) -> Vec<u8> {
    let reason = StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()).unwrap_or("error");
    let (kind, code) = match status {
        429 => ("rate_limit_error", Some("rate_limit_exceeded")),
        500.. => ("server_error", None),
        _ => ("invalid_request_error", None),
    };
    request::error_body(&format!("Simulated failure: {status} {reason}."), kind, None, code)
}
