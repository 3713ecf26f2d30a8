//! Changes to a `.conf` file that leave every other line, comment and line end as it is.

use std::fmt;
use std::ops::Range;

use super::lines::{Kind, Lines, trim};

/// The octets of a `.conf` file being edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Vec<u8>);

/// Why something can't be written so that it reads back the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// Blanks around it would be trimmed.
    Blanks,
    /// A `]` ends a section's name.
    Bracket,
    /// A line break or another control character.
    Control,
    /// A leading `$` makes a directive, and `${` is replaced.
    Dollar,
    /// Nothing at all.
    Empty,
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blanks => "it starts or ends with a blank",
            Self::Bracket => "it contains `]`",
            Self::Control => "it contains a control character",
            Self::Dollar => "it starts with `$` or contains `${`",
            Self::Empty => "it is empty",
        })
    }
}

impl std::error::Error for Unwritable {}

/// Whether `[name]` reads back as `name`.
///
/// # Errors
/// Why it doesn't.
pub fn check_name(name: &[u8]) -> Result<(), Unwritable> {
    if name.is_empty() {
        return Err(Unwritable::Empty);
    }
    if name.contains(&b']') {
        return Err(Unwritable::Bracket);
    }
    if name.starts_with(b"$") || memchr::memmem::find(name, b"${").is_some() {
        return Err(Unwritable::Dollar);
    }
    check_value(name)
}

/// Whether `key=value` reads back as `value`.
///
/// # Errors
/// Why it doesn't.
pub fn check_value(value: &[u8]) -> Result<(), Unwritable> {
    if value.iter().any(u8::is_ascii_control) {
        return Err(Unwritable::Control);
    }
    if trim(value).len() != value.len() {
        return Err(Unwritable::Blanks);
    }
    Ok(())
}

impl Text {
    /// The file with this content.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(octets)
    }

    /// The content.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a section of this name is opened anywhere.
    pub fn has_section(&self, name: &[u8]) -> bool {
        Lines::new(&self.0).any(|line| line.kind == Kind::Section(name))
    }

    /// Adds a section at the end. Name and values must have passed [`check_name`] and
    /// [`check_value`].
    pub fn add_section(&mut self, name: &[u8], keys: &[(&str, &[u8])]) {
        let end = self.line_end();
        if !self.0.is_empty() {
            if !self.0.ends_with(b"\n") && !self.0.ends_with(b"\r") {
                self.0.extend_from_slice(end);
            }
            // Beside looking well, the empty line takes what a last `\` would continue.
            self.0.extend_from_slice(end);
        }
        self.0.push(b'[');
        self.0.extend_from_slice(name);
        self.0.push(b']');
        self.0.extend_from_slice(end);
        let lines = key_lines(keys, end);
        self.0.extend_from_slice(&lines);
    }

    /// Takes the keys called `old` out of a section and puts `new` where the first of them was, or
    /// right after the section's head.
    pub fn replace_keys(&mut self, name: &[u8], old: &[&str], new: &[(&str, &[u8])]) {
        let mut inside = false;
        let mut head = None;
        let mut removed: Vec<Range<usize>> = Vec::new();
        for line in Lines::new(&self.0) {
            match line.kind {
                Kind::Section(opened) => {
                    inside = opened == name;
                    if inside && head.is_none() {
                        head = Some(line.span.end);
                    }
                }
                Kind::Key { key, .. } if inside && old.iter().any(|old| old.as_bytes() == key) => {
                    removed.push(line.span);
                }
                _ => {}
            }
        }
        let Some(at) = removed.first().map(|range| range.start).or(head) else {
            return;
        };
        let end = self.line_end();
        let mut lines = key_lines(new, end);
        if at > 0 && !matches!(self.0.get(at - 1), Some(b'\n' | b'\r')) {
            lines.splice(0..0, end.iter().copied());
        }
        for range in removed.into_iter().rev() {
            self.0.drain(range);
        }
        self.0.splice(at..at, lines);
    }

    /// Takes a section out wherever it is opened: its head, its keys, and comments between them.
    /// Comments after its last key stay: they may speak of the next section.
    pub fn remove_section(&mut self, name: &[u8]) {
        let mut removed: Vec<Range<usize>> = Vec::new();
        // Where to add the next line of the section; a directive between them stays.
        let mut open = false;
        let mut inside = false;
        for line in Lines::new(&self.0) {
            match line.kind {
                Kind::Section(opened) => {
                    inside = opened == name;
                    open = false;
                }
                Kind::Key { .. } => {}
                Kind::Broken(_) | Kind::Directive { .. } => {
                    open = false;
                    continue;
                }
            }
            if !inside {
                continue;
            }
            match removed.last_mut().filter(|_| open) {
                Some(range) => range.end = line.span.end,
                None => removed.push(line.span),
            }
            open = true;
        }
        for range in removed.into_iter().rev() {
            let end = range.end + self.blank_line_after(&range);
            self.0.drain(range.start..end);
        }
    }

    /// The length of the line end after `range`, if taking out the range alone would leave two
    /// blank lines in a row or a blank line first.
    fn blank_line_after(&self, range: &Range<usize>) -> usize {
        let before = self.0.get(..range.start).unwrap_or_default();
        let alone = [&b"\n\n"[..], b"\r\r", b"\n\r\n"].iter().any(|ends| before.ends_with(ends));
        if !before.is_empty() && !alone {
            return 0;
        }
        let after = self.0.get(range.end..).unwrap_or_default();
        match after {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => 0,
        }
    }

    /// The line end that the file uses.
    fn line_end(&self) -> &'static [u8] {
        match memchr::memchr2(b'\r', b'\n', &self.0).and_then(|first| self.0.get(first..)) {
            Some([b'\r', b'\n', ..]) => b"\r\n",
            Some([b'\r', ..]) => b"\r",
            _ => b"\n",
        }
    }
}

