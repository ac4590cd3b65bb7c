//! The grammar of secrets. Each dialect has its own, because its clients recognise keys by their
//! prefix.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::fill;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::org::KeyKind;
use crate::domain::text::hex;

/// Characters of the part of Phaseo's keys that names the key.
const KID: usize = 12;
/// Letters and digits of the secret of a webhook endpoint; a multiple of four.
const WEBHOOK_LETTERS: usize = 44;
const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A new secret, from the machine's own source of random numbers.
///
/// # Errors
/// When the machine has no random numbers.
pub fn generate(kind: KeyKind) -> Result<String, Unspecified> {
    Ok(match kind {
        KeyKind::OpenAi => format!("sk-batchd-{}", secret()?),
        // The prefix of BatchRouter's production keys, and as many digits as its documents show.
        KeyKind::BatchRouter => format!("br_live_{}", hex(&bytes::<12>()?)),
        KeyKind::PhaseoInference => format!("phaseo_v1_sk_{}_{}", kid()?, secret()?),
        KeyKind::PhaseoManagement => format!("phaseo_v1_mk_{}_{}", kid()?, secret()?),
    })
}

fn bytes<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut random = [0; N];
    fill(&mut random)?;
    Ok(random)
}

/// 256 bits in 43 characters that need no quoting in URLs and shells.
fn secret() -> Result<String, Unspecified> {
    Ok(URL_SAFE_NO_PAD.encode(bytes::<32>()?))
}

/// A new secret of a webhook endpoint: 262 bits in 44 letters and digits. Phaseo's helper takes
/// the text as the key, the libraries of Standard Webhooks read base64 after the prefix. A multiple
/// of four letters and digits is the same base64 in every alphabet, and needs no padding.
///
/// # Errors
/// When the machine has no random numbers.
pub fn of_webhook() -> Result<String, Unspecified> {
    Ok(format!("whsec_{}", letters(WEBHOOK_LETTERS)?))
}

fn kid() -> Result<String, Unspecified> {
    letters(KID)
}

fn letters(count: usize) -> Result<String, Unspecified> {
    let mut letters = String::new();
    while letters.len() < count {
        let [byte] = bytes::<1>()?;
        // 248 is the last multiple of 62: with bytes from 248 on, some letters would come up more
        // often.
        if byte < 248 {
            letters.push(char::from(LETTERS[usize::from(byte % 62)]));
        }
    }
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_keeps_to_its_grammar() {
        for kind in KeyKind::ALL {
            let (start, kid, length) = match kind {
                KeyKind::OpenAi => ("sk-batchd-", 0, 43),
                KeyKind::BatchRouter => ("br_live_", 0, 24),
                KeyKind::PhaseoInference => ("phaseo_v1_sk_", 12, 43),
                KeyKind::PhaseoManagement => ("phaseo_v1_mk_", 12, 43),
            };
            let made = generate(kind).unwrap();
            assert_ne!(made, generate(kind).unwrap());
            let mut rest = made.strip_prefix(start).unwrap();
            if kid > 0 {
                let (found, secret) = rest.split_once('_').unwrap();
                assert!(found.len() == kid && found.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{kind:?}");
                rest = secret;
            }
            let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let is_legal = |byte| if kind == KeyKind::BatchRouter { hex(byte) } else { url_safe(byte) };
            assert!(rest.len() == length && rest.bytes().all(is_legal), "{kind:?}");
        }
    }

    #[test]
    fn a_secret_of_a_webhook_is_the_same_base64_in_every_alphabet() {
        use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
        for _ in 0..200 {
            let secret = of_webhook().unwrap();
            let text = secret.strip_prefix("whsec_").unwrap();
            let keys = [STANDARD.decode(text), STANDARD_NO_PAD.decode(text), URL_SAFE.decode(text), URL_SAFE_NO_PAD.decode(text)];
            let [first, rest @ ..] = keys.map(|key| key.unwrap_or_else(|error| panic!("{text}: {error}")));
            // Standard Webhooks asks for 24 to 64 bytes.
            assert!(first.len() == 33 && rest.iter().all(|key| *key == first), "{text}");
        }
    }
}
