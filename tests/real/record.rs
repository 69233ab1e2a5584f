//! Keeps what the real world answered, for the hermetic suite.

use serde::Serialize;

use crate::contract::events::Story;
use crate::contract::questions::{Place, Stage};
use crate::contract::{Recording, file};
use crate::lab::{Lab, block_on};

/// Whether recordings are wanted.
pub fn is_wanted() -> bool {
    std::env::var_os("COASTAL_RECORD").is_some_and(|value| !value.is_empty())
}

/// Puts the stage's questions, and keeps the answers if they are wanted.
pub fn stage(lab: &Lab, stage: Stage) {
    let world = coastal::tools::real_world();
    let place = Place { world: &world, cluster: lab.cluster, paths: &lab.paths };
    let recording: Recording = block_on(place.ask(stage));
    keep(stage.name(), &recording);
}

/// Keeps a run, if that is wanted.
pub fn story(story: &Story) {
    keep("up-events", story);
}

fn keep(name: &str, what: &impl Serialize) {
    if is_wanted() {
        let mut text = serde_json::to_string_pretty(what).expect("it is JSON");
        text.push('\n');
        std::fs::write(file(name), text).expect("the recording can be written");
    }
}
