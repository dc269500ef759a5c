//! Ready policies: documents to copy, change and use.

/// Names and texts of the library, by name. Each compiles as it is.
pub const LIBRARY: [(&str, &str); 9] = [
    ("allowed-registries", include_str!("../library/allowed-registries.yaml")),
    ("data-residency", include_str!("../library/data-residency.yaml")),
    ("gpu-needs-label", include_str!("../library/gpu-needs-label.yaml")),
    ("max-lifetime", include_str!("../library/max-lifetime.yaml")),
    ("no-public-ip", include_str!("../library/no-public-ip.yaml")),
    ("required-labels", include_str!("../library/required-labels.yaml")),
    ("size-caps", include_str!("../library/size-caps.yaml")),
    ("spot-only", include_str!("../library/spot-only.yaml")),
    ("working-hours", include_str!("../library/working-hours.yaml")),
];

/// The description of a document of the library.
#[must_use]
pub fn description(text: &str) -> &str {
    text.lines().find_map(|l| l.trim_start().strip_prefix("description: ")).unwrap_or_default()
}
