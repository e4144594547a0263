//! Rows of a range, shown as they come.

use crate::{
    arguments::{Output, Scan},
    failure::Failure,
    form::{Form, Rows},
    interrupt::Interrupt,
    print,
    session::Session,
};
use quantadb::client::{CallOptions, KeyRange};
use std::io::{self, BufWriter};

/// Bytes that gather before they are written.
const BUFFER_BYTES: usize = 64 * 1024;

pub async fn scan(session: &Session, scan: &Scan) -> Result<(), Failure> {
    let range = range(session.form, scan)?;
    if scan.limit == Some(0) {
        return Err(Failure::Usage("--limit is at least 1".into()));
    }
    let client = session.connect().await?;
    // A scan may take as long as it goes on: it has no deadline of its own.
    let keyspace = session.keyspace(&client, false).await?.with(CallOptions::new());
    let mut rows = keyspace.scan(range);
    if let Some(limit) = scan.limit {
        rows = rows.limit(limit);
    }
    if scan.reverse {
        rows = rows.reverse();
    }
    if scan.keys_only {
        rows = rows.keys_only();
    }
    let mut interrupt = Interrupt::listen();
    if scan.count {
        let count = tokio::select! {
            count = rows.count() => count.map_err(|error| session.read_failed(error))?,
            () = interrupt.set() => return Err(Failure::Interrupted("nothing was counted to its end".into())),
        };
        return match session.form.output {
            Output::Json => print(&format!(r#"{{"rows":{count}}}"#)),
            Output::Table | Output::Raw => print(&count.to_string()),
        };
    }
    let output = BufWriter::with_capacity(BUFFER_BYTES, io::stdout());
    let mut shown = Rows::new(session.form, scan.keys_only, output);
    let mut count = 0_u64;
    let end = loop {
        let next = tokio::select! {
            biased;
            () = interrupt.set() => break Err(Failure::Interrupted(format!("{count} rows shown"))),
            next = rows.next() => next,
        };
        match next {
            None => break Ok(()),
            Some(Err(error)) => break Err(session.read_failed(error).after(format!("{count} rows shown before it"))),
            Some(Ok(row)) => {
                shown.push(&row.key, row.version.0, &row.value).map_err(|error| Failure::stdout(&error))?;
                count += 1;
            }
        }
    };
    shown.finish().map_err(|error| Failure::stdout(&error))?;
    end
}

/// The keys asked for.
fn range(form: Form, scan: &Scan) -> Result<KeyRange, Failure> {
    let read = |what: &str, text: &Option<String>| text.as_deref().map(|text| form.read(what, text)).transpose();
    let (prefix, start, end) =
        (read("--prefix", &scan.prefix)?, read("--start", &scan.start)?, read("--end", &scan.end)?);
    match (prefix, start, end) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            Err(Failure::Usage("--prefix excludes --start and --end".into()))
        }
        (Some(prefix), None, None) => Ok(KeyRange::prefix(prefix)),
        (None, start, None) => Ok(KeyRange::from(start.unwrap_or_default()..)),
        (None, start, Some(end)) => Ok(KeyRange::from(start.unwrap_or_default()..end)),
    }
}