fn key_lines(keys: &[(&str, &[u8])], end: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (key, value) in keys {
        lines.extend_from_slice(key.as_bytes());
        lines.push(b'=');
        lines.extend_from_slice(value);
        if value.ends_with(b"\\") {
            // A blank after it keeps the next line out of the value, and is trimmed.
            lines.push(b' ');
        }
        lines.extend_from_slice(end);
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edited(text: &str, edit: impl FnOnce(&mut Text)) -> String {
        let mut file = Text::new(text.into());
        edit(&mut file);
        String::from_utf8(file.0).unwrap()
    }

    #[test]
    fn sections_are_added_at_the_end_with_the_files_line_ends() {
        let cases = [
            ("", "[bob]\npassword=x\\ \n"),
            ("; c\n[a]\n", "; c\n[a]\n\n[bob]\npassword=x\\ \n"),
            ("[a]\r\nk=v", "[a]\r\nk=v\r\n\r\n[bob]\r\npassword=x\\ \r\n"),
        ];
        for (text, expected) in cases {
            let added = edited(text, |file| file.add_section(b"bob", &[("password", b"x\\")]));
            assert_eq!(added, expected);
        }
    }

    #[test]
    fn keys_are_replaced_where_they_stood() {
        let cases = [
            ("[a]\n; why\npassword=x\nk=v\n", "[a]\n; why\npassword=y\nk=v\n"),
            ("[a]\nk=v\n[b]\npassword=x\n", "[a]\npassword=y\nk=v\n[b]\npassword=x\n"),
            ("[a]", "[a]\npassword=y\n"),
            ("[a]\nha1=x\\\n x\n[b]\n[a]\npassword=z\n", "[a]\npassword=y\n[b]\n[a]\n"),
            ("[b]\npassword=x\n", "[b]\npassword=x\n"),
        ];
        for (text, expected) in cases {
            let replaced = edited(text, |file| {
                file.replace_keys(b"a", &["password", "ha1"], &[("password", b"y")]);
            });
            assert_eq!(replaced, expected);
        }
    }

    #[test]
    fn a_removed_section_takes_only_its_own_lines() {
        let cases = [
            ("; file\n\n[a]\nk=v\n\n; bob\n[b]\n", "; file\n\n; bob\n[b]\n"),
            ("[a]\n; mine\nk=v\n; next\n[b]\n", "; next\n[b]\n"),
            ("[b]\n\n[a]\n", "[b]\n\n"),
            ("[a]\nk=v\n[$include x]\nl=w\n[b]\n[a]\nm=\n", "[$include x]\n[b]\n"),
            ("[a]\r\n\r\n[b]\r\n", "[b]\r\n"),
            ("[b]\n", "[b]\n"),
        ];
        for (text, expected) in cases {
            assert_eq!(edited(text, |file| file.remove_section(b"a")), expected, "{text}");
        }
    }

    #[test]
    fn names_that_cannot_be_a_section_are_told() {
        let cases = [
            ("", Unwritable::Empty),
            ("a]b", Unwritable::Bracket),
            ("a\nb", Unwritable::Control),
            (" a", Unwritable::Blanks),
            ("a\t", Unwritable::Control),
            ("$include", Unwritable::Dollar),
            ("a${b}", Unwritable::Dollar),
        ];
        for (name, expected) in cases {
            assert_eq!(check_name(name.as_bytes()), Err(expected), "{name:?}");
        }
        for name in ["alice", "alice@a.org", "a b", ";a", "a[", "a$b", "é"] {
            assert_eq!(check_name(name.as_bytes()), Ok(()), "{name:?}");
        }
    }

    /// A section's name and keys.
    type Section = (Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

    /// Sections with their keys, merged as the reader merges them.
    fn tree(text: &Text) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        let mut current = None;
        for line in Lines::new(&text.0) {
            match line.kind {
                Kind::Section(name) => {
                    let known = sections.iter().position(|(known, _)| known == name);
                    current = Some(known.unwrap_or(sections.len()));
                    if known.is_none() {
                        sections.push((name.to_vec(), Vec::new()));
                    }
                }
                Kind::Key { key, value, .. } => {
                    if let Some((_, keys)) = current.and_then(|at| sections.get_mut(at)) {
                        keys.push((key.to_vec(), value.to_vec()));
                    }
                }
                Kind::Broken(_) | Kind::Directive { .. } => {}
            }
        }
        sections
    }

    /// Lines as people write them, with all that may confuse an editor.
    fn file() -> impl Strategy<Value = Text> {
        let line = prop_oneof![
            Just("; comment".to_owned()),
            Just(String::new()),
            Just("[a]".to_owned()),
            Just(" [ b ] rest".to_owned()),
            Just("[c@d.org]".to_owned()),
            Just("password=old".to_owned()),
            Just("ha1 = 00".to_owned()),
            Just("k=v\\".to_owned()),
            "[a-z]{1,3} ?= ?[ -~]{0,8}",
        ];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        (proptest::collection::vec(line, 0..12), end, any::<bool>()).prop_map(
            |(lines, end, last)| {
                let mut text = lines.join(end);
                if last {
                    text += end;
                }
                Text::new(text.into())
            },
        )
    }

    proptest! {
        #[test]
        fn an_added_section_reads_back_and_others_stay(
            file in file(), password in "[!-~]{1,8}", name in "[e-z]{1,4}",
        ) {
            let before = tree(&file);
            let mut after = file.clone();
            after.add_section(name.as_bytes(), &[("password", password.as_bytes())]);
            let mut expected = before.clone();
            expected.push((name.into(), vec![(b"password".to_vec(), password.into())]));
            prop_assert_eq!(tree(&after), expected);
            prop_assert!(after.as_bytes().starts_with(file.as_bytes()));
        }

        #[test]
        fn a_replaced_password_reads_back_and_others_stay(
            file in file(), password in "[!-~]{1,8}",
        ) {
            let mut expected = tree(&file);
            let mut after = file.clone();
            after.replace_keys(b"a", &["password", "ha1"], &[("password", password.as_bytes())]);
            let mut found = tree(&after);
            prop_assert_eq!(file.has_section(b"a"), after.has_section(b"a"));
            for (name, keys) in &mut found {
                if name == b"a" {
                    let new = (b"password".to_vec(), password.clone().into_bytes());
                    prop_assert_eq!(keys.iter().filter(|key| **key == new).count(), 1);
                    keys.retain(|key| *key != new);
                }
            }
            for (name, keys) in &mut expected {
                if name == b"a" {
                    keys.retain(|(key, _)| key != b"password" && key != b"ha1");
                }
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_removed_section_is_gone_and_others_stay(file in file()) {
            let mut expected = tree(&file);
            expected.retain(|(name, _)| name != b"a");
            let mut after = file.clone();
            after.remove_section(b"a");
            prop_assert_eq!(tree(&after), expected);
        }
    }
}
