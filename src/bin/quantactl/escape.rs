//! Keys and values as text: what a shell can pass and a terminal can show.
//!
//! `\xNN` is a byte, `\\` a backslash, `\n`, `\r`, `\t` and `\0` what they are in C; everything else stands for itself, as
//! UTF-8. What [`show`] writes, [`parse`] reads back to the same bytes, and on the way it moves no terminal's cursor.

use std::fmt::Write;

/// Text that is no key and no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("character {at}: `\\{found}` is no escape; allowed are \\xNN \\\\ \\n \\r \\t \\0")]
    Unknown { at: usize, found: char },
    #[error("character {at}: a backslash ends the text; write \\\\ for a backslash")]
    Cut { at: usize },
    #[error("character {at}: \\x needs two hexadecimal digits")]
    Digits { at: usize },
    #[error("character {at}: {found:?} is no hexadecimal digit")]
    NotHex { at: usize, found: char },
    #[error("{digits} hexadecimal digits are no whole number of bytes")]
    OddHex { digits: usize },
}

/// Reads text with escapes.
pub fn parse(text: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut letters = text.chars().zip(1..);
    while let Some((letter, at)) = letters.next() {
        if letter != '\\' {
            bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match letters.next().ok_or(Error::Cut { at })?.0 {
            '\\' => b'\\',
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            '0' => 0,
            'x' => {
                let mut digit = || letters.next().and_then(|(letter, _)| letter.to_digit(16));
                let (high, low) = (digit(), digit());
                let byte = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                byte.ok_or(Error::Digits { at })?
            }
            found => return Err(Error::Unknown { at, found }),
        });
    }
    Ok(bytes)
}

/// Writes bytes as text: UTF-8 as it is, everything that a terminal could obey or not show as an escape.
pub fn show(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                letter if letter.is_control() || turns_text(letter) => {
                    escape(letter.encode_utf8(&mut [0; 4]), &mut text)
                }
                letter => text.push(letter),
            }
        }
        chunk.invalid().iter().for_each(|byte| escape_byte(*byte, &mut text));
    }
    text
}

/// Characters without a width that change how their neighbours are shown, or in which order.
fn turns_text(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn escape(letter: &str, text: &mut String) {
    letter.bytes().for_each(|byte| escape_byte(byte, text));
}

fn escape_byte(byte: u8, text: &mut String) {
    let _ = write!(text, "\\x{byte:02x}");
}

/// Reads hexadecimal digits, two a byte.
pub fn parse_hex(text: &str) -> Result<Vec<u8>, Error> {
    if let Some((found, at)) = text.chars().zip(1..).find(|(letter, _)| !letter.is_ascii_hexdigit()) {
        return Err(Error::NotHex { at, found });
    }
    let digits = text.as_bytes();
    if digits.len() % 2 == 1 {
        return Err(Error::OddHex { digits: digits.len() });
    }
    Ok(digits.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect())
}

/// The value of a digit, which it is.
fn digit(letter: u8) -> u8 {
    match letter {
        b'0'..=b'9' => letter - b'0',
        _ => (letter | 0x20) - b'a' + 10,
    }
}

/// Writes bytes as hexadecimal digits, two a byte.
pub fn show_hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read() {
        assert_eq!(parse(r"a\x00\xfF\\\n\r\t\0ü").as_deref(), Ok(&b"a\x00\xff\\\n\r\t\0\xc3\xbc"[..]));
        assert_eq!(parse("").as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn bad_escapes_say_where() {
        assert_eq!(parse(r"ab\q"), Err(Error::Unknown { at: 3, found: 'q' }));
        assert_eq!(parse(r"ab\"), Err(Error::Cut { at: 3 }));
        assert_eq!(parse(r"\x1"), Err(Error::Digits { at: 1 }));
        assert_eq!(parse(r"ü\xzz"), Err(Error::Digits { at: 2 }));
        assert_eq!(parse_hex("0g"), Err(Error::NotHex { at: 2, found: 'g' }));
        assert_eq!(parse_hex("abc"), Err(Error::OddHex { digits: 3 }));
    }

    #[test]
    fn what_is_shown_is_read_back() {
        fn holds(bytes: Vec<u8>) -> bool {
            let (text, hex) = (show(&bytes), show_hex(&bytes));
            parse(&text).as_deref() == Ok(&bytes) && parse_hex(&hex).as_deref() == Ok(&bytes)
        }
        quickcheck::quickcheck(holds as fn(Vec<u8>) -> bool);
        assert!(holds((0..=255).collect()));
        assert!(holds("grüße \u{202e} \u{1b}[2J \u{9b}".into()));
    }

    #[test]
    fn nothing_shown_moves_the_cursor() {
        let all: String = (0..0x3000).filter_map(char::from_u32).collect();
        let shown = show(all.as_bytes());
        assert!(!shown.chars().any(|letter| letter.is_control() || turns_text(letter)));
        assert_eq!(show(b"\x1b[2J"), r"\x1b[2J");
    }
}
