//! Containers: names, images, environment, ports, mounts, probes, hooks, rights.

use std::collections::BTreeSet;

use super::{CONTAINERS_MAX, ENV_MAX, Faults, MOUNTS_MAX, PORTS_MAX, WORDS_MAX, cut, is_inner_path, resources};
use crate::instance::{
    Container, ContainerPort, EnvVar, ExecAction, HttpGetAction, InstanceSpec, LifecycleHandler, OsName, PortRef,
    Probe, SecurityContext, TcpSocketAction, VolumeMount,
};

/// Longest image reference: OCI's name (255), tag (128) and digest fit.
const IMAGE_LEN_MAX: usize = 512;
/// Prefix of the variables that identify an instance as ours (RELIABILITY 2.1); a tenant may not forge them.
const ENV_RESERVED: &str = "MERIDIAN_";
/// Longest time in a probe, in seconds: a day.
const PROBE_SECONDS_MAX: u32 = 86_400;
/// Most tries in a row.
const PROBE_THRESHOLD_MAX: u32 = 1000;

const ENV_NAME: &str = "use letters, digits, '_', '-' or '.', not beginning with a digit";
const PORT_NAME: &str = "use up to 15 lower-case letters, digits and single '-' inside, with at least one letter";

pub(super) fn containers(spec: &InstanceSpec, faults: &mut Faults) {
    if spec.containers.is_empty() {
        faults.add("/spec/containers", "required", "the instance has no container", "give at least one");
    }
    let mut names = BTreeSet::new();
    for (field, list) in [("containers", &spec.containers), ("initContainers", &spec.init_containers)] {
        faults.count(&format!("/spec/{field}"), list.len(), CONTAINERS_MAX);
        for (i, container) in list.iter().enumerate().take(CONTAINERS_MAX) {
            let at = format!("/spec/{field}/{i}");
            faults.dns_label(&format!("{at}/name"), "the container", &container.name);
            if !container.name.is_empty() {
                faults.unique(&mut names, &container.name, || format!("{at}/name"));
            }
            check(container, spec, &at, faults);
            if field == "initContainers" {
                init_only(container, &at, faults);
            }
        }
    }
}

fn check(c: &Container, spec: &InstanceSpec, at: &str, faults: &mut Faults) {
    image(&c.image, at, faults);
    for (field, words) in [("command", &c.command), ("args", &c.args)] {
        faults.count(&format!("{at}/{field}"), words.len(), WORDS_MAX);
    }
    env(&c.env, at, faults);
    ports(&c.ports, at, faults);
    mounts(&c.volume_mounts, spec, at, faults);
    resources(&c.resources, &format!("{at}/resources"), faults);
    let probes = [
        ("livenessProbe", &c.liveness_probe, true),
        ("readinessProbe", &c.readiness_probe, false),
        ("startupProbe", &c.startup_probe, true),
    ];
    for (field, given, one_success) in probes {
        if let Some(given) = given {
            let at = format!("{at}/{field}");
            probe(given, &c.ports, &at, faults);
            if one_success && given.success_threshold.is_some_and(|n| n != 1) {
                let detail = "the success threshold of this probe can only be 1";
                faults.add(format!("{at}/successThreshold"), "out-of-range", detail, "leave it out");
            }
        }
    }
    if let Some(lifecycle) = &c.lifecycle {
        for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(hook) = hook {
                handler(hook, &c.ports, &format!("{at}/lifecycle/{field}"), faults);
            }
        }
    }
    if let Some(security) = &c.security_context {
        rights(security, &format!("{at}/securityContext"), faults);
    }
}

/// Init containers run to their end: nothing can watch or hook them.
fn init_only(c: &Container, at: &str, faults: &mut Faults) {
    let given = [
        ("livenessProbe", c.liveness_probe.is_some()),
        ("readinessProbe", c.readiness_probe.is_some()),
        ("startupProbe", c.startup_probe.is_some()),
        ("lifecycle", c.lifecycle.is_some()),
    ];
    for (field, _) in given.iter().filter(|(_, is)| *is) {
        let detail = format!("an init container has no {field}");
        faults.add(format!("{at}/{field}"), "not-allowed", detail, "remove it");
    }
}

