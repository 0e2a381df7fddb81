//! Prompts as the models' own programs clean them before they are cut into tokens.
//!
//! Wan and open_clip run ftfy's `fix_text`, then `html.unescape` twice, then join white space (Wan:
//! wan/modules/tokenizers.py; open_clip: tokenizer.py). Done here is all of ftfy but its search for
//! mojibake, text that was decoded with the wrong encoding: that part is a set of heuristics learned
//! from data, and what it would repair stays as it was typed.

use std::borrow::Cow;
use std::iter::from_fn;
use tokenizers::NormalizedString;

/// How prompts are cleaned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clean {
    /// Not at all.
    #[default]
    None,
    /// Characters repaired, HTML references resolved, white space joined and trimmed: Wan's.
    Whitespace,
    /// The same, in lower case: open_clip's.
    Lower,
}

impl Clean {
    /// The cleaned prompt.
    pub fn apply(self, prompt: &str) -> Cow<'_, str> {
        match self {
            Self::None => Cow::Borrowed(prompt),
            Self::Whitespace => Cow::Owned(whitespace(prompt)),
            Self::Lower => Cow::Owned(whitespace(prompt).to_lowercase()),
        }
    }
}

fn whitespace(prompt: &str) -> String {
    let fixed = fixed(prompt);
    let once = htmlize::unescape(fixed);
    join(&htmlize::unescape(once))
}

/// White space joined to single blanks, and trimmed.
pub(crate) fn join(text: &str) -> String {
    let words = text.split(blank).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Python's idea of white space has the separators of ASCII too.
fn blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// ftfy's `fix_text` with its default settings, but for mojibake: line by line, until nothing changes.
fn fixed(text: &str) -> String {
    // From the first line with a tag on, references are taken to be meant as they stand.
    let mut tags = false;
    let lines = text.split_inclusive('\n').map(|line| {
        tags |= line.contains('<');
        let mut line = line.to_owned();
        loop {
            let next = fixed_once(&line, tags);
            if next == line {
                return line;
            }
            line = next;
        }
    });
    lines.collect()
}

fn fixed_once(line: &str, tags: bool) -> String {
    let line = if tags {
        Cow::Borrowed(line)
    } else {
        references(line)
    };
    let mut plain = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '\u{80}'..='\u{9f}' => plain.push(WINDOWS_1252[c as usize - 0x80]),
            '\u{3000}' => plain.push(' '),
            '\u{ff01}'..='\u{ffef}' => plain.push_str(&compatible(c)),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => plain.push('\''),
            '\u{201c}'..='\u{201f}' => plain.push('"'),
            _ => match ligature(c) {
                Some(letters) => plain.push_str(letters),
                None => plain.push(c),
            },
        }
    }
    let plain = plain
        .replace("\r\n", "\n")
        .replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
    let mut plain = without_escapes(&plain);
    plain.retain(|c| !control(c));
    let mut normal = NormalizedString::from(plain);
    normal.nfc();
    normal.get().to_owned()
}

