//! A container and what is in it.

use meridian_model::{
    instance::{
        Container, ContainerPort, EnvVar, ExecAction, HttpGetAction, HttpHeader, Lifecycle, LifecycleHandler,
        LinuxCapabilities, PortRef, Probe, ResourceList, Resources, SecurityContext, TcpSocketAction, VolumeMount,
    },
    validate::{ENV_MAX, MOUNTS_MAX, PORTS_MAX, WORDS_MAX},
};

use super::{NAME, TEXT, instance::len, int, list, maybe, maybe_int, record};
use crate::expr::{
    types::Type,
    value::{AsValue, Value},
};

/// Longest image reference that validation takes.
const IMAGE_LEN_MAX: u32 = 512;
const WORDS: Type = Type::List(&TEXT, len(WORDS_MAX));

record!(CONTAINER, Container, "container", {
    "name": Type::Text(63) => |c| Value::Text(&c.name);
    "image": Type::Text(IMAGE_LEN_MAX) => |c| Value::Text(&c.image);
    "imagePullPolicy": Type::Word(&["Always", "IfNotPresent", "Never"]), optional
        => |c| c.image_pull_policy.map_or(Value::Absent, |p| Value::Text(p.as_str()));
    "command": WORDS => |c| list(&c.command);
    "args": WORDS => |c| list(&c.args);
    "workingDir": TEXT, optional => |c| maybe(c.working_dir.as_ref());
    "env": Type::List(&Type::Record(&ENV), len(ENV_MAX)) => |c| list(&c.env);
    "ports": Type::List(&Type::Record(&PORT), len(PORTS_MAX)) => |c| list(&c.ports);
    "resources": Type::Record(&RESOURCES) => |c| c.resources.value();
    "volumeMounts": Type::List(&Type::Record(&MOUNT), len(MOUNTS_MAX)) => |c| list(&c.volume_mounts);
    "livenessProbe": Type::Record(&PROBE), optional => |c| maybe(c.liveness_probe.as_ref());
    "readinessProbe": Type::Record(&PROBE), optional => |c| maybe(c.readiness_probe.as_ref());
    "startupProbe": Type::Record(&PROBE), optional => |c| maybe(c.startup_probe.as_ref());
    "lifecycle": Type::Record(&LIFECYCLE), optional => |c| maybe(c.lifecycle.as_ref());
    "securityContext": Type::Record(&SECURITY), optional => |c| maybe(c.security_context.as_ref());
    "stdin": Type::Bool => |c| Value::Bool(c.stdin);
    "tty": Type::Bool => |c| Value::Bool(c.tty);
});

record!(ENV, EnvVar, "environment variable", {
    "name": TEXT => |e| Value::Text(&e.name);
    "value": TEXT => |e| Value::Text(&e.value);
});

record!(PORT, ContainerPort, "port", {
    "name": Type::Text(63), optional => |p| maybe(p.name.as_ref());
    "containerPort": Type::Int => |p| int(u64::from(p.container_port));
    "protocol": Type::Word(&["TCP", "UDP", "SCTP"]) => |p| Value::Text(p.protocol.as_str());
});

record!(RESOURCES, Resources, "resources", {
    "requests": Type::Record(&RESOURCE_LIST) => |r| r.requests.value();
    "limits": Type::Record(&RESOURCE_LIST) => |r| r.limits.value();
});

record!(RESOURCE_LIST, ResourceList, "resource list", {
    "cpu": Type::Cpu, optional => |r| maybe_int(r.cpu.map(|c| c.0));
    "memory": Type::Memory, optional => |r| maybe_int(r.memory.map(|m| m.0));
    "nvidia.com/gpu": Type::Int, optional => |r| maybe_int(r.gpu.map(|g| u64::from(g.0)));
    "ephemeral-storage": Type::Memory, optional => |r| maybe_int(r.ephemeral_storage.map(|m| m.0));
});

record!(MOUNT, VolumeMount, "volume mount", {
    "name": Type::Text(63) => |m| Value::Text(&m.name);
    "mountPath": TEXT => |m| Value::Text(&m.mount_path);
    "readOnly": Type::Bool => |m| Value::Bool(m.read_only);
    "subPath": TEXT, optional => |m| maybe(m.sub_path.as_ref());
    "mountPropagation": Type::Word(&["None", "HostToContainer", "Bidirectional"]), optional
        => |m| m.mount_propagation.map_or(Value::Absent, |p| Value::Text(p.as_str()));
});