fn image(image: &str, at: &str, faults: &mut Faults) {
    let pointer = format!("{at}/image");
    if image.is_empty() {
        faults.add(pointer, "required", "the container has no image", "for example nginx:1.27");
    } else if image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        faults.add(pointer, "invalid-format", "the image reference has blanks in it", "for example nginx:1.27");
    } else if image.len() > IMAGE_LEN_MAX {
        let detail = format!("the image reference is longer than {IMAGE_LEN_MAX} bytes");
        faults.add(pointer, "too-large", detail, "");
    }
}

fn env(env: &[EnvVar], at: &str, faults: &mut Faults) {
    faults.count(&format!("{at}/env"), env.len(), ENV_MAX);
    let mut names = BTreeSet::new();
    for (i, var) in env.iter().enumerate().take(ENV_MAX) {
        let pointer = || format!("{at}/env/{i}/name");
        if var.name.is_empty() {
            faults.add(pointer(), "required", "the variable has no name", ENV_NAME);
        } else if !is_env_name(&var.name) {
            faults.add(pointer(), "invalid-name", format!("{:?} is not a variable's name", cut(&var.name)), ENV_NAME);
        } else if var.name.starts_with(ENV_RESERVED) {
            let detail = format!("{:?} begins with {ENV_RESERVED}, which is set by the gateway", cut(&var.name));
            faults.add(pointer(), "reserved", detail, "choose another name");
        } else {
            faults.unique(&mut names, &var.name, pointer);
        }
        if var.value.contains('\0') {
            faults.add(format!("{at}/env/{i}/value"), "invalid-format", "the value has a NUL character in it", "");
        }
    }
}

fn ports(ports: &[ContainerPort], at: &str, faults: &mut Faults) {
    faults.count(&format!("{at}/ports"), ports.len(), PORTS_MAX);
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate().take(PORTS_MAX) {
        let pointer = format!("{at}/ports/{i}/containerPort");
        if port.container_port == 0 {
            faults.add(pointer, "out-of-range", "0 is not a port", "use 1 to 65535");
        } else if !numbers.insert((port.container_port, port.protocol)) {
            let detail = format!("{} {} is given twice", port.protocol.as_str(), port.container_port);
            faults.add(pointer, "duplicate", detail, "remove one of them");
        }
        if let Some(name) = &port.name {
            let pointer = format!("{at}/ports/{i}/name");
            if is_port_name(name) {
                faults.unique(&mut names, name, || pointer);
            } else {
                faults.add(pointer, "invalid-name", format!("{:?} is not a port's name", cut(name)), PORT_NAME);
            }
        }
    }
}

fn mounts(mounts: &[VolumeMount], spec: &InstanceSpec, at: &str, faults: &mut Faults) {
    faults.count(&format!("{at}/volumeMounts"), mounts.len(), MOUNTS_MAX);
    let mut paths = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate().take(MOUNTS_MAX) {
        let at = format!("{at}/volumeMounts/{i}");
        if !spec.volumes.iter().any(|v| v.name == mount.name) {
            let names: Vec<&str> = spec.volumes.iter().take(10).map(|v| v.name.as_str()).collect();
            let hint = if names.is_empty() {
                "add it to volumes".to_owned()
            } else {
                format!("volumes: {}", names.join(", "))
            };
            let detail = format!("there is no volume {:?}", cut(&mount.name));
            faults.add(format!("{at}/name"), "unknown-reference", detail, hint);
        }
        if is_absolute(&mount.mount_path, spec.os.name) {
            faults.unique(&mut paths, &mount.mount_path, || format!("{at}/mountPath"));
        } else {
            let detail = format!("{:?} is not an absolute path", cut(&mount.mount_path));
            faults.add(format!("{at}/mountPath"), "invalid-path", detail, "for example /data");
        }
        if mount.sub_path.as_ref().is_some_and(|p| !is_inner_path(p)) {
            let hint = "use a relative path without '..'";
            faults.add(format!("{at}/subPath"), "invalid-path", "the sub-path leaves the volume", hint);
        }
    }
}

fn probe(probe: &Probe, ports: &[ContainerPort], at: &str, faults: &mut Faults) {
    action((&probe.exec, &probe.http_get, &probe.tcp_socket), ("the probe", ports), at, faults);
    let seconds = 1..=PROBE_SECONDS_MAX;
    faults.range(format!("{at}/initialDelaySeconds"), probe.initial_delay_seconds, &(0..=PROBE_SECONDS_MAX));
    faults.range(format!("{at}/timeoutSeconds"), probe.timeout_seconds, &seconds);
    faults.range(format!("{at}/periodSeconds"), probe.period_seconds, &seconds);
    faults.range(format!("{at}/successThreshold"), probe.success_threshold, &(1..=PROBE_THRESHOLD_MAX));
    faults.range(format!("{at}/failureThreshold"), probe.failure_threshold, &(1..=PROBE_THRESHOLD_MAX));
}

