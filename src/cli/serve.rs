//! `batchd serve`.

use super::{FAILURE, USAGE, block_on, complain, print, settings};
use crate::daemon::config::Flags;
use crate::daemon::{Daemon, Environment};

/// Serves until stopped; returns the exit code.
pub(super) fn serve(flags: &Flags, env: Environment) -> u8 {
    // This process writes to the data directory alone. The store gives its own files their
    // permissions; the umask is for the files that sled makes while it runs. (`run` leaves the
    // umask unchanged: its output is the user's.)
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let (settings, _log) = match settings(flags, &env) {
        Ok(settings) => settings,
        Err(error) => return complain(&error, USAGE),
    };
    block_on(async move {
        let server = match Daemon::start(&settings, env).await {
            Ok(server) => server,
            Err(error) => return complain(&error, USAGE),
        };
        // Scripts wait for this line; it is the only line on standard output.
        print(&format!("listening on http://{}", server.address));
        server.announce();
        match server.run().await {
            Ok(()) => 0,
            Err(error) => complain(&error, FAILURE),
        }
    })
}
