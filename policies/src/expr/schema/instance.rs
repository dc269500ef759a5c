//! The spec of an instance, without its containers.

use meridian_model::{
    instance::{
        Capacity, ConfigFile, ConfigFileItem, Disk, DnsConfig, DnsOption, EmptyDir, HostAlias, InstanceSpec, Network,
        Nfs, Os, PlacementWishes, PublicIp, SecretRef, Volume,
    },
    validate::{
        CONFIG_FILES_LEN_MAX, CONFIG_FILES_MAX, CONTAINERS_MAX, DNS_OPTIONS_MAX, HOST_ALIASES_MAX, NAMESERVERS_MAX,
        PULL_SECRETS_MAX, SEARCHES_MAX, VOLUMES_MAX, WISHES_MAX,
    },
};

use super::{
    NAME, TEXT, TOKEN,
    container::{CONTAINER, RESOURCES},
    list, maybe, maybe_int, record,
};
use crate::expr::{
    types::Type,
    value::{AsValue, Value},
};

/// A length of validation as a bound of cost.
#[expect(clippy::cast_possible_truncation, reason = "lengths of validation are far below; a const has no try_from")]
pub(super) const fn len(n: usize) -> u32 {
    n as u32
}

const WISHES: u32 = len(WISHES_MAX);

record!(SPEC, InstanceSpec, "spec", {
    "containers": Type::List(&Type::Record(&CONTAINER), len(CONTAINERS_MAX)) => |s| list(&s.containers);
    "initContainers": Type::List(&Type::Record(&CONTAINER), len(CONTAINERS_MAX)) => |s| list(&s.init_containers);
    "volumes": Type::List(&Type::Record(&VOLUME), len(VOLUMES_MAX)) => |s| list(&s.volumes);
    "restartPolicy": Type::Word(&["Always", "OnFailure", "Never"]) => |s| Value::Text(s.restart_policy.as_str());
    "imagePullSecrets": Type::List(&Type::Record(&SECRET), len(PULL_SECRETS_MAX)) => |s| list(&s.image_pull_secrets);
    "terminationGracePeriodSeconds": Type::Int, optional
        => |s| maybe_int(s.termination_grace_period_seconds.map(u64::from));
    "activeDeadlineSeconds": Type::Int, optional => |s| maybe_int(s.active_deadline_seconds.map(u64::from));
    "dnsPolicy": Type::Word(&["Default", "ClusterFirst", "None"]), optional
        => |s| s.dns_policy.map_or(Value::Absent, |p| Value::Text(p.as_str()));
    "dnsConfig": Type::Record(&DNS), optional => |s| maybe(s.dns_config.as_ref());
    "hostAliases": Type::List(&Type::Record(&HOST_ALIAS), len(HOST_ALIASES_MAX)) => |s| list(&s.host_aliases);
    "hostname": NAME, optional => |s| maybe(s.hostname.as_ref());
    "os": Type::Record(&OS) => |s| s.os.value();
    "architecture": Type::Word(&["amd64", "arm64"]) => |s| Value::Text(s.architecture.as_str());
    "resources": Type::Record(&RESOURCES) => |s| s.resources.value();
    "gpuType": Type::Text(63), optional => |s| maybe(s.gpu_type.as_ref());
    "network": Type::Record(&NETWORK) => |s| s.network.value();
    "imageProfile": Type::Text(63), optional => |s| maybe(s.image_profile.as_ref());
    "capacity": Type::Record(&CAPACITY) => |s| s.capacity.value();
    "placement": Type::Record(&PLACEMENT) => |s| s.placement.value();
});

record!(VOLUME, Volume, "volume", {
    "name": Type::Text(63) => |v| Value::Text(&v.name);
    "emptyDir": Type::Record(&EMPTY_DIR), optional => |v| maybe(v.empty_dir.as_ref());
    "nfs": Type::Record(&NFS), optional => |v| maybe(v.nfs.as_ref());
    "disk": Type::Record(&DISK), optional => |v| maybe(v.disk.as_ref());
    "configFile": Type::Record(&CONFIG_FILE), optional => |v| maybe(v.config_file.as_ref());
});

