//! The words that a prompt wants to be seen in the video.

/// What stands between double quotation marks, straight or curly: the text that Movie Gen gives to
/// ByT5, whose bytes spell it (paper, section 3.1.4). An opening mark without its closing one quotes
/// nothing.
///
/// ```
/// assert_eq!(kinora_tokens::quoted("a sign says \"OPEN 24h\""), ["OPEN 24h"]);
/// ```
pub fn quoted(prompt: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = prompt;
    while let Some(open) = rest.find(['"', '\u{201c}', '\u{201d}']) {
        let mark = rest[open..].chars().next().map_or(1, char::len_utf8);
        let inside = &rest[open + mark..];
        // Curly marks are often typed the wrong way round, so either may close.
        let closing: &[char] = if mark == 1 {
            &['"']
        } else {
            &['\u{201c}', '\u{201d}']
        };
        let Some(close) = inside.find(closing) else {
            break;
        };
        if close > 0 {
            found.push(&inside[..close]);
        }
        rest = &inside[close + mark..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_end_with_the_kind_of_mark_that_they_began_with() {
        let prompt = "\"a\" and \u{201c}b \"c\" d\u{201d}, \"\" then \"never closed";
        assert_eq!(quoted(prompt), ["a", "b \"c\" d"]);
        assert_eq!(quoted("it's plain"), [""; 0]);
    }
}
