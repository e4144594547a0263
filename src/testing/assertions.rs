//! Assertions that say what differs, and waiting with a bound.

use crate::env::Env;
use std::{fmt::Write, time::Duration};

/// Fails with both sides as hexdumps, from the line before the first difference, unless the bytes are the same.
///
/// # Panics
/// If they differ.
#[track_caller]
pub fn assert_bytes_eq(found: &[u8], wanted: &[u8]) {
    if let Some(difference) = difference(found, wanted) {
        panic!("{difference}");
    }
}

/// Where and how two strings of bytes differ; `None` if they do not.
#[must_use]
pub fn difference(found: &[u8], wanted: &[u8]) -> Option<String> {
    let same = found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted).count();
    if same == found.len() && same == wanted.len() {
        return None;
    }
    const LINE: usize = 16;
    let first = (same / LINE).saturating_sub(1) * LINE;
    let mut text = format!("bytes differ at {same}: {} found, {} wanted\n", found.len(), wanted.len());
    for (name, bytes) in [("found", found), ("wanted", wanted)] {
        let _ = writeln!(text, "{name}:");
        text.push_str(&hexdump(bytes, first, 4 * LINE));
    }
    Some(text)
}

/// Lines of offset, sixteen bytes in hex, and the same as text; from `first` on, at most `length_max` bytes.
#[must_use]
pub fn hexdump(bytes: &[u8], first: usize, length_max: usize) -> String {
    let mut text = String::new();
    let shown = bytes.iter().skip(first).take(length_max).copied().collect::<Vec<_>>();
    for (number, line) in shown.chunks(16).enumerate() {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain: String =
            line.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        let _ = writeln!(text, "  {:06x}  {:<47}  {plain}", first + number * 16, hex.join(" "));
    }
    text
}

/// Asks again and again until there is an answer, at most for `bound`. Between two questions other tasks run.
///
/// For what has no event to wait for; where there is one, wait for that.
///
/// # Panics
/// If there is no answer in time; `what` says what was waited for.
pub async fn eventually<T, F>(env: &Env, bound: Duration, what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = env.now() + bound;
    let mut pause = Duration::from_micros(50);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(env.now() < end, "waited {bound:?} in vain: {what}");
        env.sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_difference_is_shown_where_it_is() {
        let wanted: Vec<u8> = (0..100).collect();
        let mut found = wanted.clone();
        assert_eq!(difference(&found, &wanted), None);
        found[70] = 0xee;
        let text = difference(&found, &wanted).expect("they differ");
        assert!(text.starts_with("bytes differ at 70: 100 found, 100 wanted"), "{text}");
        assert!(
            text.contains("  000030  30 31 32") && text.contains("45 ee 47") && text.contains("45 46 47"),
            "{text}"
        );
        let text = difference(&wanted[..99], &wanted).expect("one is shorter");
        assert!(text.starts_with("bytes differ at 99: 99 found, 100 wanted"), "{text}");
    }

    #[test]
    #[should_panic(expected = "bytes differ at 0")]
    fn different_bytes_fail() {
        assert_bytes_eq(b"a", b"b");
    }

    #[tokio::test]
    async fn waiting_ends_with_the_answer() {
        let asked = Cell::new(0);
        let env = Env::real();
        let answer = eventually(&env, Duration::from_secs(60), "three questions", || {
            asked.set(asked.get() + 1);
            let answer = (asked.get() == 3).then_some(7);
            async move { answer }
        });
        assert_eq!(answer.await, 7);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain: what never comes")]
    async fn waiting_has_a_bound() {
        let env = Env::real();
        eventually(&env, Duration::from_millis(1), "what never comes", || async { None::<()> }).await;
    }
}
