//! On the operating system's files and threads.

use super::*;
use crate::testing::directory::TemporaryDirectory;

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_reopen() {
    let env = Env::real();
    let directory = TemporaryDirectory::new("log");
    let path = directory.path().join("data/log");
    let (log, recovered) = Log::open(&env, &path, options(64 << 10)).unwrap();
    assert_eq!(recovered, Recovered { vote: None, purged: None, last: None, cut: None });
    let mut answers = Vec::new();
    for index in 0..100 {
        let (done, answer) = done();
        log.append(vec![entry(1, index, 3000)], done);
        answers.push(answer);
    }
    for answer in answers {
        answer.recv().unwrap().unwrap();
    }
    for (call, answer) in [0, 1, 2].map(|call| (call, done())).map(|(call, (done, answer))| {
        match call {
            0 => log.save_vote(vote(4), done),
            1 => log.truncate_after(Some(id(1, 89)), done),
            _ => log.purge(id(1, 39), done),
        }
        (call, answer)
    }) {
        assert!(answer.recv().unwrap().is_ok(), "{call}");
    }
    let entries = log.read(40, 1000, usize::MAX).unwrap();
    assert_eq!(entries, (40..90).map(|index| entry(1, index, 3000)).collect::<Vec<_>>());
    assert!(matches!(log.read(39, 50, 1), Err(LogError::Purged { .. })));
    log.close().await.unwrap();
    assert!(matches!(log.read(40, 50, 1), Err(LogError::Closed)));
    drop(log);

    let (log, recovered) = Log::open(&env, &path, options(64 << 10)).unwrap();
    assert_eq!(recovered, Recovered { vote: Some(vote(4)), purged: Some(id(1, 39)), last: Some(id(1, 89)), cut: None });
    assert_eq!(log.read(40, 1000, usize::MAX).unwrap(), entries);
    assert_eq!(log.read(60, 1000, 6000).unwrap(), entries[20..22]);
    assert_eq!(log.read(60, 1000, 1).unwrap(), entries[20..21]);
    let (done, answer) = done();
    log.append(vec![entry(2, 90, 1)], done);
    answer.recv().unwrap().unwrap();
    log.close().await.unwrap();
    let report = check(env.files(), &path);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.entries, report.last), (51, Some(id(2, 90))));
}
