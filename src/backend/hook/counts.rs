//! How hooks do, for metrics.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus_client::encoding::EncodeLabelSet;

use crate::config::hooks::Event;

/// What became of a question to a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    /// It decided.
    Decided,
    /// Somebody else is to decide.
    Passed,
    /// Its answer can't be used.
    Garbage,
    /// It did not answer in time.
    Late,
    /// It can't be reached.
    Unreachable,
    /// More questions than may wait.
    Overload,
}

impl Asked {
    /// Its name in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Passed => "passed",
            Self::Garbage => "garbage",
            Self::Late => "late",
            Self::Unreachable => "unreachable",
            Self::Overload => "overload",
        }
    }
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    /// The receiver has it.
    Delivered,
    /// One try of it failed.
    Retried,
    /// The receiver refused it, or was away for too long: it is in a file for the operator.
    SetAside,
    /// It is gone.
    Lost,
}

impl Told {
    /// Its name in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::SetAside => "set_aside",
            Self::Lost => "lost",
        }
    }
}

/// Labels of a count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct HookLabels {
    /// The hook.
    pub hook: String,
    /// What it was asked or told.
    pub event: &'static str,
    /// What became of it.
    pub result: &'static str,
}

/// The counts. They change as often as a receiver answers, which a lock is fast enough for.
#[derive(Debug, Default)]
pub struct Counts(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    asked: BTreeMap<HookLabels, u64>,
    told: BTreeMap<HookLabels, u64>,
    spooled: BTreeMap<String, u64>,
    missed: u64,
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn asked(&self, hook: &str, event: Event, asked: Asked) {
        let labels =
            HookLabels { hook: hook.to_owned(), event: event.as_str(), result: asked.as_str() };
        *self.lock().asked.entry(labels).or_default() += 1;
    }

    pub(super) fn told(&self, hook: &str, event: Event, told: Told) {
        let labels =
            HookLabels { hook: hook.to_owned(), event: event.as_str(), result: told.as_str() };
        *self.lock().told.entry(labels).or_default() += 1;
    }

    /// Counts notifications that are gone, and of which nobody knows any more what they were about.
    pub(super) fn lost(&self, hook: &str, count: u64) {
        if count == 0 {
            return;
        }
        let result = Told::Lost.as_str();
        let labels = HookLabels { hook: hook.to_owned(), event: "unknown", result };
        *self.lock().told.entry(labels).or_default() += count;
    }

    pub(super) fn set_spooled(&self, hook: &str, spooled: u64) {
        let mut inner = self.lock();
        match inner.spooled.get_mut(hook) {
            Some(old) => *old = spooled,
            None => drop(inner.spooled.insert(hook.to_owned(), spooled)),
        }
    }

    pub(super) fn missed(&self, changes: u64) {
        self.lock().missed += changes;
    }

    /// Whether there is any hook.
    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.spooled.is_empty() && inner.asked.is_empty()
    }

    /// Questions, by what became of them.
    pub fn questions(&self) -> Vec<(HookLabels, u64)> {
        self.lock().asked.iter().map(|(labels, count)| (labels.clone(), *count)).collect()
    }

    /// Notifications, by what became of them.
    pub fn notifications(&self) -> Vec<(HookLabels, u64)> {
        self.lock().told.iter().map(|(labels, count)| (labels.clone(), *count)).collect()
    }

    /// Notifications that wait, by hook.
    pub fn spooled(&self) -> Vec<(String, u64)> {
        self.lock().spooled.iter().map(|(hook, count)| (hook.clone(), *count)).collect()
    }

    /// Changes that came faster than they could be looked at.
    pub fn changes_missed(&self) -> u64 {
        self.lock().missed
    }
}
