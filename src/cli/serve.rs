//! `batchd serve`.

use super::{FAILURE, USAGE, block_on, complain, print, settings};
use crate::daemon::config::Flags;
use crate::daemon::{Environment, Server};

/// Serves until stopped; returns the exit code.
pub(super) fn serve(flags: &Flags, env: Environment) -> u8 {
    let settings = match settings(flags, &env) {
        Ok(settings) => settings,
        Err(error) => return complain(&error, USAGE),
    };
    block_on(async move {
        let server = match Server::start(&settings, env).await {
            Ok(server) => server,
            Err(error) => return complain(&error, USAGE),
        };
        // Scripts wait for this line; it is the only one on standard output.
        print(&format!("listening on http://{}", server.address));
        server.announce();
        match server.run().await {
            Ok(()) => 0,
            Err(error) => complain(&error, FAILURE),
        }
    })
}
