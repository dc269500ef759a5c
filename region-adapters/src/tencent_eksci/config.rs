//! Settings of one EKSCI backend: one account in one region.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::Uri;
use meridian_model::{
    capability::GpuSize,
    ids::{RegionId, SubnetId, ZoneId},
    quantity::{MemoryMib, MilliCpu},
};
use secrecy::SecretString;
use serde::Deserialize;

use crate::registry::ConfigError;

/// The vendor's nearest-region endpoint; the region acted on comes from a header, not from the host
/// (API 3.0 documentation, "request structure").
const ENDPOINT_DEFAULT: &str = "https://tke.tencentcloudapi.com";

/// Time after which a create that was sent can no longer take effect unseen, in milliseconds: 2 s in which a
/// journalled attempt may still be sent, 300 s signature window (vendor document), 60 s processing and 30 s
/// list lag (both not documented, hence configurable). RELIABILITY 2.5(c).
pub const EFFECT_BOUND_MS_DEFAULT: u64 = (2 + 300 + 60 + 30) * 1000;

/// The signature window and the processing of it: with a shorter bound a create may be made twice.
pub(super) const EFFECT_BOUND_MIN: Duration = Duration::from_secs(300 + 60);

/// Largest effect bound accepted: a day. Longer doubt is for people, not for a timer.
const EFFECT_BOUND_MS_MAX: u64 = 24 * 3600 * 1000;

/// Settings of one backend.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// `http` or `https` URL without a path.
    #[serde(default = "endpoint_default")]
    pub endpoint: String,
    /// Region in the vendor's spelling, for example `ap-guangzhou`.
    pub region: RegionId,
    /// Key id.
    pub secret_id: String,
    /// Key.
    pub secret_key: SecretString,
    /// Goes with a key that is temporary (`X-TC-Token`, API 3.0 documentation, "common parameters").
    #[serde(default)]
    pub token: Option<SecretString>,
    /// Zone of each subnet: the vendor's replies name only the subnet. Instances in other subnets show no
    /// zone.
    #[serde(default)]
    pub subnet_zones: BTreeMap<SubnetId, ZoneId>,
    /// See [`EFFECT_BOUND_MS_DEFAULT`]; 1 to 86,400,000.
    #[serde(default = "effect_bound_default")]
    pub effect_bound_ms: u64,
    /// GPU sizes on sale. The vendor's document gives the models but not the vCPU and memory that go with
    /// them, so the default is not verified.
    #[serde(default = "super::sizes::gpu_default")]
    pub gpu_sizes: Vec<GpuSizeConfig>,
}

fn endpoint_default() -> String {
    ENDPOINT_DEFAULT.to_owned()
}

const fn effect_bound_default() -> u64 {
    EFFECT_BOUND_MS_DEFAULT
}

/// One GPU size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GpuSizeConfig {
    /// Model as tenants write it, for example `T4`.
    pub gpu_type: String,
    /// Number of GPUs.
    pub gpu_count: u32,
    /// vCPU that come with it.
    pub cpu: MilliCpu,
    /// Memory that comes with it.
    pub memory: MemoryMib,
    /// The vendor's `GpuType`; the model itself when left out.
    #[serde(default)]
    pub vendor_name: Option<String>,
}

impl From<GpuSizeConfig> for GpuSize {
    fn from(c: GpuSizeConfig) -> Self {
        let vendor_name = c.vendor_name.unwrap_or_else(|| c.gpu_type.clone());
        Self { gpu_type: c.gpu_type, gpu_count: c.gpu_count, cpu: c.cpu, memory: c.memory, vendor_name }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("secret_id", &"[REDACTED]")
            .field("secret_key", &"[REDACTED]")
            .field("token", &self.token.as_ref().map(|_| "[REDACTED]"))
            .field("subnet_zones", &self.subnet_zones)
            .field("effect_bound_ms", &self.effect_bound_ms)
            .field("gpu_sizes", &self.gpu_sizes)
            .finish()
    }
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// URL with path `/`.
    pub(super) url: Uri,
    /// The `Host` header, which is signed: host, and port unless it is the scheme's own.
    pub(super) host: String,
}

impl Endpoint {
    /// Nobody between us and the endpoint reads along: TLS, or this machine.
    pub(super) fn is_private(&self) -> bool {
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        loopback || self.url.scheme_str() == Some("https")
    }
}

impl Config {
    /// Checks what the types do not.
    pub(super) fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let wrong = || {
            let allowed = "is not a URL like https://tke.tencentcloudapi.com or http://127.0.0.1:8080, without a path";
            ConfigError::new("endpoint", format!("{:?} {allowed}", self.endpoint))
        };
        let url: Uri = self.endpoint.parse().map_err(|_| wrong())?;
        let default_port = match url.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(wrong()),
        };
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        let Some(authority) = url.authority().filter(|a| bare && !a.as_str().contains('@')) else {
            return Err(wrong());
        };
        let host = match authority.port_u16() {
            Some(port) if port != default_port => format!("{}:{port}", authority.host()),
            _ => authority.host().to_owned(),
        };
        Ok(Endpoint { url, host })
    }

    /// The effect bound, if it is one.
    pub(super) fn effect_bound(&self) -> Result<u64, ConfigError> {
        let allowed = 1..=EFFECT_BOUND_MS_MAX;
        if allowed.contains(&self.effect_bound_ms) {
            return Ok(self.effect_bound_ms);
        }
        Err(ConfigError::new("effectBoundMs", format!("{} is not in 1 to {EFFECT_BOUND_MS_MAX}", self.effect_bound_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str) -> Config {
        let json = serde_json::json!({"endpoint": endpoint, "region": "r", "secretId": "canary-id", "secretKey": "canary-key"});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_host_header_has_the_port_only_when_it_is_not_the_schemes_own() {
        let host = |url: &str| config(url).endpoint().map(|e| e.host);
        assert_eq!(host("https://tke.tencentcloudapi.com").unwrap(), "tke.tencentcloudapi.com");
        assert_eq!(host("https://tke.tencentcloudapi.com:443/").unwrap(), "tke.tencentcloudapi.com");
        assert_eq!(host("http://127.0.0.1:18090").unwrap(), "127.0.0.1:18090");
        for wrong in ["", "tke.tencentcloudapi.com", "ftp://h", "https://h/p", "https://h?q", "https://u@h", "http://"]
        {
            assert_eq!(host(wrong).unwrap_err().setting, "endpoint", "{wrong}");
        }
    }

    #[test]
    fn plain_http_is_private_only_on_this_machine() {
        let private = |url: &str| config(url).endpoint().unwrap().is_private();
        assert!(private("https://tke.tencentcloudapi.com"));
        assert!(private("http://127.0.0.1:1") && private("http://[::1]:1") && private("http://localhost"));
        assert!(!private("http://tke.tencentcloudapi.com") && !private("http://10.0.0.1"));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", config("http://h")).contains("canary"));
    }
}
