//! Lexer: splits the text of a rule into tokens.

use crate::offline::cel::CelError;

/// Symbols; of two with the same start, the longer one is first.
const SYMBOLS: [&str; 19] =
    ["||", "&&", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "?", ":", ".", ",", "(", ")", "[", "]"];

/// Token of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Name, or a word of the language.
    Name(String),
    /// Number.
    Number(i64),
    /// Text in quotation marks, without them.
    Text(String),
    /// Operator or punctuation.
    Symbol(&'static str),
}

/// Splits a rule into tokens.
///
/// # Errors
///
/// When the rule has a character outside of the language, or a text without an end.
pub(super) fn tokenize(rule: &str) -> Result<Vec<Token>, CelError> {
    let mut tokens = Vec::new();
    let mut rest = rule.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => text(rest, first)?,
            '0'..='9' => number(rest)?,
            'a'..='z' | 'A'..='Z' | '_' => name(rest),
            _ => symbol(rest, first)?,
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// Reads a text in quotation marks. A backslash escapes the character behind it.
fn text(rest: &str, quote: char) -> Result<(Token, usize), CelError> {
    let mut content = String::new();
    let mut letters = rest.char_indices().skip(1);
    while let Some((position, letter)) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some((_, 'n')) => content.push('\n'),
                Some((_, 't')) => content.push('\t'),
                Some((_, escaped)) => content.push(escaped),
                None => break,
            },
            _ if letter == quote => return Ok((Token::Text(content), position + 1)),
            _ => content.push(letter),
        }
    }
    Err(CelError(format!("the text {rest} has no end")))
}

fn number(rest: &str) -> Result<(Token, usize), CelError> {
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let number = rest[..length].parse().map_err(|_| CelError(format!("{} is too large", &rest[..length])))?;
    Ok((Token::Number(number), length))
}

fn name(rest: &str) -> (Token, usize) {
    let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    (Token::Name(rest[..length].to_owned()), length)
}

fn symbol(rest: &str, first: char) -> Result<(Token, usize), CelError> {
    let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
    let symbol = symbol.ok_or_else(|| CelError(format!("unexpected character {first}")))?;
    Ok((Token::Symbol(symbol), symbol.len()))
}
