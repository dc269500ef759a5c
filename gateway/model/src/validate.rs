//! Checks of a spec that need nothing but the spec: every fault at once, each with its JSON pointer.
//!
//! Rules are Kubernetes' wherever Kubernetes has the field. What depends on a tenant (profiles, regions) is
//! admission's, what depends on a backend is [`crate::capability`]'s. Every list has a bound, so that the work and
//! the number of faults in an answer are bounded too.
//!
//! Codes: `required`, `invalid-name`, `invalid-format`, `invalid-path`, `duplicate`, `out-of-range`, `too-many`,
//! `too-large`, `exactly-one-of`, `unknown-reference`, `not-an-address`, `not-allowed`, `reserved`.

mod container;
mod volume;

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, time::Duration};

use crate::{
    error::FieldError,
    instance::{CapacityType, DnsConfig, DnsPolicy, HostAlias, InstanceSpec, Labels, PlacementWishes, Resources},
};

/// Most containers, and most init containers. The vendors' own limits are 20 and below.
pub const CONTAINERS_MAX: usize = 20;
/// Most environment variables of one container.
pub const ENV_MAX: usize = 500;
/// Most ports of one container.
pub const PORTS_MAX: usize = 100;
/// Most mounts of one container.
pub const MOUNTS_MAX: usize = 64;
/// Most words of a command, of arguments or of an exec action.
pub const WORDS_MAX: usize = 256;
/// Most volumes.
pub const VOLUMES_MAX: usize = 64;
/// Most bytes in all inline files of one volume: ECI takes 60 KB (its create action, inline file volumes).
pub const CONFIG_FILES_LEN_MAX: usize = 60 * 1024;
/// Most inline files of one volume.
pub const CONFIG_FILES_MAX: usize = 100;
/// Most labels.
pub const LABELS_MAX: usize = 64;
/// Prefix of annotations by which the gateway knows what it found and did not make.
const ANNOTATION_RESERVED: &str = "meridian.dev/";
/// Most bytes in all annotations together, as in Kubernetes.
pub const ANNOTATIONS_LEN_MAX: usize = 256 * 1024;
/// Most name servers, as in Kubernetes.
pub const NAMESERVERS_MAX: usize = 3;
/// Most search domains, as in Kubernetes.
pub const SEARCHES_MAX: usize = 32;
/// Most resolver options.
pub const DNS_OPTIONS_MAX: usize = 32;
/// Most extra lines of the hosts file, and most names in one.
pub const HOST_ALIASES_MAX: usize = 64;
/// Most entries of one list of wishes.
pub const WISHES_MAX: usize = 100;
/// Most image pull secrets.
pub const PULL_SECRETS_MAX: usize = 16;
/// Most attempts a spec may ask for: each may leave an instance to remove, and a user waiting.
pub const ATTEMPTS_MAX: u32 = 20;
/// Shortest and longest time for one attempt.
pub const PLACE_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Bandwidth of a public address in Mbit/s.
pub const BANDWIDTH_MBPS: RangeInclusive<u32> = 1..=2000;
/// Longest grace period, in seconds: a day.
pub const GRACE_SECONDS_MAX: u32 = 86_400;
/// Most faults in one answer: more help nobody, and the answer stays small.
pub const FAULTS_MAX: usize = 200;

/// Everything that is wrong with a spec by itself; empty when it is valid. Pointers begin with `/spec`. At most
/// [`FAULTS_MAX`] faults are told.
#[must_use]
pub fn spec(spec: &InstanceSpec) -> Vec<FieldError> {
    let mut faults = Faults::default();
    container::containers(spec, &mut faults);
    volume::volumes(spec, &mut faults);
    resources(&spec.resources, "/spec/resources", &mut faults);
    gpu(spec, &mut faults);
    times(spec, &mut faults);
    dns(spec, &mut faults);
    host_aliases(&spec.host_aliases, &mut faults);
    capacity(spec, &mut faults);
    wishes(&spec.placement, &mut faults);
    let secrets = spec.image_pull_secrets.iter().map(|s| s.name.as_str());
    faults.list("/spec/imagePullSecrets", secrets, PULL_SECRETS_MAX);
    faults.0
}