record!(EMPTY_DIR, EmptyDir, "emptyDir", {
    "medium": Type::Word(&["", "Memory"]), optional
        => |v| v.medium.map_or(Value::Absent, |m| Value::Text(m.as_str()));
    "sizeLimit": Type::Memory, optional => |v| maybe_int(v.size_limit.map(|s| s.0));
});

record!(NFS, Nfs, "nfs", {
    "server": NAME => |v| Value::Text(&v.server);
    "path": TEXT => |v| Value::Text(&v.path);
    "readOnly": Type::Bool => |v| Value::Bool(v.read_only);
});

record!(DISK, Disk, "disk", {
    "diskId": TOKEN => |v| Value::Text(&v.disk_id);
    "fsType": TOKEN, optional => |v| maybe(v.fs_type.as_ref());
});

record!(CONFIG_FILE, ConfigFile, "configFile", {
    "items": Type::List(&Type::Record(&CONFIG_ITEM), len(CONFIG_FILES_MAX)) => |v| list(&v.items);
    "defaultMode": Type::Int, optional => |v| maybe_int(v.default_mode.map(u64::from));
});

record!(CONFIG_ITEM, ConfigFileItem, "inline file", {
    "path": TEXT => |v| Value::Text(&v.path);
    "content": Type::Text(len(CONFIG_FILES_LEN_MAX)) => |v| Value::Text(&v.content);
    "mode": Type::Int, optional => |v| maybe_int(v.mode.map(u64::from));
});

record!(SECRET, SecretRef, "secret reference", {
    "name": Type::Text(63) => |s| s.name.value();
});

record!(DNS, DnsConfig, "dnsConfig", {
    "nameservers": Type::List(&Type::Text(63), len(NAMESERVERS_MAX)) => |d| list(&d.nameservers);
    "searches": Type::List(&NAME, len(SEARCHES_MAX)) => |d| list(&d.searches);
    "options": Type::List(&Type::Record(&DNS_OPTION), len(DNS_OPTIONS_MAX)) => |d| list(&d.options);
});

record!(DNS_OPTION, DnsOption, "dns option", {
    "name": NAME => |d| Value::Text(&d.name);
    "value": NAME, optional => |d| maybe(d.value.as_ref());
});

record!(HOST_ALIAS, HostAlias, "host alias", {
    "ip": Type::Text(63) => |h| Value::Text(&h.ip);
    "hostnames": Type::List(&NAME, len(HOST_ALIASES_MAX)) => |h| list(&h.hostnames);
});

record!(OS, Os, "os", {
    "name": Type::Word(&["linux", "windows"]) => |o| Value::Text(o.name.as_str());
});

record!(NETWORK, Network, "network", {
    "profile": Type::Text(63), optional => |n| maybe(n.profile.as_ref());
    "publicIp": Type::Record(&PUBLIC_IP), optional => |n| maybe(n.public_ip.as_ref());
});

record!(PUBLIC_IP, PublicIp, "publicIp", {
    "bandwidthMbps": Type::Int, optional => |p| maybe_int(p.bandwidth_mbps.map(u64::from));
});

record!(CAPACITY, Capacity, "capacity", {
    "type": Type::Word(&["onDemand", "spot"]) => |c| Value::Text(c.kind.as_str());
    "maxPricePerHour": Type::Double, optional
        => |c| c.max_price_per_hour.map_or(Value::Absent, |p| Value::Double(p.units()));
});

record!(PLACEMENT, PlacementWishes, "placement", {
    "regions": Type::List(&TOKEN, WISHES) => |p| list(&p.regions);
    "zones": Type::List(&TOKEN, WISHES) => |p| list(&p.zones);
    "providers": Type::List(&Type::Text(63), WISHES) => |p| list(&p.providers);
    "strategy": Type::Word(&["priority", "cheapest", "spread"]) => |p| Value::Text(p.strategy.as_str());
    "fallbackOrder": Type::List(&Type::Text(63), WISHES) => |p| list(&p.fallback_order);
    "maxAttempts": Type::Int, optional => |p| maybe_int(p.max_attempts.map(u64::from));
    "placeTimeout": Type::Span, optional
        => |p| maybe_int(p.place_timeout.map(|s| u64::try_from(s.0.as_millis()).unwrap_or(u64::MAX)));
    "onDoubt": Type::Word(&["wait", "replace"]) => |p| Value::Text(p.on_doubt.as_str());
});
