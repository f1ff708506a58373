//! BERT's uncased WordPiece tokenizer, as models/tokenizer.json describes it; build.rs lays out its
//! vocabulary.

use unicode_categories::UnicodeCategories;
use unicode_normalization::UnicodeNormalization;

include!(concat!(env!("OUT_DIR"), "/vocabulary.rs"));

/// Tokens of one text, `[CLS]` and `[SEP]` among them: more are cut off, as the reference does.
pub const TOKENS_MAX: usize = 256;

/// Words longer than this many characters are unknown.
const WORD_CHARS_MAX: usize = 100;

/// Their names stand for themselves in a text.
const SPECIAL: [(&str, u16); 5] =
    [("[PAD]", PAD), ("[UNK]", UNK), ("[CLS]", CLS), ("[SEP]", SEP), ("[MASK]", MASK)];

/// The tokens of a text: `[CLS]`, at most 254 others, `[SEP]`.
pub fn tokenize(text: &str) -> Vec<u16> {
    let mut tokens = vec![CLS];
    let mut rest = text;
    while let Some((before, token, after)) = next_special(rest) {
        plain(before, &mut tokens);
        tokens.push(token);
        rest = after;
    }
    plain(rest, &mut tokens);
    tokens.truncate(TOKENS_MAX - 1);
    tokens.push(SEP);
    tokens
}

fn next_special(text: &str) -> Option<(&str, u16, &str)> {
    text.match_indices('[').find_map(|(place, _)| {
        let (name, token) = SPECIAL.iter().find(|(name, _)| text[place..].starts_with(name))?;
        Some((&text[..place], *token, &text[place + name.len()..]))
    })
}

/// Tokens of a text without special ones. Stops when there are enough.
fn plain(text: &str, tokens: &mut Vec<u16>) {
    let mut word = String::new();
    for character in normalized(text) {
        let splits = is_punctuation(character);
        if splits || character.is_whitespace() {
            pieces(&word, tokens);
            word.clear();
            if splits {
                pieces(character.encode_utf8(&mut [0; 4]), tokens);
            }
            if tokens.len() >= TOKENS_MAX {
                return;
            }
        } else {
            word.push(character);
        }
    }
    pieces(&word, tokens);
}

/// Without control characters, with ideographs as words of their own, without accents, in lower case.
fn normalized(text: &str) -> impl Iterator<Item = char> {
    text.chars()
        .filter(|&c| !matches!(c, '\0' | '\u{fffd}') && !is_control(c))
        .flat_map(|c| {
            let space = is_ideograph(c).then_some(' ');
            let c = if c.is_whitespace() { ' ' } else { c };
            space.into_iter().chain([c]).chain(space)
        })
        .nfd()
        .filter(|&c| c.is_ascii() || !c.is_mark_nonspacing())
        .flat_map(char::to_lowercase)
}

/// The longest token that a word begins with, then the longest that continues it, and so on to its end. A
/// word that can't be made up of tokens is unknown as a whole.
fn pieces(word: &str, tokens: &mut Vec<u16>) {
    if word.is_empty() {
        return;
    }
    if word.len() > WORD_CHARS_MAX && word.chars().count() > WORD_CHARS_MAX {
        return tokens.push(UNK);
    }
    let first = tokens.len();
    let mut table = &BEGINNINGS;
    let mut rest = word;
    while !rest.is_empty() {
        let longest = (1..=rest.len().min(TOKEN_LEN_MAX))
            .rev()
            .filter(|&len| rest.is_char_boundary(len))
            .find_map(|len| Some((len, *table.get(&rest[..len])?)));
        let Some((len, token)) = longest else {
            tokens.truncate(first);
            return tokens.push(UNK);
        };
        tokens.push(token);
        rest = &rest[len..];
        table = &CONTINUATIONS;
    }
}

fn is_control(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        ' '..='~' => false,
        _ => c.is_other(),
    }
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || (!c.is_ascii() && c.is_punctuation())
}

/// The blocks of Chinese ideographs.
fn is_ideograph(c: char) -> bool {
    matches!(c,
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{20000}'..='\u{2a6df}' | '\u{2a700}'..='\u{2b73f}'
        | '\u{2b740}'..='\u{2b81f}' | '\u{2b920}'..='\u{2ceaf}' | '\u{f900}'..='\u{faff}' | '\u{2f800}'..='\u{2fa1f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference's own tokens of its texts.
    #[test]
    fn tokens_are_those_of_the_reference() {
        let reference: serde_json::Value = serde_json::from_str(include_str!("../reference.json")).unwrap();
        for case in reference["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(serde_json::to_value(tokenize(text)).unwrap(), case["tokens"], "{text}");
        }
    }

    #[test]
    fn words_that_are_too_long_or_have_no_pieces_are_unknown() {
        assert_eq!(tokenize(&"a".repeat(101)), [CLS, UNK, SEP]);
        assert_ne!(tokenize(&"a".repeat(100)), [CLS, UNK, SEP]);
        assert_eq!(tokenize("\u{1f600}"), [CLS, UNK, SEP]);
    }

    #[test]
    fn special_tokens_stand_for_themselves() {
        assert_eq!(tokenize("[MASK] [x] [SEP]"), [CLS, MASK, 1031, 1060, 1033, SEP, SEP]);
    }

    #[test]
    fn long_texts_are_cut() {
        let tokens = tokenize(&"word ".repeat(10_000));
        assert_eq!((tokens.len(), tokens.last()), (TOKENS_MAX, Some(&SEP)));
    }
}
