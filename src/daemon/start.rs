//! Start-up on one screen.

use std::path::Path;
use std::process::ExitCode;

use super::cli::Run;
use super::configure;
use super::run::{Daemon, Listeners};

pub fn check(_file: &Path, _quiet: bool) -> ExitCode { ExitCode::SUCCESS }
pub fn convert(_file: &Path) -> ExitCode { ExitCode::SUCCESS }
pub fn run(run: &Run) -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).init();
    match serve(run) { Ok(()) => ExitCode::SUCCESS, Err(e) => { tracing::error!("{e:#}"); ExitCode::FAILURE } }
}

fn serve(run: &Run) -> anyhow::Result<()> {
    let (config, problems) = configure::read(&run.config)?;
    for p in problems { tracing::warn!("{p}"); }
    let listeners = Listeners::open(&config)?;
    let threads = match config.settings.worker_threads { 0 => std::thread::available_parallelism().map_or(1, usize::from), n => n as usize };
    let mut builder = if threads == 1 { tokio::runtime::Builder::new_current_thread() } else { tokio::runtime::Builder::new_multi_thread() };
    if threads > 1 { builder.worker_threads(threads); }
    let runtime = builder.enable_all().build()?;
    runtime.block_on(async {
        let daemon = Daemon::new(config, run.config.clone())?;
        daemon.serve(listeners).await?;
        Ok(())
    })
}
