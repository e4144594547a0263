//! One key, one answer: ping, status, get, put, delete.

use crate::{
    arguments::{Delete, Get, Output, Put},
    failure::Failure,
    form::{render, table},
    print, print_bytes,
    session::Session,
};
use quantadb::{client::Version, types::limits::VALUE_BYTES_MAX};
use std::{
    fs,
    io::{self, Read},
};

pub async fn ping(session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let took = client.ping().await.map_err(|error| session.read_failed(error))?;
    let ms = took.as_secs_f64() * 1000.0;
    match session.form.output {
        Output::Table => print(&format!("{} answered in {ms:.3} ms", session.addresses())),
        Output::Json => print(&format!(r#"{{"milliseconds":{ms:.3}}}"#)),
        Output::Raw => print(&format!("{ms:.3}")),
    }
}

pub async fn status(session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let status = client.status().await.map_err(|error| session.read_failed(error))?;
    let mut fields = vec![
        ("server", status.server_name),
        ("cluster", status.cluster.to_string()),
        ("node", status.node.0.to_string()),
        ("role", format!("{:?}", status.role).to_lowercase()),
        ("term", status.term.0.to_string()),
        ("version", status.version.to_string()),
        ("uptime_seconds", format!("{:.3}", status.uptime.as_secs_f64())),
    ];
    let texts = 4;
    let counters = status.counters.iter().map(|counter| (counter.name.as_str(), counter.value.to_string()));
    fields.extend(counters);
    match session.form.output {
        Output::Json => {
            let quoted = |at: usize, value: &str| {
                if at < texts { serde_json::Value::from(value).to_string() } else { value.to_owned() }
            };
            let members = fields
                .iter()
                .enumerate()
                .map(|(at, (name, value))| format!("{}:{}", serde_json::Value::from(*name), quoted(at, value)));
            print(&format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
        }
        Output::Raw => print(&fields.iter().map(|(name, value)| format!("{name}\t{value}\n")).collect::<String>()),
        Output::Table => {
            let mut rows = table(&[]);
            for (name, value) in fields {
                rows.add_row([name, &value]);
            }
            print(&render(&rows))
        }
    }
}

pub async fn get(session: &Session, get: &Get) -> Result<(), Failure> {
    let form = session.form;
    let key = form.read("key", &get.key)?;
    let client = session.connect().await?;
    let keyspace = session.keyspace(&client, false).await?;
    let found = keyspace.get(&key).await.map_err(|error| session.read_failed(error))?;
    let Some(found) = found else { return Err(Failure::NotFound(form.show(&key))) };
    match form.output {
        Output::Raw => print_bytes(&found.value),
        Output::Table => print(&form.show(&found.value)),
        Output::Json => {
            let (key, value) = (form.json(&key), form.json(&found.value));
            print(&format!(r#"{{"key":{key},"value":{value},"version":{}}}"#, found.version))
        }
    }
}

pub async fn put(session: &Session, put: &Put) -> Result<(), Failure> {
    let form = session.form;
    let key = form.read("key", &put.key)?;
    let value = match (&put.value, &put.from) {
        (Some(value), None) => form.read("value", value)?,
        (None, Some(file)) => value_of(file)?,
        _ => return Err(Failure::Usage("put needs a value, or --from FILE, and not both".into())),
    };
    let client = session.connect().await?;
    let keyspace = session.keyspace(&client, true).await?;
    let version = keyspace.put(&key, &value).await.map_err(|error| session.write_failed(error))?;
    written(session, version)
}

/// A file's bytes, or stdin's; not read further than a value may be long.
fn value_of(file: &str) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let most = VALUE_BYTES_MAX as u64 + 1;
    let read = match file {
        "-" => io::stdin().lock().take(most).read_to_end(&mut value),
        _ => fs::File::open(file).and_then(|file| file.take(most).read_to_end(&mut value)),
    };
    read.map_err(|error| Failure::file(file, &error))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::Usage(format!("{file}: longer than a value may be, {VALUE_BYTES_MAX} bytes")));
    }
    Ok(value)
}

pub async fn delete(session: &Session, delete: &Delete) -> Result<(), Failure> {
    let key = session.form.read("key", &delete.key)?;
    let client = session.connect().await?;
    let keyspace = session.keyspace(&client, false).await?;
    let version = keyspace.delete(&key).await.map_err(|error| session.write_failed(error))?;
    written(session, version)
}

/// The version that a write created.
pub fn written(session: &Session, version: Version) -> Result<(), Failure> {
    match session.form.output {
        Output::Table => print(&format!("version {version}")),
        Output::Json => print(&format!(r#"{{"version":{version}}}"#)),
        Output::Raw => print(&version.to_string()),
    }
}
