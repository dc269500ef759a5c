//! `version`, `commands`, `completion`: what this program says about itself.

use clap::{ArgAction, Command, CommandFactory as _};
use serde_json::{Value, json};

use super::{
    args::{Cli, Format, Shell},
    client::{Ask, Client},
    failure::Failure,
    output::{self, emit},
};

/// `meridian commands`.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn commands(format: Format) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let tree = node(&command);
    match format {
        Format::Json => emit(&output::json(&tree)),
        Format::Yaml => emit(&output::yaml(&tree)?),
        Format::Table | Format::Wide | Format::Name => {
            let lines = command.get_subcommands().filter(|c| c.get_name() != "help");
            let line = |c: &Command| {
                format!("{:<12}{}\n", c.get_name(), c.get_about().map(ToString::to_string).unwrap_or_default())
            };
            emit(&lines.map(line).collect::<String>())
        }
    }
}

fn node(command: &Command) -> Value {
    let arguments: Vec<Value> = command
        .get_arguments()
        .filter(|a| !a.is_hide_set() && !["help", "version"].contains(&a.get_id().as_str()))
        .map(|a| {
            let takes_value = matches!(a.get_action(), ArgAction::Set | ArgAction::Append);
            let defaults: Vec<_> = a.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
            let values: Vec<_> = a.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
            json!({
                "name": a.get_id().as_str(),
                "long": a.get_long(),
                "short": a.get_short(),
                "help": a.get_help().map(ToString::to_string),
                "required": a.is_required_set(),
                "repeatable": matches!(a.get_action(), ArgAction::Append),
                "takesValue": takes_value,
                "values": if takes_value { values } else { Vec::new() },
                "default": if takes_value { defaults } else { Vec::new() },
            })
        })
        .collect();
    let below: Vec<Value> = command.get_subcommands().filter(|c| c.get_name() != "help").map(node).collect();
    json!({
        "name": command.get_name(),
        "about": command.get_about().map(ToString::to_string),
        "examples": command.get_after_help().map(ToString::to_string),
        "arguments": arguments,
        "commands": below,
    })
}

/// `meridian completion`.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn completion(shell: Shell) -> Result<(), Failure> {
    use clap_complete::{generate, shells};
    let mut command = Cli::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, "meridian", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, "meridian", &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, "meridian", &mut script),
        Shell::Powershell => generate(shells::PowerShell, &mut command, "meridian", &mut script),
    }
    emit(&String::from_utf8_lossy(&script))
}

/// `meridian version`: this program's, and the server's if one answers. A server that is not there is no error.
///
/// # Errors
/// Standard output cannot be written.
pub(super) async fn version(client: Option<&Client>, format: Format) -> Result<(), Failure> {
    let client_version = env!("CARGO_PKG_VERSION");
    let server = match client {
        Some(client) => {
            let answer = client.ask(Ask::get("/version")).await.ok().filter(|a| a.status.is_success());
            answer.map(|a| a.json().get("version").cloned().unwrap_or(Value::Null))
        }
        None => None,
    };
    let value = json!({"client": client_version, "server": server, "address": client.map(Client::server)});
    match format {
        Format::Json => emit(&output::json(&value)),
        Format::Yaml => emit(&output::yaml(&value)?),
        Format::Table | Format::Wide | Format::Name => {
            let server = server.as_ref().and_then(Value::as_str);
            let line = match (server, client) {
                (Some(version), Some(client)) => format!("server {version} at {}\n", client.server()),
                _ => "server does not answer\n".to_owned(),
            };
            emit(&format!("meridian {client_version}\n{line}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_says_what_it_does_and_shows_how() {
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands().filter(|c| c.get_name() != "help") {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            let plain = ["version", "commands"].contains(&verb.get_name());
            assert!(plain || verb.get_after_help().is_some(), "{} has no example", verb.get_name());
        }
    }
}
