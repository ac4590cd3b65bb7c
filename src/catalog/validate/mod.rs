//! Turns seeds as written into seeds as checked. All or nothing: a single fault invalidates the
//! whole set, but every fault of every file is found first.
//!
//! Rules within one file are checked in [`provider`], [`model`], [`offering`] and [`workflow`];
//! rules across files (names used twice, offerings of unknown providers) are checked here, when all
//! of them are read.

mod context;
mod model;
mod offering;
mod provider;
mod shared;
mod workflow;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use toml::Spanned;

use self::context::ValidateContext;
use super::fault::{Fault, Faults, Source};
use super::model::{Model, Provider};
use super::parse::{Read, read};
use super::schema::{ModelFile, ProviderFile, WorkflowFile};
use super::workflow::Workflow;
use crate::catalog::archive::{MODELS, PROVIDERS, WORKFLOWS};

/// The checked content of the files.
pub(super) struct Checked {
    pub providers: Vec<Provider>,
    pub models: Vec<Model>,
    pub workflows: Vec<Workflow>,
}

/// Checks files, sorted by name. Models keep the order of the files and of the text.
pub(super) fn check(sources: &[Source]) -> Result<Checked, Faults> {
    let mut faults = Vec::new();
    let (mut providers, mut models) = (Vec::new(), Vec::new());
    let mut across = Across::default();
    let in_folder = |folder: &'static str| sources.iter().filter(move |source| source.file.split('/').next() == Some(folder));
    for source in in_folder(PROVIDERS) {
        let Read { written, whole } = read::<ProviderFile>(source, &mut faults);
        across.providers.push(source.stem().to_owned());
        if let Some(file) = written {
            across.one_stand_in(source, &file, &mut faults);
            providers.extend(provider::check(&mut ValidateContext { source, whole, faults: &mut faults }, &file));
        }
    }
    for source in in_folder(MODELS) {
        let Read { written, whole } = read::<ModelFile>(source, &mut faults);
        if let Some(file) = written {
            across.names_and_providers(source, &file, &mut faults);
            models.extend(model::check(&mut ValidateContext { source, whole, faults: &mut faults }, &file));
        }
    }
    let mut workflows = Vec::new();
    for source in in_folder(WORKFLOWS) {
        let Read { written, whole } = read::<WorkflowFile>(source, &mut faults);
        if let Some(file) = written {
            let known = |name: &str| across.names.contains_key(name);
            workflows.extend(workflow::check(&mut ValidateContext { source, whole, faults: &mut faults }, &file, &known));
        }
    }
    if let Some(faults) = Faults::new(faults) {
        return Err(faults);
    }
    let completed = models.into_iter().map(|(model, found)| {
        let offerings = found.into_iter().map(|found| found.complete(&providers)).collect();
        Model { offerings, ..model }
    });
    let models = completed.collect();
    Ok(Checked { providers, models, workflows })
}

/// The place of a written value. It is turned into line and column only for a report, because that
/// takes a walk through the file.
type Written<'a> = (&'a Source, usize);

/// Values from earlier files, each with its place.
#[derive(Default)]
struct Across<'a> {
    /// Ids by file name: a provider whose file has a fault still exists.
    providers: Vec<String>,
    stand_in: Option<Written<'a>>,
    /// Ids and aliases of models.
    names: HashMap<String, Written<'a>>,
}

impl<'a> Across<'a> {
    fn one_stand_in(&mut self, source: &'a Source, file: &ProviderFile, faults: &mut Vec<Fault>) {
        let Some(written) = file.stand_in.as_ref().filter(|written: &&Spanned<bool>| *written.get_ref()) else { return };
        match &self.stand_in {
            Some(place) => {
                let message = format!("`stand_in` is already true at {}; at most one provider may have it", describe(*place));
                faults.push(source.fault(written.span(), message));
            }
            None => self.stand_in = Some((source, written.span().start)),
        }
    }

    fn names_and_providers(&mut self, source: &'a Source, file: &ModelFile, faults: &mut Vec<Fault>) {
        for model in file.model.iter().map(Spanned::get_ref) {
            for name in model.id.iter().chain(&model.aliases) {
                match self.names.entry(name.get_ref().clone()) {
                    Entry::Occupied(earlier) => {
                        let place = describe(*earlier.get());
                        let message = format!("the name {:?} is already used at {place}; ids and aliases are unique", name.get_ref());
                        faults.push(source.fault(name.span(), message));
                    }
                    Entry::Vacant(free) => {
                        free.insert((source, name.span().start));
                    }
                }
            }
            let mut offered: Vec<&str> = Vec::new();
            for provider in model.offering.iter().filter_map(|offering| offering.get_ref().provider.as_ref()) {
                let id = provider.get_ref().as_str();
                if !self.providers.iter().any(|known| known == id) {
                    let known = self.providers.join("`, `");
                    faults.push(source.fault(provider.span(), format!("`provider` is {id:?}; it must be one of `{known}`")));
                } else if offered.contains(&id) {
                    faults.push(source.fault(provider.span(), format!("the provider {id:?} offers this model twice; write one offering")));
                }
                offered.push(id);
            }
        }
    }
}

fn describe((source, offset): Written<'_>) -> String {
    let place = source.place(offset);
    format!("{}:{}:{}", source.file, place.line, place.column)
}
