//! What clients do, and what must hold of it whatever the order.
//!
//! | keys | what is done | what holds |
//! |---|---|---|
//! | `bank/` | transfers | the sum |
//! | `skew/n/` x, y | one of two is switched off if both are on | one is on |
//! | `loose/n/` x, y | the same under snapshot isolation | nothing: write skew is allowed |
//! | `list/` | appends, atomic or read and written | – |
//! | `sum/` | adds with results | – |
//! | `group/n/` | inserted into while the range has fewer than [`GROUP_MAX`] | no group has more |
//! | `queue/` | the first or last row is taken | – |
//! | `wide/` | rows of 4 KiB, so that a scan is longer than a chunk | – |
//! | `blind/` | puts without a name, whose outcome may stay unknown | – |

use super::{
    client::{Abandoned, Client, How, Interactive, key, under},
    message::{Do, Message},
};
use bytes::Bytes;
use quantadb::{
    testing::history::{Condition, Found, Outcome, RangeRead},
    txn::AtomicOp,
    types::{FullKey, Isolation, KeyRange, Version},
};

pub const ACCOUNTS: u64 = 10;
pub const BALANCE: i64 = 100;
pub const PAIRS: u64 = 4;
const LISTS: u64 = 3;
const LIST_BYTES_MAX: usize = 300;
const SUMS: u64 = 3;
pub const GROUPS: u64 = 3;
pub const GROUP_MAX: u64 = 6;
const WIDE: u64 = 24;
const WIDE_BYTES: usize = 4_096;
const BLIND: u64 = 4;

pub fn account(number: u64) -> FullKey {
    key(&format!("bank/{number:02}"))
}

/// A balance, and text that makes the value its writer's own.
fn balance(found: Option<&Found>) -> i64 {
    let value = found.and_then(|found| found.value.as_ref()).expect("every account is there");
    let text = std::str::from_utf8(value).expect("a balance is text");
    text.split(' ').next().and_then(|balance| balance.parse().ok()).expect("a balance is a number")
}

fn valued(client: &mut Client, value: impl std::fmt::Display) -> Bytes {
    format!("{value} {}", client.unique()).into()
}

fn is_on(found: Option<&Found>) -> bool {
    found.and_then(|found| found.value.as_ref()).is_some_and(|value| value.starts_with(b"on"))
}

pub fn assert_sum(rows: &[(FullKey, Found)]) {
    let sum: i64 = rows.iter().map(|(_, row)| balance(Some(row))).sum();
    assert_eq!(sum, BALANCE * ACCOUNTS as i64, "money was made or lost: {rows:?}");
}

/// What is there before anything else.
pub fn load(client: &mut Client) {
    let mut then = Vec::new();
    for number in 0..ACCOUNTS {
        then.push(Do::Put(account(number), valued(client, BALANCE)));
    }
    for pair in 0..PAIRS {
        for name in ["skew", "loose"] {
            for side in ["x", "y"] {
                then.push(Do::Put(key(&format!("{name}/{pair}/{side}")), valued(client, "on")));
            }
        }
    }
    let loaded = client.commit("load", Message::OneShot { conditions: Vec::new(), then, otherwise: Vec::new() });
    assert!(matches!(loaded, Outcome::Committed(_)), "{loaded:?}");
    for row in 0..WIDE {
        write_wide(client, row);
    }
}

/// One thing, whichever it is.
pub fn anything(client: &mut Client) {
    match client.random.below(100) {
        0..=11 => transfer(client),
        12..=19 => transfer_at_once(client),
        20..=23 => audit(client),
        24..=33 => skew(client, "skew", Isolation::Serializable),
        34..=38 => skew(client, "loose", Isolation::Snapshot),
        39..=46 => append(client),
        47..=53 => add(client),
        54..=69 => insert(client),
        70..=76 => clear(client),
        77..=86 => queue(client),
        87..=90 => wide(client),
        91..=95 => blind(client),
        _ => look(client),
    }
}

fn two_accounts(client: &mut Client) -> (FullKey, FullKey) {
    let from = client.random.below(ACCOUNTS);
    let to = (from + 1 + client.random.below(ACCOUNTS - 1)) % ACCOUNTS;
    (account(from), account(to))
}

