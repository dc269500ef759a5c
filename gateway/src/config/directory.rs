//! `[directory]`: where tenants and policies are declared besides the configuration.

use std::path::PathBuf;

use serde::Serialize;

use super::reader::Section;

/// `[directory]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DirectorySettings {
    /// Folder of files with documents of the kinds Tenant and Policy (`*.yaml`, `*.yml`, `*.json`, `*.toml`), read again
    /// whenever they change. Without it only the configuration declares tenants, and the API both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

impl DirectorySettings {
    pub(super) fn read(section: Option<Section<'_, '_>>) -> Option<Self> {
        let Some(mut s) = section else { return Some(Self::default()) };
        let path: Option<PathBuf> = s.required("path", "\"tenants.d\"");
        let path = path.map(|path| s.report.base().join(path));
        if let Some(path) = path.as_ref().filter(|path| !path.is_dir()) {
            let what = format!("{} is no folder that can be read", path.display());
            s.report.mistake(&s.at("path"), what, "make the folder; it may be empty");
        }
        s.finish();
        Some(Self { path: Some(path?) })
    }
}
