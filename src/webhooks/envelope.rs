//! A message as it goes over the wire: its headers and its body, signed.
//!
//! BatchRouter's message and OpenAI's event are the same on each attempt. Phaseo's contains the number and the time of
//! the attempt, around data that stays the same; so its signature differs from attempt to attempt,
//! and its id does not.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::text::hex;
use crate::domain::time::Timestamp;
use crate::domain::webhook::delivery::{Delivery, EventRef};

/// The type of a test message.
const TEST: &str = "webhook.test";
const BATCHROUTER_SIGNATURE: &str = "x-batchrouter-signature";
/// The prefix of Phaseo's secrets and of those of Standard Webhooks.
const SECRET: &[u8] = b"whsec_";
/// Base64 as receivers decode it: with or without padding, and whatever its last bits are.
const AS_RECEIVERS_DO: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent);
const LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, AS_RECEIVERS_DO);
const LENIENT_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, AS_RECEIVERS_DO);

/// A message.
pub(super) struct Letter {
    /// The message's id, as in the headers of Standard Webhooks.
    id: String,
    /// Whether the headers of Standard Webhooks are those of the message's own form.
    is_standard: bool,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Letter {
    /// The headers of Standard Webhooks (its specification, version 1), if they are wanted or
    /// belong to the form.
    pub fn standard(&self, wanted: bool, secret: &[u8], now: Timestamp) -> Vec<(&'static str, String)> {
        if !(wanted || self.is_standard) || secret.is_empty() {
            return Vec::new();
        }
        let seconds = now.as_second().to_string();
        let signed = [self.id.as_bytes(), b".", seconds.as_bytes(), b".", &self.body].concat();
        let signatures: Vec<_> = keys(secret).iter().map(|key| format!("v1,{}", STANDARD.encode(hmac_sha256(key, &signed)))).collect();
        vec![("webhook-id", self.id.clone()), ("webhook-timestamp", seconds), ("webhook-signature", signatures.join(" "))]
    }
}

/// The keys that receivers may read in a secret. After the prefix of Standard Webhooks, it is
/// base64. Without the prefix, OpenAI's libraries take the text as the key, and those of Standard
/// Webhooks read base64 all the same; a message then has a signature for each.
fn keys(secret: &[u8]) -> Vec<Cow<'_, [u8]>> {
    let decoded = |text: &[u8]| LENIENT.decode(text).or_else(|_| LENIENT_URL_SAFE.decode(text)).ok().filter(|key| !key.is_empty());
    match secret.strip_prefix(SECRET) {
        Some(text) => vec![decoded(text).map_or(Cow::Borrowed(secret), Cow::Owned)],
        None => [Some(Cow::Borrowed(secret)), decoded(secret).map(Cow::Owned)].into_iter().flatten().collect(),
    }
}

fn hmac_sha256(secret: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text).as_ref().to_vec()
}

/// Lower-case hexadecimal HMAC-SHA256 of the exact body (BatchRouter's guide to webhooks).
pub(super) fn signature(secret: &[u8], body: &[u8]) -> String {
    hex(&hmac_sha256(secret, body))
}

/// Lower-case hexadecimal HMAC-SHA256 of the time, a dot, and the body, under the secret as it is
/// written (Phaseo's reference of webhooks).
pub(super) fn timed_signature(secret: &[u8], seconds: &str, body: &[u8]) -> String {
    hex(&hmac_sha256(secret, &[seconds.as_bytes(), b".", body].concat()))
}

/// A message that is sent as it was written. BatchRouter's signature is on OpenAI's events, too: a
/// receiver of an organisation can check all messages alike.
pub(super) fn of_whole(delivery: &Delivery, is_openais: bool, secret: &[u8]) -> Letter {
    let headers = vec![
        ("user-agent", concat!("batchd/", env!("CARGO_PKG_VERSION")).to_owned()),
        (BATCHROUTER_SIGNATURE, signature(secret, &delivery.body)),
    ];
    Letter { id: delivery.id.in_hex(), is_standard: is_openais, headers, body: delivery.body.clone() }
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    r#type: &'a str,
    /// Unix seconds, of this attempt.
    created_at: i64,
    delivery: EnvelopeAttempt<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_change: Option<EnvelopeChange<'a>>,
    data: &'a RawValue,
}

#[derive(Serialize)]
struct EnvelopeAttempt<'a> {
    key: &'a str,
    attempt: u32,
    max_attempts: u32,
}