fn handler(hook: &LifecycleHandler, ports: &[ContainerPort], at: &str, faults: &mut Faults) {
    action((&hook.exec, &hook.http_get, &hook.tcp_socket), ("the hook", ports), at, faults);
}

type Actions<'a> = (&'a Option<ExecAction>, &'a Option<HttpGetAction>, &'a Option<TcpSocketAction>);

fn action((exec, get, tcp): Actions<'_>, (what, ports): (&str, &[ContainerPort]), at: &str, faults: &mut Faults) {
    let given = [("exec", exec.is_some()), ("httpGet", get.is_some()), ("tcpSocket", tcp.is_some())];
    faults.exactly_one(at, what, &given);
    if let Some(exec) = exec {
        if exec.command.is_empty() {
            faults.add(format!("{at}/exec/command"), "required", "there is no command to run", "");
        }
        faults.count(&format!("{at}/exec/command"), exec.command.len(), WORDS_MAX);
    }
    if let Some(get) = get {
        port_ref(&get.port, ports, &format!("{at}/httpGet/port"), faults);
        if !get.path.starts_with('/') {
            faults.add(format!("{at}/httpGet/path"), "invalid-path", "the path must be absolute", "begin it with '/'");
        }
        for (i, header) in get.http_headers.iter().enumerate().take(WORDS_MAX) {
            if header.name.is_empty() || !header.name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c)) {
                let detail = format!("{:?} is not a header's name", cut(&header.name));
                let hint = "use letters, digits, '-' and '_'";
                faults.add(format!("{at}/httpGet/httpHeaders/{i}/name"), "invalid-name", detail, hint);
            }
            if header.value.chars().any(char::is_control) {
                let detail = "the value has control characters in it";
                faults.add(format!("{at}/httpGet/httpHeaders/{i}/value"), "invalid-format", detail, "");
            }
        }
    }
    if let Some(tcp) = tcp {
        port_ref(&tcp.port, ports, &format!("{at}/tcpSocket/port"), faults);
    }
}

fn port_ref(port: &PortRef, ports: &[ContainerPort], at: &str, faults: &mut Faults) {
    match port {
        PortRef::Number(0) => faults.add(at, "out-of-range", "0 is not a port", "use 1 to 65535"),
        PortRef::Number(_) => {}
        PortRef::Name(name) => {
            if !ports.iter().any(|p| p.name.as_deref() == Some(name)) {
                let detail = format!("the container has no port named {:?}", cut(name));
                faults.add(at, "unknown-reference", detail, "name the port under ports, or give its number");
            }
        }
    }
}

fn rights(security: &SecurityContext, at: &str, faults: &mut Faults) {
    for (field, id) in [("runAsUser", security.run_as_user), ("runAsGroup", security.run_as_group)] {
        if id.is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            let hint = format!("use 0 to {}", i32::MAX);
            faults.add(format!("{at}/{field}"), "out-of-range", "the id is out of range", hint);
        }
    }
    let Some(capabilities) = &security.capabilities else { return };
    for (field, list) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
        let at = format!("{at}/capabilities/{field}");
        faults.list(&at, list.iter().map(String::as_str), WORDS_MAX);
        for (i, name) in list.iter().enumerate().take(WORDS_MAX) {
            if name.is_empty() || !name.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_') {
                let detail = format!("{:?} is not a capability", cut(name));
                faults.add(format!("{at}/{i}"), "invalid-name", detail, "for example NET_ADMIN");
            }
        }
    }
}

fn is_env_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c))
}

/// An IANA service name, as Kubernetes wants it (RFC 6335 section 5.1).
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && name.bytes().any(|c| c.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

fn is_absolute(path: &str, os: OsName) -> bool {
    if path.contains('\0') {
        return false;
    }
    match os {
        OsName::Linux => path.starts_with('/') && !path.contains(':'),
        OsName::Windows => {
            let b = path.as_bytes();
            let drive = b.first().is_some_and(u8::is_ascii_alphabetic) && b.get(1) == Some(&b':');
            path.starts_with(['/', '\\']) || drive
        }
    }
}
