//! `[reconcile]`: what is done about instances that no operation has (RELIABILITY 2.8).

use std::{collections::BTreeSet, time::Duration};

use meridian_model::{ids::CloudId, quantity::Span};
use serde::{Deserialize, Serialize};

use super::reader::Section;

/// What is done about orphans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orphans {
    /// They are listed on the admin listener and counted.
    Report,
    /// They are removed after their quarantine.
    Remove,
}

/// `[reconcile]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconcile {
    /// What is done about orphans. Without it they are only reported until this deployment id has been in use for
    /// seven days: a new deployment that shares an account with an old one of the same id would take its instances
    /// for orphans.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphans: Option<Orphans>,
    /// Least time between the first and the last sight of an orphan before it is removed; twice the backend's effect
    /// bound if that is longer. 10 min: RELIABILITY 2.8.
    pub quarantine: Span,
    /// Trusted sweeps that must miss an adopted instance before it is asked for by its id. 3: RELIABILITY 2.8.
    pub lost_sweeps: u32,
    /// Removals per window and region that a small fleet may always have; a large one has 2 % of its instances. 5.
    pub removals_min: usize,
    /// The window of the brakes. 10 min.
    pub brake_window: Span,
    /// Ids, made by the vendors, of instances that are never removed as orphans.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub keep: BTreeSet<CloudId>,
}

const TEN_MINUTES: Span = Span(Duration::from_secs(600));

impl Default for Reconcile {
    fn default() -> Self {
        Self {
            orphans: None,
            quarantine: TEN_MINUTES,
            lost_sweeps: 3,
            removals_min: 5,
            brake_window: TEN_MINUTES,
            keep: BTreeSet::new(),
        }
    }
}

impl Reconcile {
    pub(super) fn read(section: Option<Section<'_, '_>>) -> Self {
        let default = Self::default();
        let Some(mut s) = section else { return default };
        // A hundredth of a second is for tests that compress time; a day is longer than a person is away.
        let spans = (Span(Duration::from_millis(10)), Span(Duration::from_secs(86_400)));
        let read = Self {
            orphans: s.value("orphans"),
            quarantine: s.within("quarantine", default.quarantine, spans),
            lost_sweeps: s.within("lostSweeps", default.lost_sweeps, (1, 100)),
            removals_min: s.within("removalsMin", default.removals_min, (0, 1000)),
            brake_window: s.within("brakeWindow", default.brake_window, spans),
            keep: s.value("keep").unwrap_or_default(),
        };
        s.finish();
        read
    }
}