/// HTML references that end with a semicolon; others may be meant as they stand.
fn references(line: &str) -> Cow<'_, str> {
    if !line.contains('&') {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest[1..].strip_prefix('#').unwrap_or(&rest[1..]);
        let len = name.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let end = rest.len() - name.len() + len;
        if (1..=24).contains(&len) && rest[end..].starts_with(';') {
            out.push_str(&reference(&rest[..=end]));
            rest = &rest[end + 1..];
        } else {
            out.push('&');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// One reference; a name in capitals that HTML does not know is the capital of the small one.
fn reference(whole: &str) -> Cow<'_, str> {
    let found = htmlize::unescape(whole);
    // A name may have been read in part: `&notin` of `&notinx;`.
    if !found.contains(';') && !found.contains('&') || matches!(whole, "&semi;" | "&amp;" | "&AMP;")
    {
        return found;
    }
    if whole.bytes().all(|byte| !byte.is_ascii_lowercase()) {
        let small = whole.to_ascii_lowercase();
        let letter = htmlize::unescape(small.as_str());
        if !letter.contains('&') && !letter.contains(';') {
            return Cow::Owned(letter.to_uppercase());
        }
    }
    Cow::Borrowed(whole)
}

/// The ordinary form of a half-width or full-width character.
fn compatible(c: char) -> String {
    let mut normal = NormalizedString::from(c.to_string());
    normal.nfkc();
    normal.get().to_owned()
}

/// The letters of a Latin ligature or digraph.
fn ligature(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{132}' => "IJ",
        '\u{133}' => "ij",
        '\u{149}' => "\u{2bc}n",
        '\u{1f1}' => "DZ",
        '\u{1f2}' => "Dz",
        '\u{1f3}' => "dz",
        '\u{1c4}' => "D\u{17d}",
        '\u{1c5}' => "D\u{17e}",
        '\u{1c6}' => "d\u{17e}",
        '\u{1c7}' => "LJ",
        '\u{1c8}' => "Lj",
        '\u{1c9}' => "lj",
        '\u{1ca}' => "NJ",
        '\u{1cb}' => "Nj",
        '\u{1cc}' => "nj",
        '\u{fb00}' => "ff",
        '\u{fb01}' => "fi",
        '\u{fb02}' => "fl",
        '\u{fb03}' => "ffi",
        '\u{fb04}' => "ffl",
        '\u{fb05}' => "\u{17f}t",
        '\u{fb06}' => "st",
        _ => return None,
    })
}

/// What Windows puts where Latin-1 has control characters.
#[rustfmt::skip]
const WINDOWS_1252: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}',
    '\u{2c6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}',
    '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}',
    '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
];

fn control(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
            | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}'
    )
}

/// Without the sequences that colour a terminal: escape, `[`, numbers, a letter.
fn without_escapes(text: &str) -> String {
    let mut rest = text;
    from_fn(|| {
        if let Some(inside) = rest.strip_prefix("\u{1b}[") {
            let end = inside.trim_start_matches(|c: char| c.is_numeric() || c == ';');
            if end.starts_with(|c: char| c.is_ascii_alphabetic()) {
                rest = &end[1..];
                return Some("");
            }
        }
        let next = rest.chars().next()?;
        let (one, others) = rest.split_at(next.len_utf8());
        rest = others;
        Some(one)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Wan's own cleaning makes of these, computed with ftfy 6.3.1 and Python 3.
    #[test]
    fn prompts_are_those_of_the_python_programs() {
        for (prompt, want) in [
            (
                "  multiple   spaces\tand\nnewlines  ",
                "multiple spaces and newlines",
            ),
            (
                "&amp;amp;lt; &eacute; &EACUTE; &notit;",
                "< \u{e9} \u{c9} \u{ac}it;",
            ),
            ("<b>&amp;lt;b&gt;</b> &copy 2024", "<b><b></b> \u{a9} 2024"),
            (
                "\u{fb01}ne \u{ff26}\u{ff55}\u{ff4c}\u{ff4c}\u{3000}width",
                "fine Full width",
            ),
            ("\u{201c}it\u{2019}s\u{201d}", "\"it's\""),
            (
                "e\u{301}t\u{e9}\r\nnext\u{2028}line\u{85}",
                "\u{e9}t\u{e9} next line\u{2026}",
            ),
            ("\u{1b}[36;44mblue\u{1b}[0m\u{7f}\u{feff}!", "blue!"),
            ("a\u{a0}b\u{1c}c", "a bc"),
            ("&#65;&#x42;&#0;&#x80;", "AB\u{fffd}\u{20ac}"),
            ("", ""),
        ] {
            assert_eq!(Clean::Whitespace.apply(prompt), want, "{prompt:?}");
        }
        assert_eq!(Clean::Lower.apply(" A\u{130} B"), "ai\u{307} b");
        assert_eq!(Clean::None.apply(" as is "), " as is ");
    }
}
