//! `[policies]`: rules that judge creates.

use std::path::PathBuf;

use serde::Serialize;

use super::reader::Section;

/// `[policies]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policies {
    /// Folder of YAML documents, read each second; each document's `scope` says whose requests it judges. None: what the
    /// tenants' own settings allow is all that is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
}

impl Policies {
    pub(super) fn read(section: Option<Section<'_, '_>>) -> Self {
        let Some(mut s) = section else { return Self::default() };
        let base = s.report.base();
        let dir = s.value::<PathBuf>("dir").map(|dir| base.join(dir));
        s.finish();
        Self { dir }
    }
}
