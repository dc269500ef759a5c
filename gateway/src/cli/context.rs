//! Which server, key and tenant: flags beat the environment, which beats the context file.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    args::{self, Global, OutputOnly},
    failure::{Exit, Failure},
    output::{self, Environment, Table, emit},
};

/// Where the gateway is when nobody says: the demo's address.
const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";
/// Larger files are not a context file.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// How to reach a gateway.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// URL without a trailing slash.
    pub server: String,
    /// API key.
    pub token: Option<SecretString>,
    /// Tenant, if it was said.
    pub tenant: Option<String>,
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The flag and the variable that say where it is.
    pub said_with: &'static str,
}

/// What says where the API is.
pub(super) const SERVER_SAID_WITH: &str = "--server or MERIDIAN_SERVER";

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: Vec<Entry>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
}

/// The context files in order; the first is the one that is written.
fn paths(env: &Environment) -> Vec<PathBuf> {
    if let Some(list) = env.set("MERIDIAN_CONFIG") {
        return list.split(':').filter(|p| !p.is_empty()).map(PathBuf::from).collect();
    }
    let base = env.set("XDG_CONFIG_HOME").map(PathBuf::from);
    let base = base.or_else(|| env.set("HOME").map(|home| Path::new(&home).join(".config")));
    base.map(|b| vec![b.join("meridian").join("config.yaml")]).unwrap_or_default()
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::Error, format!("context file {}: {why}", path.display()))
        .next("mend or remove it; `meridian context set` writes a new one")
}

fn read(path: &Path) -> Result<ContextFile, Failure> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(ContextFile::default()),
        Err(e) => return Err(unusable(path, &e.to_string())),
        Ok(meta) if meta.len() > FILE_LEN_MAX => return Err(unusable(path, "it is larger than 1 MiB")),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|e| unusable(path, &e.to_string()))?;
    if text.trim().is_empty() {
        return Ok(ContextFile::default());
    }
    serde_saphyr::from_str(&text).map_err(|e| unusable(path, &e.to_string()))
}

/// All files as one: of equal names, and of several current ones, the first counts.
fn merged(env: &Environment) -> Result<ContextFile, Failure> {
    let mut all = ContextFile::default();
    for path in paths(env) {
        let file = read(&path)?;
        all.current = all.current.or(file.current);
        for entry in file.contexts {
            if !all.contexts.iter().any(|e| e.name == entry.name) {
                all.contexts.push(entry);
            }
        }
    }
    Ok(all)
}

fn no_such(name: &str, file: &ContextFile) -> Failure {
    let known = file.contexts.iter().map(|e| e.name.as_str()).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "none yet".to_owned() } else { known };
    Failure::new(Exit::Usage, format!("there is no context {name:?}; known: {known}"))
        .next(format!("make it with `meridian context set {name} --server URL --token -`"))
}

/// Puts together what flags, environment and context file say.
///
/// # Errors
/// A context file that cannot be read, or a context that does not exist.
pub(super) fn resolve(global: &Global, env: &Environment) -> Result<Connection, Failure> {
    let file = merged(env)?;
    let named = global.context.clone().or_else(|| env.set("MERIDIAN_CONTEXT")).or_else(|| file.current.clone());
    let entry = match named {
        None => Entry::default(),
        Some(name) => file.contexts.iter().find(|e| e.name == name).cloned().ok_or_else(|| no_such(&name, &file))?,
    };
    let pick = |flag: &Option<String>, var: &str, kept: Option<String>| flag.clone().or_else(|| env.set(var)).or(kept);
    let server = pick(&global.server, "MERIDIAN_SERVER", entry.server).unwrap_or_else(|| SERVER_DEFAULT.to_owned());
    let server = if server.contains("://") { server } else { format!("http://{server}") };
    Ok(Connection {
        server: server.trim_end_matches('/').to_owned(),
        token: pick(&global.token, "MERIDIAN_TOKEN", entry.token).map(SecretString::from),
        tenant: pick(&global.tenant, "MERIDIAN_TENANT", entry.tenant),
        ca_file: global.ca_file.clone().or_else(|| env.set("MERIDIAN_CA_FILE").map(PathBuf::from)).or(entry.ca_file),
        said_with: SERVER_SAID_WITH,
    })
}

/// `meridian context`.
///
/// # Errors
/// The file cannot be read or written, or there is no such context.
pub(super) fn run(command: &args::Context, global: &Global, env: &Environment) -> Result<(), Failure> {
    let path = paths(env).into_iter().next();
    let path = path.ok_or_else(|| {
        Failure::new(Exit::Error, "there is no home directory to keep contexts in")
            .next("set MERIDIAN_CONFIG to a file")
    })?;
    match command {
        args::Context::Set { name } => set(&path, name, global),
        args::Context::Use { name } => {
            let all = merged(env)?;
            if !all.contexts.iter().any(|e| e.name == *name) {
                return Err(no_such(name, &all));
            }
            let mut file = read(&path)?;
            file.current = Some(name.clone());
            write(&path, &file)?;
            output::note(&format!("context {name} is the current one\n"));
            Ok(())
        }
        args::Context::List(form) => list(&merged(env)?, *form),
    }
}

