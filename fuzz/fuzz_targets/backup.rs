//! The file of a backup: one byte that says how it is made, then the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use quantadb::{
    backup::{Error, Reader, Row, Summary, Writer},
    types::Version,
};
use quantadb_fuzz::{Counting, bounded, file::file};

#[global_allocator]
static COUNTING: Counting = Counting;

type Rows = Vec<(Vec<u8>, Version, Vec<u8>)>;

fn verify(file: &[u8]) -> Result<Summary, Error> {
    Reader::open(file).and_then(Reader::verify)
}

fn rows(file: &[u8]) -> Rows {
    let mut rows = Rows::new();
    let reader = Reader::open(file).expect("it was whole before");
    let read = reader.read_all(&mut |row| {
        rows.push((row.key.to_vec(), row.version, row.value.to_vec()));
        Ok::<_, Error>(())
    });
    read.expect("it was whole before");
    rows
}

fuzz_target!(|data: &[u8]| {
    let Some(file) = file(data) else { return };
    let summary = match bounded(file.len(), || verify(&file)) {
        Ok(summary) => summary,
        Err(error) => return assert!(error.offset() <= file.len() as u64, "{error}"),
    };
    assert_eq!(summary.file_bytes, file.len() as u64);
    let rows = rows(&file);
    let mut writer = Writer::begin(Vec::new(), summary.header).expect("memory takes it");
    for (key, version, value) in &rows {
        writer.push(&Row { key, version: *version, value }).expect("what is read can be written");
    }
    let (again, written) = writer.finish(summary.clock_ms).expect("memory takes it");
    assert_eq!(Summary { file_bytes: summary.file_bytes, ..written }, summary);
    assert_eq!(verify(&again).ok(), Some(written));
    assert_eq!(crate::rows(&again), rows);
    // Nothing shorter is whole.
    assert!(verify(&file[..file.len() - 1]).is_err());
});