/// Faults of labels, by Kubernetes' rules for keys and values; at most [`LABELS_MAX`]. `pointer` is where the labels
/// stand in the request body, for example `/labels`.
#[must_use]
pub fn labels(labels: &Labels, pointer: &str) -> Vec<FieldError> {
    let mut faults = Faults::default();
    faults.count(pointer, labels.len(), LABELS_MAX);
    for (key, value) in labels.iter().take(LABELS_MAX) {
        let at = format!("{pointer}/{}", escaped(key));
        label_key(key, &at, &mut faults);
        if !value.is_empty() && !is_label_name(value) {
            let detail = format!("label value {:?} is not valid", cut(value));
            faults.add(&at, "invalid-format", detail, LABEL_NAME);
        }
    }
    faults.0
}

/// Faults of annotations: keys as for labels, any values, all together at most [`ANNOTATIONS_LEN_MAX`] bytes.
#[must_use]
pub fn annotations(annotations: &Labels, pointer: &str) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let total: usize = annotations.iter().map(|(k, v)| k.len().saturating_add(v.len())).sum();
    if total > ANNOTATIONS_LEN_MAX {
        let detail = format!("{total} bytes of annotations; at most {ANNOTATIONS_LEN_MAX} are taken");
        faults.add(pointer, "too-large", detail, "keep large data outside of annotations");
    }
    for key in annotations.keys() {
        let at = format!("{pointer}/{}", escaped(key));
        label_key(key, &at, &mut faults);
        if key.starts_with(ANNOTATION_RESERVED) {
            let detail =
                format!("{:?} begins with {ANNOTATION_RESERVED}, whose annotations are the gateway's", cut(key));
            faults.add(at, "reserved", detail, "leave it out, or choose another prefix");
        }
    }
    faults.0
}

const LABEL_NAME: &str = "use up to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends";
const DNS_LABEL: &str = "use 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends";
const DNS_NAME: &str = "use lower-case labels of letters, digits and '-', joined by dots, 253 characters at most";

/// Faults found so far.
#[derive(Debug, Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, code: &str, detail: impl Into<String>, hint: impl Into<String>) {
        if self.0.len() < FAULTS_MAX {
            let hint: String = hint.into();
            self.0.push(FieldError {
                pointer: pointer.into(),
                code: code.to_owned(),
                detail: detail.into(),
                hint: (!hint.is_empty()).then_some(hint),
                ..FieldError::default()
            });
        }
    }

    fn count(&mut self, pointer: &str, count: usize, max: usize) {
        if count > max {
            self.add(pointer, "too-many", format!("{count} entries; at most {max} are taken"), "");
        }
    }

    /// A list of names that may not be too long nor name anything twice.
    fn list<'a>(&mut self, pointer: &str, items: impl ExactSizeIterator<Item = &'a str>, max: usize) {
        self.count(pointer, items.len(), max);
        let mut seen = BTreeSet::new();
        for (i, item) in items.take(max).enumerate() {
            self.unique(&mut seen, item, || format!("{pointer}/{i}"));
        }
    }

    fn unique<'a>(&mut self, seen: &mut BTreeSet<&'a str>, name: &'a str, pointer: impl FnOnce() -> String) {
        if !seen.insert(name) {
            self.add(pointer(), "duplicate", format!("{:?} is given twice", cut(name)), "remove or rename one of them");
        }
    }

    fn dns_label(&mut self, pointer: &str, what: &str, name: &str) {
        if name.is_empty() {
            self.add(pointer, "required", format!("{what} has no name"), DNS_LABEL);
        } else if !is_dns_label(name) {
            self.add(pointer, "invalid-name", format!("{what} name {:?} is not valid", cut(name)), DNS_LABEL);
        }
    }

    fn range(&mut self, pointer: impl Into<String>, value: Option<u32>, range: &RangeInclusive<u32>) {
        if let Some(value) = value.filter(|v| !range.contains(v)) {
            let hint = format!("use {} to {}", range.start(), range.end());
            self.add(pointer, "out-of-range", format!("{value} is out of range"), hint);
        }
    }

    /// Exactly one of several fields must be given.
    fn exactly_one(&mut self, pointer: &str, what: &str, given: &[(&str, bool)]) {
        let set: Vec<&str> = given.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        if set.len() != 1 {
            let detail = if set.is_empty() {
                format!("{what} has nothing set")
            } else {
                format!("{what} has {} set", set.join(" and "))
            };
            let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
            self.add(pointer, "exactly-one-of", detail, format!("give exactly one of {}", names.join(", ")));
        }
    }
}

