//! Any answer of a provider is judged, and a good one is JSON on one line.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    batchd::provider::fuzz::answers(bytes);
});
