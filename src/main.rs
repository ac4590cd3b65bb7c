//! The binary: everything is in the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The kernel would give whole pages of 2 MiB to an allocator that uses only a part of each.
    // Measured, that trebles the memory of an idle daemon and saves no time. If the kernel refuses,
    // its choice stands.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    batchd::cli::main()
}