#[derive(Serialize)]
struct EnvelopeChange<'a> {
    previous_status: &'a str,
    status: &'a str,
}

/// A message of Phaseo's, as one attempt sends it. The message is signed if there is a secret.
pub(super) fn of_phaseo(delivery: &Delivery, event: &EventRef, secret: &[u8], now: Timestamp) -> Letter {
    let (id, kind) = (event.id(delivery.batch), event.event.phase.event());
    // The body was written as JSON.
    let data = std::str::from_utf8(&delivery.body).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let envelope = Envelope {
        id: &id,
        r#type: &kind,
        created_at: now.as_second(),
        delivery: EnvelopeAttempt { key: &event.event.key, attempt: delivery.attempts + 1, max_attempts: EventRef::ATTEMPTS },
        status_change: event.event.change.as_ref().map(|(before, after)| EnvelopeChange { previous_status: before, status: after }),
        data: data.unwrap_or(RawValue::NULL),
    };
    envelope.seal(secret)
}

/// A test message for a receiver: sent once, and about no batch.
pub(super) fn of_test(id: &str, data: &RawValue, secret: &[u8], now: Timestamp) -> Letter {
    let delivery = EnvelopeAttempt { key: TEST, attempt: 1, max_attempts: 1 };
    Envelope { id, r#type: TEST, created_at: now.as_second(), delivery, status_change: None, data }.seal(secret)
}

impl Envelope<'_> {
    fn seal(&self, secret: &[u8]) -> Letter {
        // Writing texts, numbers and JSON into a vector cannot fail.
        let body = serde_json::to_vec(self).unwrap_or_default();
        let seconds = self.created_at.to_string();
        let mut headers = vec![
            ("user-agent", "Phaseo-Async-Webhook/1.0".to_owned()),
            ("x-phaseo-event-id", self.id.to_owned()),
            ("x-phaseo-event-type", self.r#type.to_owned()),
            ("x-phaseo-delivery-key", self.delivery.key.to_owned()),
            ("x-phaseo-attempt", self.delivery.attempt.to_string()),
            ("x-phaseo-max-attempts", self.delivery.max_attempts.to_string()),
            ("x-phaseo-timestamp", seconds.clone()),
        ];
        if !secret.is_empty() {
            headers.push(("x-phaseo-signature", timed_signature(secret, &seconds, &body)));
        }
        Letter { id: self.id.to_owned(), is_standard: false, headers, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_documents() {
        let secret = b"a-long-random-shared-secret";
        let body = br#"{"event":"batch.completed","batch_id":"bat_0001","status":"completed"}"#;
        assert_eq!(signature(secret, body), "7b194aa334e75c42a1f613a0669940f7f77d03feaac9c69ad4ae5a9c1c0cc9ab");
        let timed = timed_signature(b"whsec_test", "1700000000", br#"{"hello":"world"}"#);
        assert_eq!(timed, "f592bbf3951cfc94e560eecfb5d9dd4da6b0fff2e626235f8ab4b54860925d0b");
        // The example from the specification of Standard Webhooks.
        let body = br#"{"test": 2432232314}"#.to_vec();
        let mut letter = Letter { id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(), is_standard: false, headers: vec![], body };
        let at = Timestamp::from_second(1_614_265_330).unwrap();
        let signed = |letter: &Letter, secret: &[u8]| letter.standard(true, secret, at)[2].1.clone();
        let right = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed(&letter, b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), right);
        assert!(letter.standard(false, b"x", at).is_empty() && letter.standard(true, b"", at).is_empty());
        letter.is_standard = true;
        assert_eq!(letter.standard(false, b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", at)[2].1, right);
        // Without the prefix, the libraries disagree on the key.
        let both = signed(&letter, b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert!(both.ends_with(right) && both.split(' ').count() == 2, "{both}");
        assert_eq!(signed(&letter, b"a long shared secret").split(' ').count(), 1, "no base64");
        // Padding and the alphabet make no difference.
        let keys_of = |text: &str| keys(text.as_bytes()).into_iter().map(Cow::into_owned).collect::<Vec<_>>();
        for text in ["whsec_+/8=", "whsec_+/8", "whsec_-_8", "whsec_-_8="] {
            assert_eq!(keys_of(text), [[0xfb, 0xff]], "{text}");
        }
        assert_eq!(keys_of("whsec_no base64"), [b"whsec_no base64"]);
    }
}