/// Interactive; also under snapshot isolation, which keeps the sum, for every key read is written.
fn transfer(client: &mut Client) {
    let (from, to) = two_accounts(client);
    let isolation = if client.random.once_in(4) { Isolation::Snapshot } else { Isolation::Serializable };
    let amount = client.random.below(20) as i64;
    client.interactive("transfer", isolation, |client, within| {
        let (left, right) = if client.random.once_in(2) {
            let told = client.get_many(within, &[from.clone(), to.clone()])?;
            (balance(told[0].as_ref()), balance(told[1].as_ref()))
        } else {
            let left = balance(client.get(within, &from)?.as_ref());
            (left, balance(client.get(within, &to)?.as_ref()))
        };
        let value = valued(client, left - amount);
        client.put(within, &from, &value);
        if client.random.once_in(3) {
            client.savepoint(within, "before");
            let nonsense = valued(client, 1_000_000);
            client.put(within, &to, &nonsense);
            if client.random.once_in(2) {
                assert_eq!(balance(client.get(within, &to)?.as_ref()), 1_000_000, "its own write");
            }
            client.delete(within, &from);
            client.rollback_to(within, "before");
            assert_eq!(balance(client.get(within, &from)?.as_ref()), left - amount, "what was before the savepoint");
        }
        let value = valued(client, right + amount);
        client.put(within, &to, &value);
        Ok(())
    });
}

/// One-shot, if neither account has changed since it was read.
fn transfer_at_once(client: &mut Client) {
    let (from, to) = two_accounts(client);
    let Some(told) = client.read(&[from.clone(), to.clone()]) else { return };
    let amount = client.random.below(20) as i64;
    let version = |found: &Option<Found>| found.as_ref().map_or(Version::ZERO, |found| found.version);
    let conditions = vec![
        (from.clone(), Condition::VersionEquals(version(&told[0]))),
        (to.clone(), Condition::VersionEquals(version(&told[1]))),
    ];
    let left = valued(client, balance(told[0].as_ref()) - amount);
    let right = valued(client, balance(told[1].as_ref()) + amount);
    let then = vec![Do::Put(from.clone(), left), Do::Put(to.clone(), right), Do::Get(from.clone())];
    let otherwise = vec![Do::Get(from), Do::Get(to)];
    client.commit("one-shot transfer", Message::OneShot { conditions, then, otherwise });
}

fn audit(client: &mut Client) {
    let bank = under("bank/");
    match client.random.below(4) {
        0 => {
            let accounts: Vec<_> = (0..ACCOUNTS).map(account).collect();
            if let Some(told) = client.read(&accounts) {
                let sum: i64 = told.iter().map(|found| balance(found.as_ref())).sum();
                assert_eq!(sum, BALANCE * ACCOUNTS as i64, "money was made or lost: {told:?}");
            }
        }
        1 => {
            let reverse = client.random.once_in(2);
            if let Some(read) = client.scan(&bank, How { reverse, ..How::default() }) {
                assert_sum(&read.rows);
            }
        }
        2 => client.interactive("audit", Isolation::Serializable, |client, within| {
            let read = client.scan_in(within, &bank, How::default())?;
            assert_sum(&read.rows);
            Ok(())
        }),
        _ => {
            let all = Do::Range { range: bank, reverse: false, keys_only: false, limit: 1_000 };
            let message = Message::OneShot { conditions: Vec::new(), then: vec![all], otherwise: Vec::new() };
            client.commit("one-shot audit", message);
        }
    }
}

/// Switches one of two off, if both are on; else on.
fn skew(client: &mut Client, name: &'static str, isolation: Isolation) {
    let pair = client.random.below(PAIRS);
    let sides = ["x", "y"].map(|side| key(&format!("{name}/{pair}/{side}")));
    let kind = if isolation == Isolation::Snapshot { "write skew, allowed" } else { "write skew" };
    client.interactive(kind, isolation, |client, within| {
        let on = match client.random.once_in(2) {
            true => client.get_many(within, &sides)?.iter().map(|side| is_on(side.as_ref())).collect(),
            false => {
                let range = under(&format!("{name}/{pair}/"));
                let read = client.scan_in(within, &range, How::default())?;
                read.rows.iter().map(|(_, row)| is_on(Some(row))).collect::<Vec<_>>()
            }
        };
        let side = client.random.index(2);
        let value = if on == [true, true] { "off" } else { "on" };
        let side = if value == "off" { side } else { on.iter().position(|on| !on).unwrap_or(side) };
        let value = valued(client, value);
        client.put(within, &sides[side], &value);
        Ok(())
    });
}

