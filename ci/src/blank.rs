//! Reads Rust sources just well enough to judge them: comments, strings and test modules blanked out, `use` trees
//! expanded to full paths.

/// `source` with comments, strings and characters replaced by spaces; lines and columns stay.
pub fn without_words(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to.min(bytes.len())] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => find(bytes, at, b"\n"),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' | b'b' | b'c' if !is_word(bytes, at.wrapping_sub(1)) => match raw_or_prefixed(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' => match character_end(bytes, at) {
                Some(end) => end,
                // A lifetime.
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        blank(&mut out, at, end);
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters were replaced: every blanked range starts and ends at ASCII")
}

/// `blanked` without items under `#[cfg(test)]`, and without what follows if the whole file is `#![cfg(test)]`.
pub fn without_tests(blanked: &str) -> String {
    let mut out = blanked.as_bytes().to_vec();
    if blanked.contains("#![cfg(test)]") {
        return String::new();
    }
    let mut from = 0;
    while let Some(offset) = blanked[from..].find("#[cfg(test)]") {
        let start = from + offset;
        let end = item_end(blanked.as_bytes(), start + "#[cfg(test)]".len());
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        from = end;
    }
    String::from_utf8(out).expect("whole items were replaced")
}

/// Every path that a `use` of `blanked` names, with its line (from 1).
pub fn uses(blanked: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = blanked[from..].find("use ") {
        let start = from + offset;
        from = start + 4;
        if is_word(blanked.as_bytes(), start.wrapping_sub(1)) {
            continue;
        }
        let Some(length) = blanked[from..].find(';') else { break };
        let tree: String = blanked[from..from + length].split_whitespace().collect::<Vec<_>>().join(" ");
        let line = line_of(blanked, start);
        expand("", &tree, &mut |path| found.push((line, path)));
        from += length;
    }
    found
}

/// Line of a byte, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Positions of `word` in `text` that are not part of a longer word.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let starts = !is_word(bytes, at.wrapping_sub(1)) || !word.starts_with(|c: char| c.is_alphanumeric());
        let ends = !is_word(bytes, at + word.len()) || !word.ends_with(|c: char| c.is_alphanumeric());
        starts && ends
    })
}

fn expand(prefix: &str, tree: &str, each: &mut impl FnMut(String)) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
        let prefix = format!("{prefix}{}", tree[..open].trim());
        let mut depth = 0;
        let mut start = 0;
        for (at, character) in inner.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&prefix, &inner[start..at], each);
                    start = at + 1;
                }
                _ => {}
            }
        }
        expand(&prefix, &inner[start..], each);
    } else if !tree.is_empty() {
        let name = tree.split(" as ").next().unwrap_or(tree).trim();
        let path = format!("{prefix}{name}");
        each(path.trim_start_matches("::").trim_end_matches("::self").to_owned());
    }
}

fn is_word(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    bytes[from..].windows(what.len()).position(|window| window == what).map_or(bytes.len(), |offset| from + offset)
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// End of a string whose first character is at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// End of `r"..."`, `r#"..."#`, `b"..."`, `br"..."`, `c"..."`, `b'.'` at `at`, if one starts there.
fn raw_or_prefixed(bytes: &[u8], at: usize) -> Option<usize> {
    let mut next = at + 1;
    if matches!(bytes[at], b'b' | b'c') && bytes.get(next) == Some(&b'r') {
        next += 1;
    }
    if bytes[next - 1] == b'r' {
        let hashes = bytes[next..].iter().take_while(|byte| **byte == b'#').count();
        if bytes.get(next + hashes) != Some(&b'"') {
            return None;
        }
        let mut close = vec![b'"'];
        close.resize(1 + hashes, b'#');
        return Some((find(bytes, next + hashes + 1, &close) + close.len()).min(bytes.len()));
    }
    match bytes.get(next) {
        Some(b'"') => Some(string_end(bytes, next + 1)),
        Some(b'\'') if bytes[at] == b'b' => character_end(bytes, next),
        _ => None,
    }
}

/// End of the character literal whose quote is at `at`; `None` for a lifetime.
fn character_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        return Some((find(bytes, at + 3, b"'") + 1).min(bytes.len()));
    }
    let text = std::str::from_utf8(&bytes[at + 1..]).ok()?;
    let length = text.chars().next()?.len_utf8();
    (bytes.get(at + 1 + length) == Some(&b'\'')).then_some(at + length + 2)
}

/// End of the item after `from`: its closing brace, or its semicolon.
fn item_end(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *byte == b'}' {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_comments_strings_and_characters_do_not_count() {
        let source = "a /* std::fs /* x */ */ b // std::fs\nlet c = \"std::fs \\\" x\"; let d = r#\"std::fs\"#; let e = '\"'; let f: &'static str;\nlet g = b'\\''; h ü";
        let blanked = without_words(source);
        assert_eq!(blanked.len(), source.len());
        assert!(!blanked.contains("std::fs"), "{blanked}");
        for kept in ["let c =", "let d =", "let e =", "let f: &'static str", "let g =", "h ü"] {
            assert!(blanked.contains(kept), "{kept}: {blanked}");
        }
    }

    #[test]
    fn test_modules_are_left_out_and_the_rest_is_kept() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { std::fs::x(); } }\nfn c() {}\n#[cfg(test)]\nuse d::e;\nfn f() {}";
        let kept = without_tests(&without_words(source));
        assert!(!kept.contains("std::fs") && !kept.contains("d::e"));
        assert!(kept.contains("fn a") && kept.contains("fn c") && kept.contains("fn f"));
        assert_eq!(kept.lines().count(), source.lines().count());
    }

    #[test]
    fn use_trees_expand() {
        let paths: Vec<String> = uses("use std::{fs, io::{self, Read as R}, net::*};\npub use ::a::b;\nlet reuse = 1;")
            .into_iter()
            .map(|(_, path)| path)
            .collect();
        assert_eq!(paths, ["std::fs", "std::io", "std::io::Read", "std::net::*", "a::b"]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("select! xselect! a::select!{", "select!").count(), 2);
        assert_eq!(words("unsafe_op unsafe {", "unsafe").count(), 1);
    }
}
