//! `batchd run --dry-run`: checks the input and shows what it would cost.

use super::super::output::{CommandRefused, put, table};
use super::super::progress::{grouped, money};
use super::super::{USAGE, complain, say};
use super::{aside, refuse, simulated};
use crate::catalog::Snapshot;
use crate::daemon::config::{Settings, Strings};
use crate::daemon::{CostEstimate, DryRun, Job};

/// Checks and prices the input; returns the exit code.
pub(super) fn dry_run(job: &Job, settings: &Settings, catalog: &Snapshot, env: &dyn Strings) -> u8 {
    let aside = match job.is_packed() {
        Ok(false) => None,
        Ok(true) => match aside(&settings.data_dir, "unpacked-") {
            Ok(aside) => Some(aside),
            Err(error) => return complain(&format!("cannot unpack the input in {}: {error}", settings.data_dir.display()), USAGE),
        },
        Err(error) => return complain(&error, USAGE),
    };
    let estimate = match job.dry_run(settings, catalog, aside.as_ref().map(|aside| (aside.path(), aside.file()))) {
        Err(error) => return complain(&error, USAGE),
        Ok(DryRun::Refused(problems)) => return refuse(&job.name, &problems),
        Ok(DryRun::Priced(estimate)) => estimate,
    };
    let models = estimate.models.iter().map(|model| model.requested.as_str());
    simulated::notice(catalog, models, env).iter().for_each(|line| say(line));
    match put(&render(&estimate, catalog.is_simulated())) {
        Ok(()) => 0,
        Err(CommandRefused(code, message)) => complain(&message, code),
    }
}

/// The estimate as a person reads it.
fn render(estimate: &CostEstimate, simulated: bool) -> String {
    let price = |cost, known| match (known, simulated) {
        (false, _) => "not known".to_owned(),
        (true, false) => money(cost),
        (true, true) => format!("SIMULATED {}", money(cost)),
    };
    let rows = estimate.models.iter().map(|model| {
        let lane = model.target.as_ref().map_or("-".to_owned(), |(provider, upstream)| format!("{provider}/{upstream}"));
        let cells = [model.rows, model.input_tokens, model.output_tokens].map(grouped);
        [vec![model.requested.clone(), lane], cells.to_vec(), vec![price(model.cost, model.priced)]].concat()
    });
    let table = table(&["MODEL", "LANE", "ROWS", "INPUT TOKENS", "OUTPUT TOKENS", "COST"], rows.collect());
    let unknown = estimate.models.iter().filter(|model| !model.priced).map(|model| model.rows).sum::<u64>();
    let cost = match unknown {
        0 => format!("for about {}", price(estimate.total, true)),
        _ if unknown == estimate.rows => "at a price that is not known".to_owned(),
        _ => format!("{} of them at a price that is not known, the others for about {}", grouped(unknown), price(estimate.total, true)),
    };
    let assumed = estimate.models.iter().map(|model| model.assumed_rows).sum::<u64>();
    let guess = if assumed > 0 { format!(" ({} rows state no limit)", grouped(assumed)) } else { String::new() };
    format!("{table}\n\n{} rows can run, {cost}. Nothing was sent.\nAn estimate: {}{guess}.", grouped(estimate.rows), estimate.basis)
}