fn append(client: &mut Client) {
    let list = key(&format!("list/{}", client.random.below(LISTS)));
    let item: Bytes = format!("{},", client.unique()).into();
    match client.random.below(4) {
        0 => _ = client.commit("append", Message::Single(Do::Atomic(AtomicOp::Append, list, item))),
        1 => {
            let other = key("list/of all");
            let conditions = vec![(other.clone(), Condition::VersionAtMost(Version(u64::MAX)))];
            let then = vec![
                Do::Atomic(AtomicOp::Append, list.clone(), item),
                Do::Get(list),
                Do::Put(other, client.unique().into()),
            ];
            client.commit("one-shot append", Message::OneShot { conditions, then, otherwise: Vec::new() });
        }
        2 => client.interactive("append in a transaction", Isolation::Serializable, |client, within| {
            client.atomic(within, AtomicOp::Append, &list, &item);
            client.savepoint(within, "s");
            client.atomic(within, AtomicOp::Append, &list, &Bytes::from_static(b"taken back"));
            client.rollback_to(within, "s");
            if client.random.once_in(2) {
                client.get(within, &list)?;
            }
            Ok(())
        }),
        _ => client.interactive("append by reading", Isolation::Serializable, |client, within| {
            let told = client.get(within, &list)?;
            let mut value = told.and_then(|found| found.value).unwrap_or_default().to_vec();
            if value.len() > LIST_BYTES_MAX {
                value.clear();
            }
            value.extend_from_slice(&item);
            client.put(within, &list, &value.into());
            Ok(())
        }),
    }
}

fn add(client: &mut Client) {
    let sum = key(&format!("sum/{}", client.random.below(SUMS)));
    let other = key(&format!("sum/{}", client.random.below(SUMS)));
    let amount = Bytes::copy_from_slice(&(client.random.below(1_000) + 1).to_be_bytes());
    match client.random.below(3) {
        0 => _ = client.commit("add", Message::Single(Do::Atomic(AtomicOp::Add, sum, amount))),
        1 => client.interactive("adds in a transaction", Isolation::Serializable, |client, within| {
            client.atomic(within, AtomicOp::Add, &sum, &amount);
            client.atomic(within, AtomicOp::Max, &other, &amount);
            client.get(within, &other)?;
            Ok(())
        }),
        _ => {
            let then = vec![Do::Atomic(AtomicOp::Add, sum.clone(), amount.clone()), Do::Get(sum), Do::Get(other)];
            client.commit("one-shot add", Message::OneShot { conditions: Vec::new(), then, otherwise: Vec::new() });
        }
    }
}

fn a_group(client: &mut Client) -> (String, KeyRange) {
    let prefix = format!("group/{}/", client.random.below(GROUPS));
    let range = under(&prefix);
    (prefix, range)
}

/// Inserts if the range has room, and takes something out if it has not.
fn insert(client: &mut Client) {
    let (prefix, range) = a_group(client);
    let fresh = |client: &mut Client| {
        let front = (b'a' + client.random.below(26) as u8) as char;
        key(&format!("{prefix}{front}{}", client.unique()))
    };
    client.interactive("insert if few", Isolation::Serializable, |client, within| {
        let how = How { reverse: client.random.once_in(2), keys_only: client.random.once_in(2), ..How::default() };
        let (count, rows) = match client.random.below(3) {
            0 => (client.count_in(within, &range)?, Vec::new()),
            _ => {
                let read = client.scan_in(within, &range, how)?;
                (read.rows.len() as u64, read.rows)
            }
        };
        assert!(count <= GROUP_MAX, "a group has {count} rows");
        if count < GROUP_MAX {
            let (new, value) = (fresh(client), client.unique().into());
            client.put(within, &new, &value);
            return check_own(client, within, &range, count + 1);
        }
        match rows.first() {
            Some((key, _)) => client.delete(within, key),
            None => client.delete_range_in(within, &range)?,
        }
        Ok(())
    });
}

/// A scan sees the transaction's own writes.
fn check_own(client: &mut Client, within: &mut Interactive, range: &KeyRange, rows: u64) -> Result<(), Abandoned> {
    if client.random.once_in(5) {
        let read = client.scan_in(within, range, How::default())?;
        assert_eq!(read.rows.len() as u64, rows, "a scan that misses its transaction's own write");
    }
    Ok(())
}

