//! The command line: validated arguments first, then one function for each command.
//!
//! Standard output carries data, standard error everything else.

pub mod arguments;
mod backends;
pub mod bar;
mod check;
mod config;
mod connections;
mod drain;
pub mod exit;
mod explain;
mod mount;
mod page;
mod pod;
mod pods;
mod rebalance;
mod reload;
mod run;
mod services;
mod snapshot;
mod status;
mod top;
mod trace;
mod unload;

use self::{
    arguments::{Arguments, Command},
    exit::Exit,
};
use clap::Parser;
use std::process::ExitCode;

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output, mistakes to standard error.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    match dispatch(arguments) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn dispatch(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Run(run) => run::run(&global, &run),
        Command::Status => status::run(&global),
        Command::Services { service } => services::run(&global, service.as_deref()),
        Command::Backends { service } => backends::run(&global, service.as_deref()),
        Command::Connections(connections) => connections::run(&global, &connections),
        Command::Pods { pod } => pods::run(&global, pod.as_deref()),
        Command::Explain(explain) => explain::run(&global, &explain),
        Command::Trace(trace) => trace::run(&global, &trace),
        Command::Drain(drain) => drain::run(&global, &drain),
        Command::Rebalance(rebalance) => rebalance::run(&global, &rebalance),
        Command::Top(top) => top::run(&global, &top),
        Command::Check => check::run(&global),
        Command::Config(action) => config::run(&global, &action),
        Command::Reload => reload::run(&global),
        Command::Mount => mount::run(&global),
        Command::Unload(unload) => unload::run(&global, unload),
        Command::SelfTestDial { cgroup, frontend } => {
            crate::datapath::self_test::dial_as_child(&cgroup, frontend)?;
            Ok(Exit::Ok)
        }
    }
}
