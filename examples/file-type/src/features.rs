//! What the model sees of a file: its beginning and its end, without white space around them.

use crate::tables::{BEG_SIZE, BLOCK_SIZE, EMPTY, END_SIZE, Kind, MIN_FILE_SIZE, PADDING, TXT, UNKNOWN};

pub enum Features {
    /// The file is too small to ask the model.
    Known(&'static Kind),
    /// The model's input: the beginning, padded behind, and the end, padded before.
    Bytes(Vec<i32>),
}

pub fn extract(content: &[u8]) -> Features {
    if content.is_empty() {
        return Features::Known(&EMPTY);
    }
    if content.len() < MIN_FILE_SIZE {
        return Features::Known(text_or_unknown(content));
    }
    let first = &content[..content.len().min(BLOCK_SIZE)];
    let last = &content[content.len().saturating_sub(BLOCK_SIZE)..];
    let start = first.iter().position(|&byte| !is_space(byte)).unwrap_or(first.len());
    let end = last.iter().rposition(|&byte| !is_space(byte)).map_or(0, |place| place + 1);
    let beginning = &first[start..first.len().min(start + BEG_SIZE)];
    let ending = &last[end.saturating_sub(END_SIZE)..end];
    // As many bytes as a file must have must be left of the beginning.
    if beginning.len() < MIN_FILE_SIZE {
        return Features::Known(text_or_unknown(first));
    }
    let mut bytes = vec![PADDING; BEG_SIZE + END_SIZE];
    place(beginning, &mut bytes[..beginning.len()]);
    let behind = bytes.len() - ending.len();
    place(ending, &mut bytes[behind..]);
    Features::Bytes(bytes)
}

fn place(bytes: &[u8], numbers: &mut [i32]) {
    for (number, &byte) in numbers.iter_mut().zip(bytes) {
        *number = i32::from(byte);
    }
}

fn text_or_unknown(content: &[u8]) -> &'static Kind {
    if std::str::from_utf8(content).is_ok() { &TXT } else { &UNKNOWN }
}

/// What Python's `bytes.strip` takes away.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &[u8]) -> Vec<i32> {
        match extract(content) {
            Features::Bytes(bytes) => bytes,
            Features::Known(kind) => panic!("{}", kind.label),
        }
    }

    #[test]
    fn short_files_are_padded_inwards() {
        let bytes = bytes(b" \n12345678\t ");
        assert_eq!(bytes[..9], [49, 50, 51, 52, 53, 54, 55, 56, 9]);
        assert_eq!(bytes[11], PADDING);
        assert_eq!(bytes[2048 - 11..], [PADDING, 32, 10, 49, 50, 51, 52, 53, 54, 55, 56]);
    }

    #[test]
    fn long_files_show_both_ends() {
        let mut content = vec![b'a'; 1024];
        content.extend(vec![b'-'; 5000]);
        content.extend(vec![b'z'; 1024]);
        let bytes = bytes(&content);
        assert!(bytes[..1024].iter().all(|&b| b == i32::from(b'a')));
        assert!(bytes[1024..].iter().all(|&b| b == i32::from(b'z')));
    }

    #[test]
    fn a_file_with_little_but_white_space_needs_no_model() {
        assert!(matches!(extract(&[b' '; 300]), Features::Known(kind) if kind.label == "txt"));
        assert!(matches!(extract(b"   abc   "), Features::Known(kind) if kind.label == "txt"));
    }
}
