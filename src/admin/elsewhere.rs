//! How back ends, hooks and probes do, as JSON: the figures of the metrics in short.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::view::sums;
use crate::{backend::Status, calls::CallBook, proxy::Probed};

/// A back end that was asked: a database, a script, a hook, or the domain name system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackEndView {
    /// Its name, as the metrics have it.
    pub name: String,
    /// What it was asked, by message; of the domain name system, by type of the records.
    pub queries: BTreeMap<String, QueryView>,
    /// Answers that meant nothing, by message; zeros are left out.
    pub garbage: BTreeMap<String, u64>,
}

/// Questions of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueryView {
    /// How many.
    pub count: u64,
    /// How long all of them took together.
    pub seconds: f64,
}

/// A hook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HookView {
    /// Its name.
    pub name: String,
    /// Questions, by what became of them.
    pub asked: BTreeMap<String, u64>,
    /// Notifications and tries of them, by what became of them.
    pub told: BTreeMap<String, u64>,
    /// Notifications that wait.
    pub spooled: u64,
}

/// All back ends that were asked since the start, by name.
pub(super) fn back_ends(status: &Status) -> Vec<BackEndView> {
    let mut views: BTreeMap<String, BackEndView> = BTreeMap::new();
    for (labels, asked) in status.asked() {
        let view = views.entry(labels.backend).or_default();
        let query = QueryView { count: asked.count, seconds: asked.time.as_secs_f64() };
        view.queries.insert(labels.query.to_owned(), query);
    }
    for (labels, count) in status.garbages() {
        let view = views.entry(labels.backend).or_default();
        view.garbage.insert(labels.query.to_owned(), count);
    }
    views.into_iter().map(|(name, view)| BackEndView { name, ..view }).collect()
}

/// All hooks that were asked or told since the start, by name.
pub(super) fn hooks(status: &Status) -> Vec<HookView> {
    let counts = status.hooks();
    let mut views: BTreeMap<String, HookView> = BTreeMap::new();
    for (labels, count) in counts.questions() {
        let view = views.entry(labels.hook).or_default();
        *view.asked.entry(labels.result.to_owned()).or_default() += count;
    }
    for (labels, count) in counts.notifications() {
        let view = views.entry(labels.hook).or_default();
        *view.told.entry(labels.result.to_owned()).or_default() += count;
    }
    for (hook, spooled) in counts.spooled() {
        views.entry(hook).or_default().spooled = spooled;
    }
    views.into_iter().map(|(name, view)| HookView { name, ..view }).collect()
}

/// Probes of calls that were sent, and what became of them; zeros are left out.
pub(super) fn probes(book: &CallBook) -> BTreeMap<String, u64> {
    sums(Probed::ALL.into_iter().map(|what| (what.label().to_owned(), book.probed(what))))
}