/// Deletes a part of a group, by a request of its own, in one message, or in a transaction.
fn clear(client: &mut Client) {
    let (prefix, all) = a_group(client);
    let from = (b'a' + client.random.below(26) as u8) as char;
    let range = KeyRange { start: key(&format!("{prefix}{from}")), end: all.end.clone() };
    match client.random.below(4) {
        0 => _ = client.commit("delete range", Message::Single(Do::DeleteRange(range))),
        1 => {
            let rows = Do::Range { range: all, reverse: true, keys_only: false, limit: 3 };
            let conditions = vec![(key("list/0"), Condition::Exists)];
            let then = vec![rows.clone(), Do::DeleteRange(range), rows.clone()];
            let message = Message::OneShot { conditions, then, otherwise: vec![rows] };
            client.commit("one-shot delete range", message);
        }
        2 => client.interactive("delete range, snapshot", Isolation::Snapshot, |client, within| {
            client.delete_range_in(within, &range)
        }),
        _ => client.interactive("delete range in a transaction", Isolation::Serializable, |client, within| {
            client.delete_range_in(within, &range)?;
            if client.random.once_in(3) {
                let count = client.count_in(within, &range)?;
                assert_eq!(count, 0, "what it deleted is gone for itself");
            }
            Ok(())
        }),
    }
}

/// Puts something in, or takes the first or the last out and says where it went.
fn queue(client: &mut Client) {
    let range = under("queue/");
    let how = How { reverse: client.random.once_in(2), limit: 1 + client.random.below(2), ..How::default() };
    if client.random.once_in(2) {
        let place = client.random.below(1_000);
        let new = key(&format!("queue/{place:03}"));
        let value = client.unique().into();
        client.commit("queue", Message::Single(Do::Put(new, value)));
        return;
    }
    client.interactive("take from the queue", Isolation::Serializable, |client, within| {
        let read = client.scan_in(within, &range, how)?;
        if let Some((taken, _)) = read.rows.first() {
            client.delete(within, taken);
            let value = Bytes::from(client.unique());
            client.put(within, &key("taken"), &value);
        }
        Ok(())
    });
}

fn write_wide(client: &mut Client, row: u64) {
    let mut value = client.unique().into_bytes();
    value.resize(WIDE_BYTES, b'.');
    client.commit("wide row", Message::Single(Do::Put(key(&format!("wide/{row:02}")), value.into())));
}

/// Scans longer than a chunk, left in the middle.
fn wide(client: &mut Client) {
    let range = under("wide/");
    let how = How { reverse: client.random.once_in(2), chunks: client.random.index(3), ..How::default() };
    match client.random.below(4) {
        0 | 1 => {
            let row = client.random.below(WIDE);
            write_wide(client, row);
        }
        2 => drop(client.scan(&range, how)),
        _ => client.interactive("wide scan", Isolation::Serializable, |client, within| {
            let read = client.scan_in(within, &range, how)?;
            let value = format!("{} {}", read.rows.len(), client.unique()).into();
            client.put(within, &key("last wide scan"), &value);
            Ok(())
        }),
    }
}

fn blind(client: &mut Client) {
    let blind = key(&format!("blind/{}", client.random.below(BLIND)));
    match client.random.below(3) {
        0 => drop(client.read(&[blind])),
        1 => _ = client.commit("delete", Message::Single(Do::Delete(key("taken")))),
        _ => {
            let value = client.unique().into();
            client.commit_nameless("blind put", Message::Single(Do::Put(blind, value)));
        }
    }
}

fn look(client: &mut Client) {
    let (_, range) = a_group(client);
    match client.random.below(3) {
        0 => client.count_rows(&range),
        1 => drop(client.read(&[account(0), key("list/0"), key("sum/0"), key("taken")])),
        _ => {
            let limit = client.random.below(4);
            let how = How { reverse: client.random.once_in(2), keys_only: client.random.once_in(2), limit, chunks: 0 };
            drop(client.scan(&range, how));
        }
    }
}

/// What must hold of everything there is at the end.
pub fn judge(all: &RangeRead) {
    let of = |prefix: &str| -> Vec<(FullKey, Found)> {
        let range = under(prefix);
        all.rows.iter().filter(|(key, _)| range.contains(key)).cloned().collect()
    };
    assert_sum(&of("bank/"));
    for pair in 0..PAIRS {
        let sides = of(&format!("skew/{pair}/"));
        assert!(sides.iter().any(|(_, row)| is_on(Some(row))), "both of a pair are off: {sides:?}");
    }
    for group in 0..GROUPS {
        let rows = of(&format!("group/{group}/"));
        assert!(rows.len() as u64 <= GROUP_MAX, "a group has {} rows", rows.len());
    }
}
