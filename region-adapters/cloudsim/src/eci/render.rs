//! Instances, containers and image caches in the words of the vendor's describe replies.
//!
//! Names and nesting as `DescribeContainerGroupsResponseBody` of the SDK 2.1.0 (`alibaba-eci.json`): plural where the
//! request is singular, volumes flat.

use serde_json::{Map, Value, json};

use super::time;
use crate::core::{
    Container, ContainerSpec, ContainerState, Event, Instance, Probe, ProbeAction, Termination, Volume, VolumeKind,
};

/// Most events shown per instance (constraints, document).
pub(crate) const EVENTS_PER_INSTANCE: usize = 50;

/// An object without the members that are null: the vendor leaves unset fields out.
pub(crate) fn compact(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, compact(v))).collect::<Map<_, _>>(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(compact).collect()),
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => scalar,
    }
}

/// One element of `ContainerGroups`.
pub(crate) fn group(instance: &Instance, with_events: bool) -> Value {
    let spec = &instance.spec;
    let ended = |state: &str| (instance.state.as_str() == state).then_some(instance.ended_ms).flatten();
    let mut group = json!({
        "ContainerGroupId": instance.id,
        "ContainerGroupName": spec.name,
        "RegionId": instance.scope.region,
        "ZoneId": instance.zone,
        "Status": instance.state.as_str(),
        "Cpu": instance.cpu,
        "Memory": instance.memory_gib,
        "InstanceType": instance.instance_type,
        "RestartPolicy": spec.restart_policy.as_str(),
        "VpcId": instance.vpc_id,
        "VSwitchId": instance.subnet_id,
        "SecurityGroupId": spec.security_group_ids.first(),
        "IntranetIp": instance.placed_ms.is_some().then_some(&instance.private_ip),
        "InternetIp": instance.eip.as_ref().filter(|_| instance.placed_ms.is_some()).map(|eip| &eip.address),
        "EniInstanceId": instance.placed_ms.is_some().then(|| format!("eni-{}", tail(&instance.id))),
        "CreationTime": time::format(instance.created_ms),
        "SucceededTime": ended("Succeeded").map(time::format),
        "FailedTime": ended("Failed").or_else(|| ended("ScheduleFailed")).map(time::format),
        "ExpiredTime": ended("Expired").map(time::format),
        "EphemeralStorage": spec.ephemeral_gib,
        "RamRoleName": spec.role_name,
        "ResourceGroupId": spec.extra.get("ResourceGroupId"),
        // A list in the request and one text here: the first that was asked for.
        "ComputeCategory": spec.extra.get("ComputeCategory").and_then(|wanted| wanted.get(0)),
        "SpotStrategy": spot_strategy(instance),
        "SpotPriceLimit": spec.spot.as_ref().and_then(|spot| spot.price_limit),
        "Discount": 0,
        "Tags": tags(&spec.tags),
        "Containers": instance.containers.iter().map(|one| container(one, "Commands")).collect::<Vec<_>>(),
        // The vendor's model has `Command` here and `Commands` above.
        "InitContainers": instance.init_containers.iter().map(|one| container(one, "Command")).collect::<Vec<_>>(),
        "Volumes": spec.volumes.iter().map(volume).collect::<Vec<_>>(),
        "HostAliases": spec.host_aliases.iter()
            .map(|alias| json!({"Ip": alias.ip, "Hostnames": alias.hostnames})).collect::<Vec<_>>(),
        "DnsConfig": spec.dns.as_ref().map(|dns| json!({
            "NameServers": dns.nameservers,
            "Searches": dns.searches,
            "Options": dns.options.iter().map(|(name, value)| json!({"Name": name, "Value": value})).collect::<Vec<_>>(),
        })),
        "EciSecurityContext": {"Sysctls": []},
        "Events": [],
    });
    if with_events && let Some(members) = group.as_object_mut() {
        let events: Vec<Value> = latest_events(instance).map(|event| plain_event(&spec.name, event)).collect();
        members.insert("Events".to_owned(), Value::Array(events));
    }
    compact(group)
}

fn spot_strategy(instance: &Instance) -> &'static str {
    match &instance.spec.spot {
        None => "NoSpot",
        Some(spot) if spot.price_limit.is_some() => "SpotWithPriceLimit",
        Some(_) => "SpotAsPriceGo",
    }
}

/// The part of an id after its prefix, for ids that belong to it.
pub(crate) fn tail(id: &str) -> &str {
    id.split_once('-').map_or(id, |(_, tail)| tail)
}

/// Key and value pairs as the vendor lists tags.
pub(crate) fn tags(tags: &[(String, String)]) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

/// The last events of an instance, oldest first.
pub(crate) fn latest_events(instance: &Instance) -> impl Iterator<Item = &Event> {
    instance.events.iter().skip(instance.events.len().saturating_sub(EVENTS_PER_INSTANCE))
}

