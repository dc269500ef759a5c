//! The `meridian` binary: allocator, arguments, crypto provider, dispatch, exit code; nothing else.

use std::process::ExitCode;

use meridian_gateway::{
    cli::{self, Environment},
    clock::Clock,
};

/// A create makes some thousand small allocations on one thread and frees them on another, where this allocator needs
/// about half the time of the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // An error means that a provider is installed already; there is only this one in the binary.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let program = std::env::args().next().unwrap_or_else(|| "meridian".to_owned());
    let env = Environment::of_process(program, |name| std::env::var(name).ok(), Clock::system().now());
    cli::main(std::env::args_os(), &env)
}
