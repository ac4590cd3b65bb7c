//! Any body of a create is read or refused, in every dialect.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    batchd::http::fuzz::bodies(bytes);
});