fn plain_event(name: &str, event: &Event) -> Value {
    json!({
        "Type": event.kind.as_str(),
        "Name": event_name(name, event),
        "Reason": event.reason,
        "Message": event.message,
        "Count": event.count,
        "FirstTimestamp": time::format(event.first_ms),
        "LastTimestamp": time::format(event.last_ms),
    })
}

/// `<instance>.<hex of the first time>`, as Kubernetes names events.
pub(crate) fn event_name(name: &str, event: &Event) -> String {
    format!("{name}.{:x}", event.first_ms)
}

/// Which of the two documented sources an event comes from: the service places, the agent runs containers.
pub(crate) fn event_source(event: &Event) -> &'static str {
    match event.reason.as_str() {
        "Pulling" | "Pulled" | "Created" | "Started" | "Killing" | "BackOff" | "Failed" | "Unhealthy" => "K8sAgent",
        _ => "EciService",
    }
}

fn container(container: &Container, commands: &str) -> Value {
    let spec = &container.spec;
    let mut shown = json!({
        "Name": spec.name,
        "Image": spec.image,
        "Args": spec.args,
        "Cpu": spec.cpu.unwrap_or(0.0),
        "Memory": spec.memory_gib.unwrap_or(0.0),
        "Gpu": spec.gpu.unwrap_or(0),
        "WorkingDir": spec.working_dir,
        "ImagePullPolicy": spec.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
        "Ports": spec.ports.iter().map(|p| json!({"Port": p.port, "Protocol": p.protocol})).collect::<Vec<_>>(),
        "EnvironmentVars": env(spec),
        "VolumeMounts": spec.mounts.iter().map(|mount| json!({
            "Name": mount.name,
            "MountPath": mount.mount_path,
            "SubPath": mount.sub_path,
            "MountPropagation": mount.propagation,
            "ReadOnly": mount.read_only,
        })).collect::<Vec<_>>(),
        "LivenessProbe": spec.liveness.as_ref().map(probe),
        "ReadinessProbe": spec.readiness.as_ref().map(probe),
        "SecurityContext": spec.security.as_ref().map(|context| json!({
            "Capability": {"Adds": context.add},
            "ReadOnlyRootFilesystem": context.read_only_root,
            "RunAsUser": context.run_as_user,
        })),
        "Stdin": spec.stdin,
        "StdinOnce": spec.stdin_once,
        "Tty": spec.tty,
        "Ready": container.is_running(),
        "RestartCount": container.restart_count,
        "CurrentState": state(&container.state),
        "PreviousState": container.previous.as_ref().map(terminated),
    });
    if let Some(members) = shown.as_object_mut() {
        members.insert(commands.to_owned(), json!(spec.command));
    }
    shown
}

fn env(spec: &ContainerSpec) -> Vec<Value> {
    spec.env
        .iter()
        .map(|var| {
            let from = var.field_path.as_ref().map(|path| json!({"FieldRef": {"FieldPath": path}}));
            json!({"Key": var.name, "Value": from.is_none().then_some(&var.value), "ValueFrom": from})
        })
        .collect()
}

fn probe(probe: &Probe) -> Value {
    let mut shown = json!({
        "InitialDelaySeconds": probe.initial_delay_secs,
        "PeriodSeconds": probe.period_secs,
        "TimeoutSeconds": probe.timeout_secs,
        "SuccessThreshold": probe.success_threshold,
        "FailureThreshold": probe.failure_threshold,
        "Execs": [],
    });
    let (name, action) = match &probe.action {
        Some(ProbeAction::Exec { commands }) => ("Execs", json!(commands)),
        Some(ProbeAction::Http { path, port, scheme, .. }) => {
            ("HttpGet", json!({"Path": path, "Port": port, "Scheme": scheme}))
        }
        Some(ProbeAction::Tcp { port, host }) => ("TcpSocket", json!({"Port": port, "Host": host})),
        None => return shown,
    };
    if let Some(members) = shown.as_object_mut() {
        members.insert(name.to_owned(), action);
    }
    shown
}

fn state(state: &ContainerState) -> Value {
    match state {
        ContainerState::Waiting { reason, message } => {
            json!({"State": "Waiting", "Reason": reason, "Message": message, "DetailStatus": reason})
        }
        ContainerState::Running { started_ms } => {
            json!({"State": "Running", "StartTime": time::format(*started_ms), "DetailStatus": ""})
        }
        ContainerState::Terminated(life) => terminated(life),
    }
}

fn terminated(life: &Termination) -> Value {
    json!({
        "State": "Terminated",
        "StartTime": time::format(life.started_ms),
        "FinishTime": time::format(life.finished_ms),
        "ExitCode": life.exit_code,
        "Signal": life.signal,
        "Reason": life.reason,
        "Message": life.message,
        "DetailStatus": life.reason,
    })
}