record!(PROBE, Probe, "probe", {
    "exec": Type::Record(&EXEC), optional => |p| maybe(p.exec.as_ref());
    "httpGet": Type::Record(&HTTP_GET), optional => |p| maybe(p.http_get.as_ref());
    "tcpSocket": Type::Record(&TCP_SOCKET), optional => |p| maybe(p.tcp_socket.as_ref());
    "initialDelaySeconds": Type::Int, optional => |p| maybe_int(p.initial_delay_seconds.map(u64::from));
    "timeoutSeconds": Type::Int, optional => |p| maybe_int(p.timeout_seconds.map(u64::from));
    "periodSeconds": Type::Int, optional => |p| maybe_int(p.period_seconds.map(u64::from));
    "successThreshold": Type::Int, optional => |p| maybe_int(p.success_threshold.map(u64::from));
    "failureThreshold": Type::Int, optional => |p| maybe_int(p.failure_threshold.map(u64::from));
});

record!(EXEC, ExecAction, "exec action", {
    "command": WORDS => |e| list(&e.command);
});

/// The number of a port; absent where the port is named.
fn port_number(port: &PortRef) -> Value<'_> {
    match port {
        PortRef::Number(n) => int(u64::from(*n)),
        PortRef::Name(_) => Value::Absent,
    }
}

record!(HTTP_GET, HttpGetAction, "httpGet action", {
    "path": TEXT => |h| Value::Text(&h.path);
    "port": Type::Int, optional => |h| port_number(&h.port);
    "scheme": Type::Word(&["HTTP", "HTTPS"]) => |h| Value::Text(h.scheme.as_str());
    "host": NAME, optional => |h| maybe(h.host.as_ref());
    "httpHeaders": Type::List(&Type::Record(&HEADER), 64) => |h| list(&h.http_headers);
});

record!(HEADER, HttpHeader, "header", {
    "name": NAME => |h| Value::Text(&h.name);
    "value": TEXT => |h| Value::Text(&h.value);
});

record!(TCP_SOCKET, TcpSocketAction, "tcpSocket action", {
    "port": Type::Int, optional => |t| port_number(&t.port);
    "host": NAME, optional => |t| maybe(t.host.as_ref());
});

record!(LIFECYCLE, Lifecycle, "lifecycle", {
    "postStart": Type::Record(&HOOK), optional => |l| maybe(l.post_start.as_ref());
    "preStop": Type::Record(&HOOK), optional => |l| maybe(l.pre_stop.as_ref());
});

record!(HOOK, LifecycleHandler, "hook", {
    "exec": Type::Record(&EXEC), optional => |l| maybe(l.exec.as_ref());
    "httpGet": Type::Record(&HTTP_GET), optional => |l| maybe(l.http_get.as_ref());
    "tcpSocket": Type::Record(&TCP_SOCKET), optional => |l| maybe(l.tcp_socket.as_ref());
});

record!(SECURITY, SecurityContext, "securityContext", {
    "runAsUser": Type::Int, optional => |s| s.run_as_user.map_or(Value::Absent, Value::Int);
    "runAsGroup": Type::Int, optional => |s| s.run_as_group.map_or(Value::Absent, Value::Int);
    "runAsNonRoot": Type::Bool, optional => |s| s.run_as_non_root.map_or(Value::Absent, Value::Bool);
    "readOnlyRootFilesystem": Type::Bool, optional
        => |s| s.read_only_root_filesystem.map_or(Value::Absent, Value::Bool);
    "privileged": Type::Bool, optional => |s| s.privileged.map_or(Value::Absent, Value::Bool);
    "capabilities": Type::Record(&CAPABILITIES), optional => |s| maybe(s.capabilities.as_ref());
});

record!(CAPABILITIES, LinuxCapabilities, "capabilities", {
    "add": Type::List(&Type::Text(63), 64) => |c| list(&c.add);
    "drop": Type::List(&Type::Text(63), 64) => |c| list(&c.drop);
});
