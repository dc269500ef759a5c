//! Project tasks, run as `cargo xtask NAME`.

#![expect(clippy::print_stdout, reason = "a task talks to the person who runs it")]

mod metadata;
mod proofs;
mod tasks;
mod tidy;

use anyhow::bail;

const USAGE: &str = "usage: cargo xtask TASK
  test       everything CI runs: fmt, clippy, tidy, vendor SDKs, doc tests, proofs, all tests
  proofs     short simulation (100 histories), planted bugs and chaos, from one optimised build; about 10 minutes
  tidy       invariants of the workspace: who may depend on what, words, sizes, licences
  sdk-venv   a Python environment with the vendors' SDKs, for the tests that run them";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["test"] => tasks::test(),
        ["proofs"] => tasks::proofs(),
        ["tidy"] => tidy::run(),
        ["sdk-venv"] => tasks::sdk_venv(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}