fn volume(volume: &Volume) -> Value {
    let name = &volume.name;
    match &volume.kind {
        VolumeKind::EmptyDir { medium, size_limit } => json!({
            "Name": name, "Type": "EmptyDirVolume",
            "EmptyDirVolumeMedium": medium, "EmptyDirVolumeSizeLimit": size_limit,
        }),
        VolumeKind::Nfs { server, path, read_only } => json!({
            "Name": name, "Type": "NFSVolume",
            "NFSVolumeServer": server, "NFSVolumePath": path, "NFSVolumeReadOnly": read_only,
        }),
        VolumeKind::ConfigFile { files, .. } => json!({
            "Name": name, "Type": "ConfigFileVolume",
            "ConfigFileVolumeConfigFileToPaths":
                files.iter().map(|file| json!({"Path": file.path, "Content": file.content})).collect::<Vec<_>>(),
        }),
        VolumeKind::Disk { disk_id, fs_type, .. } => json!({
            "Name": name, "Type": "DiskVolume", "DiskVolumeDiskId": disk_id, "DiskVolumeFsType": fs_type,
        }),
        VolumeKind::Flex { driver, fs_type, options } => json!({
            "Name": name, "Type": "FlexVolume",
            "FlexVolumeDriver": driver, "FlexVolumeFsType": fs_type, "FlexVolumeOptions": options,
        }),
        // The vendor's describe reply has no field for a host path.
        VolumeKind::HostPath { .. } => json!({"Name": name, "Type": "HostPathVolume"}),
    }
}

/// One element of `Data` of `DescribeContainerGroupStatus`.
pub(crate) fn pod_status(instance: &Instance) -> Value {
    let statuses: Vec<Value> = instance.containers.iter().map(|one| container_status(&instance.id, one)).collect();
    let is_ready = instance.containers.iter().all(Container::is_running);
    let condition = |name: &str, is_true: bool, at: Option<i64>| {
        json!({
            "type": name, "status": if is_true { "True" } else { "False" },
            "lastTransitionTime": at.map(time::format), "Reason": "", "Message": "",
        })
    };
    let ip = instance.placed_ms.is_some().then_some(&instance.private_ip);
    compact(json!({
        "ContainerGroupId": instance.id,
        "Name": instance.spec.name,
        "Namespace": "default",
        "uuid": instance.id,
        "Status": instance.state.as_str(),
        "PodStatus": {
            "Phase": phase(instance.state.as_str()),
            "PodIp": ip,
            "PodIps": ip.map(|ip| json!([{"Ip": ip}])),
            "HostIp": ip,
            "StartTime": instance.placed_ms.map(time::format),
            "QosClass": "Guaranteed",
            "Conditions": [
                condition("PodScheduled", instance.placed_ms.is_some(), instance.placed_ms),
                condition("Ready", is_ready, instance.running_ms),
            ],
            "ContainerStatuses": statuses,
        },
    }))
}

/// Kubernetes' phase for a status of the vendor's.
fn phase(status: &str) -> &'static str {
    match status {
        "Scheduling" | "ScheduleFailed" | "Pending" => "Pending",
        "Succeeded" => "Succeeded",
        "Failed" | "Expired" => "Failed",
        _ => "Running",
    }
}

fn container_status(id: &str, container: &Container) -> Value {
    let ended = |life: &Termination| {
        json!({"Terminated": {
            "ContainerID": format!("eci://{id}/{}", container.spec.name),
            "ExitCode": life.exit_code, "Signal": life.signal, "Reason": life.reason, "Message": life.message,
            "StartedAt": time::format(life.started_ms), "FinishedAt": time::format(life.finished_ms),
        }})
    };
    let current = match &container.state {
        ContainerState::Waiting { reason, message } => json!({"Waiting": {"Reason": reason, "Message": message}}),
        // The odd name is the one the vendor's SDK reads.
        ContainerState::Running { started_ms } => json!({"Running": {"StartedAtstartedAt": time::format(*started_ms)}}),
        ContainerState::Terminated(life) => ended(life),
    };
    json!({
        "Name": container.spec.name,
        "Image": container.spec.image,
        "ImageID": container.spec.image,
        "Ready": container.is_running(),
        "Started": container.is_running(),
        "RestartCount": container.restart_count,
        "State": current,
        "LastState": container.previous.as_ref().map_or_else(|| json!({}), ended),
    })
}

/// When anything about an instance last changed, for `SinceSecond`.
pub(crate) fn last_change_ms(instance: &Instance) -> i64 {
    let containers = instance.containers.iter().map(|one| match &one.state {
        ContainerState::Waiting { .. } => None,
        ContainerState::Running { started_ms } => Some(*started_ms),
        ContainerState::Terminated(life) => Some(life.finished_ms),
    });
    let own = [instance.placed_ms, instance.running_ms, instance.ended_ms, instance.billed_since_ms];
    own.into_iter().chain(containers).flatten().fold(instance.created_ms, i64::max)
}