fn set(path: &Path, name: &str, global: &Global) -> Result<(), Failure> {
    let mut file = read(path)?;
    let token = match global.token.as_deref() {
        Some("-") => {
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line);
            read.map_err(|e| Failure::new(Exit::Error, format!("cannot read the key from stdin: {e}")))?;
            Some(line.trim().to_owned())
        }
        other => other.map(str::to_owned),
    };
    let mut entry = file.contexts.iter().find(|e| e.name == name).cloned().unwrap_or_default();
    name.clone_into(&mut entry.name);
    entry.server = global.server.clone().or(entry.server);
    entry.token = token.or(entry.token);
    entry.tenant = global.tenant.clone().or(entry.tenant);
    entry.ca_file = global.ca_file.clone().or(entry.ca_file);
    file.contexts.retain(|e| e.name != name);
    file.contexts.push(entry);
    file.current = file.current.or_else(|| Some(name.to_owned()));
    write(path, &file)?;
    output::note(&format!("context {name} is kept in {}\n", path.display()));
    Ok(())
}

/// Writes the file so that only its owner can read it, whole or not at all.
fn write(path: &Path, file: &ContextFile) -> Result<(), Failure> {
    let text = serde_saphyr::to_string(file).map_err(|e| unusable(path, &e.to_string()))?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| unusable(path, &e.to_string()))?;
    }
    let fresh = path.with_extension("new");
    super::write_private(&fresh, text.as_bytes())
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|e| unusable(path, &e.to_string()))
}

fn list(file: &ContextFile, form: OutputOnly) -> Result<(), Failure> {
    use args::Format;
    // Keys stay out of every form.
    let shown: Vec<serde_json::Value> = file
        .contexts
        .iter()
        .map(|e| {
            serde_json::json!({
                "name": e.name, "server": e.server, "tenant": e.tenant, "hasToken": e.token.is_some(),
                "current": file.current.as_ref() == Some(&e.name),
            })
        })
        .collect();
    let value = serde_json::Value::Array(shown);
    match form.output {
        Format::Json => emit(&output::json(&value)),
        Format::Yaml => emit(&output::yaml(&value)?),
        Format::Name => emit(&file.contexts.iter().map(|e| format!("{}\n", e.name)).collect::<String>()),
        Format::Table | Format::Wide => {
            let mut table = Table::new(vec!["CURRENT", "NAME", "SERVER", "TENANT", "KEY"]);
            for e in &file.contexts {
                let mark = if file.current.as_ref() == Some(&e.name) { "*" } else { "" };
                let key = e.token.as_deref().map(|t| redacted(&SecretString::from(t))).unwrap_or_default();
                let (server, tenant) = (e.server.clone().unwrap_or_default(), e.tenant.clone().unwrap_or_default());
                table.row(vec![mark.to_owned(), e.name.clone(), server, tenant, key]);
            }
            emit(&table.render())
        }
    }
}

/// Enough of a key to recognise it by: its public part.
fn redacted(token: &SecretString) -> String {
    let text = token.expose_secret();
    let public: Vec<&str> = text.splitn(4, '_').take(3).collect();
    if text.starts_with("mrd_") && public.len() == 3 { format!("{}_…", public.join("_")) } else { "…".to_owned() }
}

#[cfg(test)]
mod tests {
    use meridian_model::time::Time;

    use super::*;

    fn env(vars: Vec<(&'static str, String)>) -> Environment {
        Environment {
            var: Box::new(move |n| vars.iter().find(|(k, _)| *k == n).map(|(_, v)| v.clone())),
            now: Time::from_unix_ms(0),
            program: String::new(),
            stdin_is_terminal: false,
            stderr_is_terminal: false,
        }
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        let file = |extra: Vec<(&'static str, String)>| {
            let mut vars = vec![("MERIDIAN_CONFIG", path.display().to_string())];
            vars.extend(extra);
            env(vars)
        };
        let global = Global {
            server: Some("http://kept:1/".to_owned()),
            token: Some("mrd_demo_k1_secret".to_owned()),
            tenant: Some("acme".to_owned()),
            ..Global::default()
        };
        set(&path, "demo", &global).unwrap();
        let kept = resolve(&Global::default(), &file(vec![])).unwrap();
        assert_eq!((kept.server.as_str(), kept.tenant.as_deref()), ("http://kept:1", Some("acme")));
        let vars = vec![("MERIDIAN_SERVER", "from-env:2".to_owned()), ("MERIDIAN_TENANT", "lab".to_owned())];
        let flags = Global { tenant: Some("flag".to_owned()), ..Global::default() };
        let mixed = resolve(&flags, &file(vars)).unwrap();
        assert_eq!((mixed.server.as_str(), mixed.tenant.as_deref()), ("http://from-env:2", Some("flag")));
        assert!(mixed.token.is_some());
        let missing = resolve(&Global { context: Some("x".to_owned()), ..Global::default() }, &file(vec![]));
        assert_eq!(missing.unwrap_err().exit, Exit::Usage);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_the_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join("c.yaml");
        set(&path, "demo", &Global { token: Some("t".to_owned()), ..Global::default() }).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_is_recognised_by_its_public_part() {
        assert_eq!(redacted(&SecretString::from("mrd_demo_acme_abcdef")), "mrd_demo_acme_…");
        assert_eq!(redacted(&SecretString::from("whatever")), "…");
    }
}
