//! One section of `bindery.conf`, asked key by key; what nobody asked for is an error.

use super::bounds::Bounds;
use super::conf::{Key, Section};
use super::nearest::hint;
use super::values::{lossy, parse_bool, parse_int};
use super::{Findings, Place};
use crate::time::DeltaSeconds;

/// A section while its keys are taken out. Absent and empty keys have their defaults.
#[derive(Debug)]
pub struct Keys<'c, 'f> {
    name: String,
    section: Option<&'c Section>,
    asked: Vec<&'static str>,
    findings: &'f mut Findings,
}

impl<'c, 'f> Keys<'c, 'f> {
    /// The section called `name`, if it was written.
    pub fn new(name: &str, section: Option<&'c Section>, findings: &'f mut Findings) -> Self {
        Self { name: name.to_owned(), section, asked: Vec::new(), findings }
    }

    /// The value of `key` unless it is empty. A second one is an error: Yate's rule that the first
    /// wins would hide it.
    pub fn text(&mut self, key: &'static str) -> Option<&'c str> {
        self.asked.push(key);
        let section = self.section?;
        let mut all = section.keys.iter().filter(|candidate| &*candidate.key == key.as_bytes());
        let first = all.next()?;
        for again in all {
            let what = format!("[{}] {key} is written twice; first at {}", self.name, first.place);
            self.findings.error(again.place.clone(), what);
        }
        let value = std::str::from_utf8(&first.value);
        if value.is_err() {
            self.refuse(key, "text in UTF-8");
        }
        value.ok().filter(|value| !value.is_empty())
    }

    /// A number within its bounds.
    pub fn number(&mut self, key: &'static str, bounds: &Bounds) -> u32 {
        let Some(value) = self.text(key) else {
            return bounds.default;
        };
        let number = parse_int(value).and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| (bounds.floor..=bounds.ceiling).contains(number)) {
            Some(number) => number,
            None => {
                self.refuse(key, &bounds.to_string());
                bounds.default
            }
        }
    }

    /// A number whose ceiling fits 16 bits.
    pub fn short(&mut self, key: &'static str, bounds: &Bounds) -> u16 {
        u16::try_from(self.number(key, bounds)).unwrap_or(u16::MAX)
    }

    /// A number of seconds.
    pub fn seconds(&mut self, key: &'static str, bounds: &Bounds) -> DeltaSeconds {
        DeltaSeconds(self.number(key, bounds))
    }

    /// One of Yate's booleans.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.text(key) else {
            return default;
        };
        parse_bool(value.as_bytes()).unwrap_or_else(|| {
            self.refuse(key, "yes or no");
            default
        })
    }

    /// One of the words given; the first is the default.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let default = words.first().map(|(_, meaning)| *meaning);
        let Some(value) = self.text(key) else {
            return default;
        };
        let found = words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.refuse(key, &words.join(" or "));
        }
        found.or(default)
    }

    /// Notes that the value of `key` isn't what was expected.
    pub fn refuse(&mut self, key: &str, expected: &str) {
        if let Some(Key { value, .. }) = self.written(key) {
            let shown = lossy(value);
            self.refuse_as(key, &shown, expected);
        }
    }

    /// Notes that the value of `key` isn't what was expected, and shows of it what may be shown.
    pub fn refuse_as(&mut self, key: &str, shown: &str, expected: &str) {
        if let Some(Key { place, .. }) = self.written(key) {
            let what = format!("[{}] {key}={shown}: expected {expected}", self.name);
            self.findings.error(place.clone(), what);
        }
    }

    /// Warns that the value of `key` is hardly what is meant.
    pub fn doubt(&mut self, key: &str, expected: &str) {
        if let Some(Key { value, place, .. }) = self.written(key) {
            let what = format!("[{}] {key}={}: expected {expected}", self.name, lossy(value));
            self.findings.warning(place.clone(), what);
        }
    }

    /// Notes that the value of `key` is one for which the program isn't ready.
    pub fn not_yet(&mut self, key: &str) {
        if let Some(Key { value, place, .. }) = self.written(key) {
            let what = format!("[{}] not supported yet: {key}={}", self.name, lossy(value));
            self.findings.error(place.clone(), what);
        }
    }

    /// Notes which of these known keys are written, for which the program isn't ready.
    pub fn later(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.asked.push(key);
            self.not_yet(key);
        }
    }

    /// Warns of those of these known keys that are written, and have no effect here yet.
    pub fn without_effect(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.asked.push(key);
            if let Some(Key { place, .. }) = self.written(key) {
                let what = format!("[{}] {key}: not supported here yet, no effect", self.name);
                self.findings.warning(place.clone(), what);
            }
        }
    }

    /// Whether `key` is written.
    pub fn is_written(&self, key: &str) -> bool {
        self.written(key).is_some()
    }

    /// Where `key` is written, else the section, if either is.
    pub fn place(&self, key: &str) -> Option<Place> {
        let section = self.section?;
        Some(self.written(key).map_or(&section.place, |key| &key.place).clone())
    }

    /// Notes each key that was never asked for.
    pub fn finish(self) {
        let keys = self.section.map_or(&[][..], |section| &section.keys);
        for Key { key, place, .. } in keys {
            let key = lossy(key);
            if !self.asked.contains(&&*key) {
                let hint = hint(&key, self.asked.iter().copied());
                let what = format!("[{}] unknown key {key}{hint}", self.name);
                self.findings.error(place.clone(), what);
            }
        }
    }

    fn written(&self, key: &str) -> Option<&'c Key> {
        self.section?.first(key.as_bytes())
    }
}
