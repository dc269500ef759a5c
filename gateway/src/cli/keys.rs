//! `auth`: who a credential is, and keys made, rotated and ended at the gateway.

use serde_json::{Map, Value, json};

use super::{
    args::{Auth, CreateKey, Format},
    client::{Ask, Client, encode},
    failure::{Exit, Failure},
    output::{self, emit, items, note, one_line, scalar, text},
};

/// The verbs of `auth` that speak to a gateway.
///
/// # Errors
/// What the gateway refuses with.
pub(super) async fn auth(client: &Client, command: &Auth) -> Result<(), Failure> {
    match command {
        // Made in this process, without a gateway.
        Auth::NewKey { .. } => Ok(()),
        Auth::Whoami(output) => {
            let who = client.read("/v1/whoami").await?;
            show(&who, output.output, &[("TENANT", "/tenant"), ("PRINCIPAL", "/principal"), ("ROLE", "/role")])?;
            if matches!(output.output, Format::Table | Format::Wide) {
                let may: Vec<&str> = items(&who, "/permissions").iter().filter_map(Value::as_str).collect();
                emit(&format!("MAY        {}\n", one_line(&may.join(", "))))?;
            }
            Ok(())
        }
        Auth::CreateKey(wish) => {
            let path = format!("/v1/tenants/{}/keys", encode(client.tenant().await?));
            made(client, Ask::post(path, &body(wish), &uuid::Uuid::new_v4().to_string()), wish.output.output).await
        }
        Auth::RotateKey { key, grace, output } => {
            let path = format!("/v1/tenants/{}/keys/{}:rotate", encode(client.tenant().await?), encode(key));
            let body = grace.map_or_else(|| json!({}), |grace| json!({ "grace": grace.to_string() }));
            made(client, Ask::post(path, &body, &uuid::Uuid::new_v4().to_string()), output.output).await
        }
        Auth::RevokeKey { key } => {
            let path = format!("/v1/tenants/{}/keys/{}", encode(client.tenant().await?), encode(key));
            let answer = client.ask(Ask::delete(path)).await?;
            client.good(&answer)?;
            emit(&format!("key/{} opens nothing any more\n", one_line(key)))
        }
        Auth::CreateServiceAccount(wish) => {
            let path = format!("/v1/tenants/{}/serviceAccounts", encode(client.tenant().await?));
            let mut body =
                Map::from_iter([("name".to_owned(), json!(wish.name)), ("role".to_owned(), json!(wish.role))]);
            for (name, value) in
                [("project", &wish.project), ("expires", &wish.expires), ("displayName", &wish.display_name)]
            {
                body.extend(value.as_ref().map(|value| (name.to_owned(), json!(value))));
            }
            let ask = Ask::post(path, &Value::Object(body), &uuid::Uuid::new_v4().to_string());
            let answer = client.ask(ask).await?;
            client.good(&answer)?;
            match wish.output.output {
                Format::Json | Format::Yaml => show(&answer.json(), wish.output.output, &[]),
                Format::Table | Format::Wide => emit(&format!("service-account/{} created\n", one_line(&wish.name))),
                Format::Name => emit(&format!("service-account/{}\n", one_line(&wish.name))),
            }
        }
        Auth::DeleteServiceAccount { name } => {
            let tenant = encode(client.tenant().await?);
            let answer =
                client.ask(Ask::delete(format!("/v1/tenants/{tenant}/serviceAccounts/{}", encode(name)))).await?;
            client.good(&answer)?;
            emit(&format!("service-account/{} deleted; its keys open nothing any more\n", one_line(name)))
        }
    }
}

fn body(wish: &CreateKey) -> Value {
    let mut body = Map::new();
    for (name, value) in [
        ("displayName", &wish.display_name),
        ("role", &wish.role),
        ("project", &wish.project),
        ("serviceAccount", &wish.service_account),
    ] {
        body.extend(value.as_ref().map(|value| (name.to_owned(), Value::from(value.as_str()))));
    }
    body.extend(wish.ttl.map(|ttl| ("ttl".to_owned(), Value::from(ttl.to_string()))));
    if !wish.permission.is_empty() {
        body.insert("permissions".to_owned(), json!(wish.permission));
    }
    Value::Object(body)
}

/// Asks for a secret and shows it.
async fn made(client: &Client, ask: Ask, format: Format) -> Result<(), Failure> {
    let answer = client.ask(ask).await?;
    client.good(&answer)?;
    let value = answer.json();
    match format {
        Format::Name => emit(&format!("{}\n", one_line(text(&value, "/key")))),
        Format::Table | Format::Wide => {
            note("The key is not shown again.\n");
            let until = scalar(&value, "/formerSecretUntil");
            if !until.is_empty() {
                note(&format!("Its former secret is good until {until}.\n"));
            }
            emit(&format!("{}\n", one_line(text(&value, "/key"))))
        }
        Format::Json | Format::Yaml => show(&value, format, &[]),
    }
}

fn show(value: &Value, format: Format, rows: &[(&str, &str)]) -> Result<(), Failure> {
    match format {
        Format::Json => emit(&output::json(value)),
        Format::Yaml => emit(&output::yaml(value)?),
        Format::Name => Err(Failure::new(Exit::Usage, "this has no resource name; use -o table or -o json")),
        Format::Table | Format::Wide => {
            let line = |(name, pointer): &(&str, &str)| {
                let value = scalar(value, pointer);
                format!("{name:<10} {}\n", if value.is_empty() { "-".to_owned() } else { one_line(&value) })
            };
            emit(&rows.iter().map(line).collect::<String>())
        }
    }
}