/// Sizes above zero, and limits not below requests.
fn resources(r: &Resources, at: &str, faults: &mut Faults) {
    let rows = [
        ("cpu", r.requests.cpu.map(|n| n.0), r.limits.cpu.map(|n| n.0), true),
        ("memory", r.requests.memory.map(|n| n.0), r.limits.memory.map(|n| n.0), true),
        ("ephemeral-storage", r.requests.ephemeral_storage.map(|n| n.0), r.limits.ephemeral_storage.map(|n| n.0), true),
        ("nvidia.com/gpu", r.requests.gpu.map(|n| u64::from(n.0)), r.limits.gpu.map(|n| u64::from(n.0)), false),
    ];
    for (name, request, limit, positive) in rows {
        for (list, value) in [("requests", request), ("limits", limit)] {
            if positive && value == Some(0) {
                let detail = format!("{name} must be more than 0");
                faults.add(
                    format!("{at}/{list}/{}", escaped(name)),
                    "out-of-range",
                    detail,
                    "leave it out for the default",
                );
            }
        }
        if let (Some(request), Some(limit)) = (request, limit)
            && limit < request
        {
            let detail = format!("the limit of {name} is below its request");
            faults.add(
                format!("{at}/limits/{}", escaped(name)),
                "out-of-range",
                detail,
                "raise the limit or lower the request",
            );
        }
    }
}

fn gpu(spec: &InstanceSpec, faults: &mut Faults) {
    let count = spec.shape().gpu_count;
    match &spec.gpu_type {
        None if count > 0 => {
            faults.add("/spec/gpuType", "required", "a GPU is asked for, but not which model", "for example T4");
        }
        Some(kind) if kind.is_empty() || kind.len() > 63 || !is_label_name(kind) => {
            faults.add("/spec/gpuType", "invalid-name", "the GPU model is not a name", "for example T4");
        }
        Some(_) if count == 0 => faults.add(
            "/spec/resources/limits/nvidia.com~1gpu",
            "required",
            "a GPU model is named, but no number of GPUs",
            "set resources.limits of a container or of the spec, or leave gpuType out",
        ),
        Some(_) | None => {}
    }
}

fn times(spec: &InstanceSpec, faults: &mut Faults) {
    let grace = spec.termination_grace_period_seconds;
    faults.range("/spec/terminationGracePeriodSeconds", grace, &(0..=GRACE_SECONDS_MAX));
    faults.range("/spec/activeDeadlineSeconds", spec.active_deadline_seconds, &(1..=u32::MAX));
    let bandwidth = spec.network.public_ip.as_ref().and_then(|ip| ip.bandwidth_mbps);
    faults.range("/spec/network/publicIp/bandwidthMbps", bandwidth, &BANDWIDTH_MBPS);
}

fn dns(spec: &InstanceSpec, faults: &mut Faults) {
    if let Some(hostname) = &spec.hostname
        && !is_dns_label(hostname)
    {
        faults.add("/spec/hostname", "invalid-name", format!("host name {:?} is not valid", cut(hostname)), DNS_LABEL);
    }
    let no_servers = spec.dns_config.as_ref().is_none_or(|c| c.nameservers.is_empty());
    if spec.dns_policy == Some(DnsPolicy::None) && no_servers {
        let detail = "dnsPolicy None needs at least one name server";
        faults.add("/spec/dnsConfig/nameservers", "required", detail, "");
    }
    if let Some(config) = &spec.dns_config {
        dns_config(config, faults);
    }
}

fn dns_config(config: &DnsConfig, faults: &mut Faults) {
    let at = "/spec/dnsConfig";
    faults.count(&format!("{at}/nameservers"), config.nameservers.len(), NAMESERVERS_MAX);
    for (i, server) in config.nameservers.iter().enumerate().take(NAMESERVERS_MAX) {
        address(server, &format!("{at}/nameservers/{i}"), faults);
    }
    faults.count(&format!("{at}/searches"), config.searches.len(), SEARCHES_MAX);
    for (i, domain) in config.searches.iter().enumerate().take(SEARCHES_MAX) {
        // A search domain may be absolute, with a dot at its end.
        if !is_dns_name(domain.strip_suffix('.').unwrap_or(domain)) {
            let detail = format!("search domain {:?} is not valid", cut(domain));
            faults.add(format!("{at}/searches/{i}"), "invalid-name", detail, DNS_NAME);
        }
    }
    faults.count(&format!("{at}/options"), config.options.len(), DNS_OPTIONS_MAX);
    for (i, option) in config.options.iter().enumerate().take(DNS_OPTIONS_MAX) {
        if option.name.is_empty() {
            faults.add(format!("{at}/options/{i}/name"), "required", "the option has no name", "for example ndots");
        }
    }
}

