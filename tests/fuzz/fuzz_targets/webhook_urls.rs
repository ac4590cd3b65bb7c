//! A receiver is called only where receivers may be.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    batchd::http::fuzz::webhook_urls(bytes);
});
