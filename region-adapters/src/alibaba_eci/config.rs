//! Settings of one backend: one account in one region.

use std::{fmt, time::Duration};

use http::Uri;
use meridian_model::{
    capability::GpuSize,
    ids::RegionId,
    quantity::{MemoryMib, MilliCpu},
};
use secrecy::SecretString;
use serde::Deserialize;

use super::request::GPU_SIZES_DEFAULT;
use crate::registry::ConfigError;

/// Default effect bound (RELIABILITY 2.5c): 2 s until the create leaves, 900 s signature window (15 minutes,
/// vendor-api README 3.2), 60 s processing, 30 s until lists show it.
pub const EFFECT_BOUND_DEFAULT: Duration = Duration::from_secs(2 + 900 + 60 + 30);

/// The signature window and the processing of it: with a shorter bound a create may be made twice.
pub(super) const EFFECT_BOUND_MIN: Duration = Duration::from_secs(900 + 60);

/// Longest effect bound that may be configured: a day. A longer one would keep quota held for ever.
const EFFECT_BOUND_MAX: Duration = Duration::from_secs(86_400);

/// Most GPU sizes that may be configured; the vendor publishes fewer GPU types for ECI.
const GPU_SIZES_MAX: usize = 200;

/// Settings of an `alibaba-eci` backend.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// `http` or `https` URL without a path; `https://eci.<region>.aliyuncs.com` when left out (vendor-api
    /// README 3.1).
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Region in the vendor's spelling, for example `cn-hangzhou`.
    pub region: RegionId,
    /// Key id.
    pub access_key_id: String,
    /// Key.
    pub access_key_secret: SecretString,
    /// Goes with a key that is temporary.
    #[serde(default)]
    pub security_token: Option<SecretString>,
    /// Milliseconds, 1 to 86,400,000; [`EFFECT_BOUND_DEFAULT`] when left out.
    #[serde(default)]
    pub effect_bound_ms: Option<u64>,
    /// GPU sizes on sale; replaces the built-in list, which is not verified against the live service.
    #[serde(default)]
    pub gpu_sizes: Option<Vec<GpuSizeConfig>>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &"[REDACTED]")
            .field("access_key_secret", &"[REDACTED]")
            .field("security_token", &self.security_token.as_ref().map(|_| "[REDACTED]"))
            .field("effect_bound_ms", &self.effect_bound_ms)
            .field("gpu_sizes", &self.gpu_sizes)
            .finish()
    }
}

/// One GPU size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GpuSizeConfig {
    /// The vendor's name, for example `ecs.gn6i-c4g1.xlarge`.
    pub instance_type: String,
    /// Model as tenants write it, for example `T4`.
    pub gpu_type: String,
    /// Number of GPUs.
    pub gpu_count: u32,
    /// vCPU that come with it.
    pub cpu: MilliCpu,
    /// Memory that comes with it.
    pub memory: MemoryMib,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// URL with path `/`.
    pub(super) url: Uri,
    /// The `Host` header, which is signed: host, and port unless it is the scheme's own.
    pub(super) host: String,
}

impl Config {
    /// The endpoint, checked: this product lives at `/` of its host.
    pub(super) fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let text = self.endpoint.clone().unwrap_or_else(|| format!("https://eci.{}.aliyuncs.com", self.region));
        let wrong = || {
            let allowed =
                "is not a URL like https://eci.cn-hangzhou.aliyuncs.com or http://127.0.0.1:8080, without a path";
            ConfigError::new("endpoint", format!("{text:?} {allowed}"))
        };
        let url: Uri = text.parse().map_err(|_| wrong())?;
        let default_port = match url.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(wrong()),
        };
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        let authority = url.authority().filter(|a| bare && !a.host().is_empty() && !a.as_str().contains('@'));
        let authority = authority.ok_or_else(wrong)?;
        let host = match authority.port_u16() {
            Some(port) if port != default_port => format!("{}:{port}", authority.host()),
            _ => authority.host().to_owned(),
        };
        Ok(Endpoint { url, host })
    }

    /// The key id stands in a header between commas.
    pub(super) fn check_key_id(&self) -> Result<(), ConfigError> {
        let id = &self.access_key_id;
        if !id.is_empty() && id.bytes().all(|c| c.is_ascii_graphic() && c != b',') {
            return Ok(());
        }
        Err(ConfigError::new("accessKeyId", "must be visible ASCII characters without blanks and commas"))
    }

    /// The effect bound, checked.
    pub(super) fn effect_bound(&self) -> Result<Duration, ConfigError> {
        let bound = self.effect_bound_ms.map_or(EFFECT_BOUND_DEFAULT, Duration::from_millis);
        if bound.is_zero() || bound > EFFECT_BOUND_MAX {
            let problem = format!("{} is not in 1 to {}", bound.as_millis(), EFFECT_BOUND_MAX.as_millis());
            return Err(ConfigError::new("effectBoundMs", problem));
        }
        Ok(bound)
    }

    /// The GPU sizes, checked.
    pub(super) fn gpu_sizes(&self) -> Result<Vec<GpuSize>, ConfigError> {
        let Some(sizes) = &self.gpu_sizes else {
            return Ok(GPU_SIZES_DEFAULT.iter().map(|size| (*size).into()).collect());
        };
        if sizes.len() > GPU_SIZES_MAX {
            return Err(ConfigError::new("gpuSizes", format!("{} sizes; at most {GPU_SIZES_MAX}", sizes.len())));
        }
        sizes.iter().enumerate().map(|(i, size)| gpu_size(i, size)).collect()
    }
}

