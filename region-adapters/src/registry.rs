//! The adapters by name: the one list from which configuration, documentation and the conformance suite are
//! driven. A new adapter is one folder and one line here.

use std::{sync::Arc, time::Duration};

use meridian_model::capability::Capability;
use serde::{Deserializer, de::DeserializeOwned};

use crate::{AdapterService, BoxAdapter, RegionAdapter, VendorAction, http::HttpClient};

/// An adapter that is made from settings.
pub trait Configure: RegionAdapter + Sized {
    /// Its settings; `deny_unknown_fields`, secrets redacted in `Debug`.
    type Config: DeserializeOwned;

    /// The vendor's replies name only the subnet, so the settings take `subnetZones`.
    const SUBNETS_TELL_ZONES: bool = false;

    /// So long after it was sent a create can take effect: with a shorter effect bound it may be made twice.
    const EFFECT_BOUND_MIN: Duration;

    /// Makes the adapter; opens no connection.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting that cannot be used.
    fn configure(config: Self::Config, http: HttpClient) -> Result<Self, ConfigError>;
}

/// A setting of an adapter that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// Path of the setting below the backend's settings, for example `endpoint`.
    pub setting: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl ConfigError {
    /// An error of one setting.
    #[must_use]
    pub fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }
}

/// A configured adapter behind the one type that the region stacks know.
#[derive(Clone)]
pub struct BoxedBackend {
    /// What it can do.
    pub capability: Arc<Capability>,
    /// By what the vendor counts its calls.
    pub actions: &'static [VendorAction],
    /// The adapter as a tower service.
    pub service: BoxAdapter,
}

impl std::fmt::Debug for BoxedBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoxedBackend").field("adapter", &self.capability.adapter).finish_non_exhaustive()
    }
}

impl BoxedBackend {
    /// Hides the type of an adapter.
    pub fn of(adapter: impl RegionAdapter) -> Self {
        Self {
            capability: Arc::clone(adapter.capability()),
            actions: adapter.actions(),
            service: AdapterService::boxed(adapter),
        }
    }
}

macro_rules! adapters {
    ($($name:literal => $adapter:ty),+ $(,)?) => {
        /// The names of all adapters, in the order of the list.
        #[must_use]
        pub const fn names() -> &'static [&'static str] {
            &[$($name),+]
        }

        /// Whether the adapter `name` must be told which zone each subnet is in (setting `subnetZones`).
        #[must_use]
        pub fn subnets_tell_zones(name: &str) -> bool {
            match name {
                $($name => <$adapter as Configure>::SUBNETS_TELL_ZONES,)+
                _ => false,
            }
        }

        /// The shortest effect bound that is safe with the adapter `name`; none for one that is not here.
        #[must_use]
        pub fn effect_bound_min(name: &str) -> Option<Duration> {
            match name {
                $($name => Some(<$adapter as Configure>::EFFECT_BOUND_MIN),)+
                _ => None,
            }
        }

        /// Makes the adapter `name` from its settings (the backend's table without `adapter` itself, as a
        /// TOML or JSON value).
        ///
        /// # Errors
        /// [`ConfigError`] when there is no such adapter, or naming the setting that cannot be used.
        pub fn build<'de, D>(name: &str, settings: D, http: HttpClient) -> Result<BoxedBackend, ConfigError>
        where
            D: Deserializer<'de>,
        {
            match name {
                $($name => configure::<$adapter, D>(settings, http),)+
                _ => Err(ConfigError::new("adapter", format!("{name:?} is not one of {}", names().join(", ")))),
            }
        }
    };
}

adapters! {
    "tencent-eksci" => crate::tencent_eksci::TencentEksci,
    "alibaba-eci" => crate::alibaba_eci::AlibabaEci,
}

fn configure<'de, A: Configure, D: Deserializer<'de>>(
    settings: D,
    http: HttpClient,
) -> Result<BoxedBackend, ConfigError> {
    let config = serde_path_to_error::deserialize(settings).map_err(|e| {
        // An unknown or missing setting has no path of its own; the text names it.
        let path = e.path().to_string();
        ConfigError::new(if path == "." { "settings" } else { path.as_str() }, e.inner().to_string())
    })?;
    A::configure(config, http).map(BoxedBackend::of)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(name: &str, settings: serde_json::Value) -> ConfigError {
        build(name, settings, HttpClient::new().unwrap()).unwrap_err()
    }

    #[test]
    fn every_verb_is_counted_by_at_most_one_action() {
        let settings = [
            ("tencent-eksci", json!({"region": "r", "secretId": "id", "secretKey": "key"})),
            ("alibaba-eci", json!({"region": "r", "accessKeyId": "id", "accessKeySecret": "key"})),
        ];
        assert_eq!(settings.each_ref().map(|(name, _)| *name), names());
        for (name, settings) in settings {
            let backend = build(name, settings, HttpClient::new().unwrap()).unwrap();
            let mut verbs: Vec<_> = backend.actions.iter().flat_map(|a| a.verbs).collect();
            let all = verbs.len();
            verbs.sort_unstable();
            verbs.dedup();
            assert_eq!(verbs.len(), all, "{name}");
            for verb in ["create", "delete", "describe", "find", "list", "events"] {
                assert!(verbs.contains(&&verb), "{name} does not count {verb}");
            }
        }
    }

    #[test]
    fn an_unknown_adapter_lists_the_known_ones() {
        let error = problem("azure", json!({}));
        assert_eq!(error.setting, "adapter");
        assert!(error.problem.contains("tencent-eksci"), "{error}");
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let good = json!({"region": "ap-guangzhou", "secretId": "id", "secretKey": "key"});
        let backend = build("tencent-eksci", good.clone(), HttpClient::new().unwrap()).unwrap();
        assert_eq!(backend.capability.adapter.as_str(), "tencent-eksci");
        let with = |key: &str, value: serde_json::Value| {
            let mut settings = good.clone();
            settings[key] = value;
            problem("tencent-eksci", settings)
        };
        assert_eq!(with("endpoint", json!("ftp://x")).setting, "endpoint");
        assert_eq!(with("endpoint", json!("https://x/path")).setting, "endpoint");
        assert_eq!(with("region", json!("a b")).setting, "region");
        assert_eq!(with("effectBoundMs", json!(0)).setting, "effectBoundMs");
        assert_eq!(with("gpuSizes", json!([{"gpuType": "T4", "gpuCount": "one"}])).setting, "gpuSizes[0].gpuCount");
        let missing = problem("tencent-eksci", json!({"region": "r", "secretId": "id"}));
        assert!(missing.setting == "settings" && missing.problem.contains("secretKey"), "{missing}");
        assert!(with("regoin", json!("x")).problem.contains("regoin"), "{}", with("regoin", json!("x")));
    }
}
