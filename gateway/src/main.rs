//! The `meridian` binary: arguments, crypto provider, dispatch, exit code; nothing else.

use std::process::ExitCode;

use meridian_gateway::{
    cli::{self, Environment},
    clock::Clock,
};

fn main() -> ExitCode {
    // An error means that a provider is installed already; there is only this one in the binary.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let program = std::env::args().next().unwrap_or_else(|| "meridian".to_owned());
    let env = Environment::of_process(program, |name| std::env::var(name).ok(), Clock::system().now());
    cli::main(std::env::args_os(), &env)
}