fn host_aliases(aliases: &[HostAlias], faults: &mut Faults) {
    faults.count("/spec/hostAliases", aliases.len(), HOST_ALIASES_MAX);
    for (i, alias) in aliases.iter().enumerate().take(HOST_ALIASES_MAX) {
        let at = format!("/spec/hostAliases/{i}");
        address(&alias.ip, &format!("{at}/ip"), faults);
        if alias.hostnames.is_empty() {
            faults.add(format!("{at}/hostnames"), "required", "the address has no host name", "");
        }
        faults.count(&format!("{at}/hostnames"), alias.hostnames.len(), HOST_ALIASES_MAX);
        for (n, name) in alias.hostnames.iter().enumerate().take(HOST_ALIASES_MAX) {
            if !is_dns_name(name) {
                let detail = format!("host name {:?} is not valid", cut(name));
                faults.add(format!("{at}/hostnames/{n}"), "invalid-name", detail, DNS_NAME);
            }
        }
    }
}

fn address(text: &str, at: &str, faults: &mut Faults) {
    if text.parse::<IpAddr>().is_err() {
        faults.add(at, "not-an-address", format!("{:?} is not an IP address", cut(text)), "for example 10.0.0.2");
    }
}

fn capacity(spec: &InstanceSpec, faults: &mut Faults) {
    let at = "/spec/capacity/maxPricePerHour";
    if let Some(price) = spec.capacity.max_price_per_hour {
        if spec.capacity.kind != CapacityType::Spot {
            let hint = "set capacity.type to spot, or leave the price out";
            faults.add(at, "not-allowed", "a highest price goes only with spot capacity", hint);
        } else if price.0 == 0 {
            faults.add(at, "out-of-range", "nothing is sold for 0", "leave it out to pay the market price");
        }
    }
}

fn wishes(wishes: &PlacementWishes, faults: &mut Faults) {
    let at = "/spec/placement";
    faults.list(&format!("{at}/regions"), wishes.regions.iter().map(|r| r.as_str()), WISHES_MAX);
    faults.list(&format!("{at}/zones"), wishes.zones.iter().map(|z| z.as_str()), WISHES_MAX);
    faults.list(&format!("{at}/providers"), wishes.providers.iter().map(|p| p.as_str()), WISHES_MAX);
    faults.list(&format!("{at}/fallbackOrder"), wishes.fallback_order.iter().map(|b| b.as_str()), WISHES_MAX);
    faults.range(format!("{at}/maxAttempts"), wishes.max_attempts, &(1..=ATTEMPTS_MAX));
    if let Some(timeout) = wishes.place_timeout.filter(|t| !PLACE_TIMEOUT.contains(&t.0)) {
        let detail = format!("{timeout} is out of range");
        faults.add(format!("{at}/placeTimeout"), "out-of-range", detail, "use 1s to 1h");
    }
}

fn label_key(key: &str, at: &str, faults: &mut Faults) {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_label_name(name) || prefix.is_some_and(|p| !is_dns_name(p)) {
        let hint = format!("{LABEL_NAME}; before it a DNS name and '/' may stand");
        faults.add(at, "invalid-name", format!("key {:?} is not valid", cut(key)), hint);
    }
}

/// A segment of a JSON pointer (RFC 6901).
fn escaped(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

/// Enough of a text to recognise it.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Kubernetes' label value or the name part of a key: 1 to 63 of `A-Za-z0-9-_.`, alphanumeric at both ends.
fn is_label_name(s: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let b = s.as_bytes();
    b.len() <= 63
        && edge(b.first())
        && edge(b.last())
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

fn is_dns_label(s: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let b = s.as_bytes();
    b.len() <= 63
        && edge(b.first())
        && edge(b.last())
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

fn is_dns_name(s: &str) -> bool {
    s.len() <= 253 && s.split('.').all(is_dns_label)
}

/// A path that stays where it is put: not empty, not absolute, no `..`.
fn is_inner_path(s: &str) -> bool {
    !s.is_empty() && !s.starts_with('/') && !s.contains('\0') && s.split('/').all(|part| part != "..")
}

#[cfg(test)]
mod tests;