fn gpu_size(i: usize, size: &GpuSizeConfig) -> Result<GpuSize, ConfigError> {
    let named = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_graphic() && c != b',');
    if !named(&size.instance_type) || !named(&size.gpu_type) {
        return Err(ConfigError::new(format!("gpuSizes[{i}]"), "instanceType and gpuType are single words"));
    }
    if size.gpu_count == 0 || size.cpu.0 == 0 || size.memory.0 == 0 {
        return Err(ConfigError::new(format!("gpuSizes[{i}]"), "gpuCount, cpu and memory are above 0"));
    }
    Ok(GpuSize {
        gpu_type: size.gpu_type.clone(),
        gpu_count: size.gpu_count,
        cpu: size.cpu,
        memory: size.memory,
        vendor_name: size.instance_type.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        http::HttpClient,
        registry::{BoxedBackend, build},
    };

    fn settings(key: &str, value: Value) -> Value {
        let mut settings = json!({"region": "cn-hangzhou", "accessKeyId": "AK1", "accessKeySecret": "hush"});
        settings[key] = value;
        settings
    }

    fn config(key: &str, value: Value) -> Config {
        serde_json::from_value(settings(key, value)).unwrap()
    }

    fn built(key: &str, value: Value) -> Result<BoxedBackend, ConfigError> {
        build("alibaba-eci", settings(key, value), HttpClient::new().unwrap())
    }

    #[test]
    fn defaults_follow_the_region() {
        let config = config("region", json!("cn-beijing"));
        let endpoint = config.endpoint().unwrap();
        assert_eq!(endpoint.url.to_string(), "https://eci.cn-beijing.aliyuncs.com/");
        assert_eq!(endpoint.host, "eci.cn-beijing.aliyuncs.com");
        assert_eq!(config.effect_bound().unwrap(), EFFECT_BOUND_DEFAULT);
        assert!(config.gpu_sizes().unwrap().iter().any(|s| s.gpu_type == "A10"));
    }

    #[test]
    fn the_host_header_leaves_the_schemes_port_out() {
        for (url, host) in
            [("https://h:443", "h"), ("http://h:80/", "h"), ("http://h:443", "h:443"), ("http://[::1]:8", "[::1]:8")]
        {
            assert_eq!(config("endpoint", json!(url)).endpoint().unwrap().host, host, "{url}");
        }
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        let text = format!("{:?}", config("region", json!("r")));
        assert!(!text.contains("hush") && !text.contains("AK1"), "{text}");
    }

    #[test]
    fn mistakes_are_named() {
        let size = |count: u32, name: &str| json!([{"instanceType": name, "gpuType": "T4", "gpuCount": count, "cpu": "4", "memory": "15Gi"}]);
        for (key, value, setting) in [
            ("endpoint", json!("ftp://h"), "endpoint"),
            ("endpoint", json!("http://h/path"), "endpoint"),
            ("endpoint", json!("http://u:p@h"), "endpoint"),
            ("endpoint", json!("/only/path"), "endpoint"),
            ("region", json!("a b"), "region"),
            ("accessKeyId", json!("A K"), "accessKeyId"),
            ("accessKeyId", json!(""), "accessKeyId"),
            ("effectBoundMs", json!(0), "effectBoundMs"),
            ("effectBoundMs", json!(86_400_001), "effectBoundMs"),
            ("gpuSizes", size(1, "a,b"), "gpuSizes[0]"),
            ("gpuSizes", size(0, "a"), "gpuSizes[0]"),
        ] {
            let error = built(key, value.clone()).unwrap_err();
            assert_eq!(error.setting, setting, "{key} = {value}: {error}");
        }
        let error = built("endpont", json!("x")).unwrap_err();
        assert!(error.problem.contains("endpont"), "{error}");
    }

    #[test]
    fn settings_reach_the_capability() {
        let bound = built("effectBoundMs", json!(1500)).unwrap();
        assert_eq!(bound.capability.effect_bound_ms, 1500);
        let one = json!([{"instanceType": "ecs.x", "gpuType": "L20", "gpuCount": 2, "cpu": "16", "memory": "64Gi"}]);
        let sizes = built("gpuSizes", one).unwrap().capability.gpu_sizes.clone();
        assert_eq!(sizes.len(), 1);
        assert_eq!((sizes[0].vendor_name.as_str(), sizes[0].memory), ("ecs.x", MemoryMib(64 << 10)));
    }
}
