//! `[audit]`: the record of who changed what (RELIABILITY 4, "Audit").

use std::{path::PathBuf, time::Duration};

use meridian_model::quantity::Span;
use serde::Serialize;

use super::{
    ledger::{Ledger, Store},
    reader::Section,
};

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Whether it is written. On: who asks what happened after a fault can only be answered if it was.
    pub enabled: bool,
    /// Its folder, of this gateway alone. `ledger.audit` beside `ledger.redb`, or `audit` in the intent journal's folder
    /// of a gateway that shares its ledger: the disk that a gateway cannot do without anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// File with the key that signs its heads, 32 bytes in base64. In the folder, made at the first start: a key kept
    /// elsewhere is out of reach of whoever gets at the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Bytes after which a new file is begun. 64 MiB: about 90,000 records, which are read in a second.
    pub rotate_size: u64,
    /// Age after which a new file is begun. A day.
    pub rotate_age: Span,
    /// How long a file is kept after its last record. 400 days: a year and the month in which it is looked into. A disk
    /// that is full before stops all changes; nothing is removed early.
    pub retention: Span,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Audit {
    pub(super) fn read(section: Option<Section<'_, '_>>, ledger: Option<&Ledger>) -> Self {
        let path = ledger.map(|ledger| match &ledger.store {
            Store::Embedded { path } => path.with_extension("audit"),
            Store::Redis(redis) => redis.journal_dir.join("audit"),
        });
        let default = Self {
            enabled: true,
            path,
            key_file: None,
            rotate_size: 64 * 1024 * 1024,
            rotate_age: Span(DAY),
            retention: Span(400 * DAY),
        };
        let Some(mut s) = section else { return default };
        let read = Self {
            enabled: s.value("enabled").unwrap_or(true),
            path: s.value("path").or(default.path),
            key_file: s.value("keyFile"),
            // A file is read whole when an old page of it is asked for.
            rotate_size: s.within("rotateSize", default.rotate_size, (64 * 1024, 256 * 1024 * 1024)),
            rotate_age: s.within("rotateAge", default.rotate_age, (Span(Duration::from_secs(60)), Span(31 * DAY))),
            retention: s.within("retention", default.retention, (Span(DAY / 24), Span(10_000 * DAY))),
        };
        s.finish();
        read
    }

    /// What the log is opened with; none when it is not written.
    #[must_use]
    pub fn settings(&self) -> Option<crate::audit::Settings> {
        let folder = self.path.clone().filter(|_| self.enabled)?;
        Some(crate::audit::Settings {
            folder,
            key_file: self.key_file.clone(),
            rotate_bytes: self.rotate_size,
            rotate_age: self.rotate_age.0,
            retention: self.retention.0,
        })
    }
}
