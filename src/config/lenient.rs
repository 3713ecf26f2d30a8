//! One section of a file that is Yate's: what is wrong in it is a warning, and the default stands,
//! since Yate would run on it. A second value of a key is as good as not written, as in Yate.

use super::bounds::Bounds;
use super::conf::{Key, Section};
use super::nearest::hint;
use super::values::{lossy, parse_bool, parse_int};
use super::{Findings, Place};

/// A section while its keys are taken out.
#[derive(Debug)]
pub struct Lenient<'c, 'f> {
    name: String,
    section: Option<&'c Section>,
    asked: Vec<&'static str>,
    findings: &'f mut Findings,
}

impl<'c, 'f> Lenient<'c, 'f> {
    /// The section called `name`, if it was written.
    pub fn new(name: &str, section: Option<&'c Section>, findings: &'f mut Findings) -> Self {
        Self { name: name.to_owned(), section, asked: Vec::new(), findings }
    }

    /// The first value of `key`, which may be empty.
    pub fn written(&mut self, key: &'static str) -> Option<&'c str> {
        self.asked.push(key);
        let section = self.section?;
        let mut all = section.keys.iter().filter(|candidate| &*candidate.key == key.as_bytes());
        let first = all.next()?;
        for again in all {
            let what = format!("[{}] {key} is written again: the first stands", self.name);
            self.findings.warning(again.place.clone(), what);
        }
        let value = std::str::from_utf8(&first.value);
        if value.is_err() {
            self.refuse(key, "text in UTF-8");
        }
        value.ok()
    }

    /// The first value of `key`, unless it is empty.
    pub fn text(&mut self, key: &'static str) -> Option<&'c str> {
        self.written(key).filter(|value| !value.is_empty())
    }

    /// One of Yate's booleans.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.text(key) else { return default };
        parse_bool(value.as_bytes()).unwrap_or_else(|| {
            self.doubt(key, "yes or no");
            default
        })
    }

    /// A number within its bounds.
    pub fn number(&mut self, key: &'static str, bounds: &Bounds) -> u32 {
        let Some(value) = self.text(key) else { return bounds.default };
        let number = parse_int(value).and_then(|number| u32::try_from(number).ok());
        number.filter(|number| (bounds.floor..=bounds.ceiling).contains(number)).unwrap_or_else(
            || {
                self.doubt(key, &bounds.to_string());
                bounds.default
            },
        )
    }

    /// A handler's priority: lower goes first.
    pub fn priority(&mut self, key: &'static str, default: i32) -> i32 {
        let Some(value) = self.text(key) else { return default };
        let number = parse_int(value).and_then(|number| i32::try_from(number).ok());
        number.unwrap_or_else(|| {
            self.doubt(key, "a priority");
            default
        })
    }

    /// Whether any key is written.
    pub fn any_is_written(&self) -> bool {
        self.section.is_some_and(|section| !section.keys.is_empty())
    }

    /// Warns of what is written of these keys of Yate's, which have no effect here.
    pub fn without_effect(&mut self, keys: &[&'static str]) {
        for key in keys {
            if let Some(place) = self.written(key).and_then(|_| self.place(key)) {
                let what = format!("[{}] {key}: known, but not supported", self.name);
                self.findings.warning(place, what);
            }
        }
    }

    /// Where `key` is written, else the section, if either is.
    pub fn place(&self, key: &str) -> Option<Place> {
        let section = self.section?;
        Some(self.first(key).map_or(&section.place, |key| &key.place).clone())
    }

    /// Notes that the default stands, since the value of `key` isn't what was expected.
    pub fn doubt(&mut self, key: &str, expected: &str) {
        if let Some(Key { value, place, .. }) = self.first(key) {
            let (name, value) = (&self.name, lossy(value));
            let what = format!("[{name}] {key}={value}: expected {expected}; the default stands");
            self.findings.warning(place.clone(), what);
        }
    }

    /// Notes that nothing can be run on the value of `key`.
    pub fn refuse(&mut self, key: &str, expected: &str) {
        if let Some(Key { value, place, .. }) = self.first(key) {
            let what = format!("[{}] {key}={}: expected {expected}", self.name, lossy(value));
            self.findings.error(place.clone(), what);
        }
    }

    /// Notes an error in the value of `key`, which tells all itself.
    pub fn error(&mut self, key: &str, what: &str) {
        if let Some(place) = self.place(key) {
            self.findings.error(place, format!("[{}] {key}: {what}", self.name));
        }
    }

    /// Notes a warning about `key`.
    pub fn warn(&mut self, key: &str, what: &str) {
        if let Some(place) = self.place(key) {
            self.findings.warning(place, format!("[{}] {key}: {what}", self.name));
        }
    }

    /// Warns of each key that was never asked for.
    pub fn finish(self) {
        let keys = self.section.map_or(&[][..], |section| &section.keys);
        for Key { key, place, .. } in keys {
            let key = lossy(key);
            if !self.asked.contains(&&*key) {
                let hint = hint(&key, self.asked.iter().copied());
                let what = format!("[{}] unknown key {key}{hint}", self.name);
                self.findings.warning(place.clone(), what);
            }
        }
    }

    fn first(&self, key: &str) -> Option<&'c Key> {
        self.section?.first(key.as_bytes())
    }
}
