//! The program `pgtandem`: reads the command line and hands over to the daemon.

use std::process::ExitCode;

use pgtandem::daemon::cli::{self, Invocation};
use pgtandem::daemon::{doctor, helper, start};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Invocation::Version) => cli::answer(&cli::version_text()),
        Ok(Invocation::Help(text)) => cli::answer(&text),
        Ok(Invocation::Check(options)) => start::check(&options),
        Ok(Invocation::Convert { file }) => start::convert(&file),
        Ok(Invocation::Doctor(options)) => doctor::run(&options),
        Ok(Invocation::AddressHelper(options)) => helper::run(&options),
        Ok(Invocation::Run(run)) => start::run(&run),
        Err(error) => cli::refuse(&error),
    }
}
