//! Bytes of a connection mean the same however they arrive.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    batchd::http::fuzz::heads(bytes);
});
