//! Any bytes in the store give a record or an error: no panic, no endless allocation.

#![no_main]

libfuzzer_sys::fuzz_target!(|record: &[u8]| {
    batchd::store::fuzz_decode(record);
});
