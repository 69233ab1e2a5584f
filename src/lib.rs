//! `coastal`: the "Day Two Operations for SPIRE" lab as one program.
//!
//! The rooms, from what a person types down to what touches the machine:
//!
//! | room | purpose |
//! |---|---|
//! | [`cli`] | one file per command: arguments and one call |
//! | [`config`] | `lab.toml` -> [`config::Lab`], or every problem at once |
//! | [`spire`] | what SPIRE is: names, values, versions, the types of its JSON output |
//! | [`observe`] | the present, read live |
//! | [`plan`] | pure: a graph of steps as data |
//! | [`backup`] | archives of everything that SPIRE cannot make anew |
//! | [`engine`] | executes a plan, emits events, journals them |
//! | [`steps`] | what a step does |
//! | [`tools`] | the only place that starts processes; kind, helm, kubectl, docker |
//! | [`kube`] | the only place that talks to an API server |
//! | [`rehearsal`] | the embedded world behind the same seams ([`world`]) |
//! | [`workload`] | the program inside the workload's pods, and its image |
//! | [`ui`] | the only place that prints: renders events, tables, failures |
//!
//! Nothing above [`world`] knows which world it is in. `plan` does no I/O.

pub mod assets;
pub mod backup;
pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod files;
pub mod kube;
pub mod observe;
pub mod plan;
pub mod rehearsal;
pub mod session;
pub mod spire;
pub mod steps;
pub mod tools;
pub mod ui;
pub mod workload;
pub mod world;

pub use cli::run;

/// Ends the process and all that it has started, at once: for the second Ctrl-C of somebody who has waited long
/// enough. What was started leads process groups of its own, so the terminal's Ctrl-C does not reach it.
#[expect(clippy::exit, reason = "the only place that ends the process without unwinding")]
pub(crate) fn exit_now(code: error::ExitCode) -> ! {
    tools::process::kill_all();
    std::process::exit(code as i32)
}
