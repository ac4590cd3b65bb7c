//! The signature, against the vector of the reference; the rest is tested against a running daemon.

use super::sender::signature;

#[test]
fn the_signature_is_the_one_of_the_reference() {
    let body = br#"{"event":"batch.completed","batch_id":"bat_0001","status":"completed"}"#;
    assert_eq!(body.len(), 70);
    assert_eq!(signature(b"a-long-random-shared-secret", body), "7b194aa334e75c42a1f613a0669940f7f77d03feaac9c69ad4ae5a9c1c0cc9ab");
}
