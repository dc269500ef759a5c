//! The core's records in Tencent's words.

use serde_json::{Map, Value, json};

use super::time::{ZERO, go_time, go_time_secs, plain_time};
use crate::core::{
    Container, ContainerSpec, ContainerState, Event, ImageCache, ImageCacheState, Instance, Probe, ProbeAction, State,
    Termination, Volume, VolumeKind,
};

/// EKSCI's status word. There is none for "could not be placed" (vendor-api README 2.5).
pub(crate) fn status(state: State) -> &'static str {
    match state {
        State::Scheduling | State::ScheduleFailed | State::Pending | State::Restarting => "Pending",
        State::Running | State::Terminating => "Running",
        State::Updating => "Updating",
        State::Succeeded => "Succeeded",
        State::Failed | State::Expired | State::Deleted => "Failed",
    }
}

/// An `EksCi`.
pub(crate) fn instance(instance: &Instance) -> Value {
    let spec = &instance.spec;
    let eip = instance.eip.as_ref();
    let succeeded = instance.ended_ms.filter(|_| instance.state == State::Succeeded);
    json!({
        "EksCiId": instance.id,
        "EksCiName": spec.name,
        "Status": status(instance.state),
        "CreationTime": go_time_secs(instance.created_ms),
        "SucceededTime": succeeded.map_or_else(|| ZERO.to_owned(), go_time_secs),
        "Cpu": instance.cpu,
        "Memory": instance.memory_gib,
        "CpuType": spec.cpu_type.clone().unwrap_or_default(),
        "GpuType": spec.gpu_type.clone().unwrap_or_default(),
        "GpuCount": spec.gpu_count,
        "RestartPolicy": spec.restart_policy.as_str(),
        "VpcId": instance.vpc_id,
        "SubnetId": instance.subnet_id,
        "SecurityGroupIds": spec.security_group_ids,
        "PrivateIp": instance.private_ip,
        "EipAddress": eip.map(|e| e.address.clone()),
        "AutoCreatedEipId": eip.filter(|e| e.auto_created).map(|e| e.id.clone()).unwrap_or_default(),
        "CamRoleName": spec.role_name.clone().unwrap_or_default(),
        "EksCiVolume": volumes(&spec.volumes),
        "Containers": instance.containers.iter().map(container).collect::<Vec<_>>(),
        "InitContainers": instance.init_containers.iter().map(container).collect::<Vec<_>>(),
        "SecurityContext": null,
        "PersistStatus": null,
    })
}

fn container(container: &Container) -> Value {
    let ContainerSpec { name, image, command, args, env, .. } = &container.spec;
    let spec = &container.spec;
    let env: Vec<_> = env.iter().map(|e| json!({"Name": e.name, "Value": e.value})).collect();
    let mounts: Vec<_> = spec
        .mounts
        .iter()
        .map(|m| {
            json!({"Name": m.name, "MountPath": m.mount_path, "ReadOnly": m.read_only,
                   "SubPath": m.sub_path.clone().unwrap_or_default(),
                   "SubPathExpr": m.sub_path_expr.clone().unwrap_or_default(),
                   "MountPropagation": m.propagation})
        })
        .collect();
    let security = spec.security.as_ref().map(|s| json!({"Capabilities": {"Add": s.add, "Drop": s.drop}}));
    json!({
        "Name": name,
        "Image": image,
        "Commands": command,
        "Args": args,
        "EnvironmentVars": env,
        "Cpu": spec.cpu.unwrap_or_default(),
        "Memory": spec.memory_gib.unwrap_or_default(),
        "GpuLimit": spec.gpu,
        "WorkingDir": spec.working_dir.clone().unwrap_or_default(),
        "VolumeMounts": mounts,
        "LivenessProbe": spec.liveness.as_ref().map(probe),
        "ReadinessProbe": spec.readiness.as_ref().map(probe),
        "SecurityContext": security,
        "CurrentState": state(container),
        "RestartCount": container.restart_count,
    })
}

fn state(container: &Container) -> Value {
    let count = container.restart_count;
    let ended = |life: &Termination| {
        json!({"State": "exited", "StartTime": go_time(life.started_ms), "FinishTime": go_time(life.finished_ms),
               "ExitCode": life.exit_code, "Reason": life.reason, "Message": life.message, "RestartCount": count})
    };
    match (&container.state, &container.previous) {
        (ContainerState::Running { started_ms }, _) => {
            json!({"State": "running", "StartTime": go_time(*started_ms), "FinishTime": ZERO, "ExitCode": null,
                   "Reason": "", "Message": "", "RestartCount": count})
        }
        (ContainerState::Terminated(life), _) => ended(life),
        // Between two lives: what it was before.
        (ContainerState::Waiting { reason, .. }, Some(life)) if reason == "CrashLoopBackOff" => ended(life),
        (ContainerState::Waiting { reason, message }, _) => {
            json!({"State": "created", "StartTime": ZERO, "FinishTime": ZERO, "ExitCode": null,
                   "Reason": reason, "Message": message, "RestartCount": count})
        }
    }
}

fn probe(probe: &Probe) -> Value {
    let mut value = Map::new();
    value.insert(
        "Probe".to_owned(),
        json!({
            "InitialDelaySeconds": probe.initial_delay_secs.unwrap_or(0),
            "PeriodSeconds": probe.period_secs.unwrap_or(10),
            "TimeoutSeconds": probe.timeout_secs.unwrap_or(1),
            "SuccessThreshold": probe.success_threshold.unwrap_or(1),
            "FailureThreshold": probe.failure_threshold.unwrap_or(3),
        }),
    );
    match &probe.action {
        Some(ProbeAction::Exec { commands }) => value.insert("Exec".to_owned(), json!({"Commands": commands})),
        Some(ProbeAction::Http { path, port, scheme, .. }) => {
            value.insert("HttpGet".to_owned(), json!({"Path": path, "Port": port, "Scheme": scheme}))
        }
        Some(ProbeAction::Tcp { port, .. }) => value.insert("TcpSocket".to_owned(), json!({"Port": port})),
        None => None,
    };
    Value::Object(value)
}

fn volumes(all: &[Volume]) -> Value {
    let mut nfs = Vec::new();
    let mut cbs = Vec::new();
    for volume in all {
        match &volume.kind {
            VolumeKind::Nfs { server, path, read_only } => {
                nfs.push(json!({"Name": volume.name, "Server": server, "Path": path, "ReadOnly": read_only}));
            }
            VolumeKind::Disk { disk_id, .. } => cbs.push(json!({"Name": volume.name, "CbsDiskId": disk_id})),
            VolumeKind::EmptyDir { .. }
            | VolumeKind::ConfigFile { .. }
            | VolumeKind::Flex { .. }
            | VolumeKind::HostPath { .. } => {}
        }
    }
    json!({"NfsVolumes": nfs, "CbsVolumes": cbs})
}

/// An `Event`.
pub(crate) fn event(name: &str, event: &Event) -> Value {
    json!({
        "PodName": name,
        "Reason": event.reason,
        "Type": event.kind.as_str(),
        "Count": event.count,
        "FirstTimestamp": go_time_secs(event.first_ms),
        "LastTimestamp": go_time_secs(event.last_ms),
        "Message": event.message,
    })
}

fn cache_status(state: ImageCacheState) -> &'static str {
    match state {
        ImageCacheState::Preparing | ImageCacheState::Creating => "Pending",
        ImageCacheState::Ready => "Ready",
        ImageCacheState::Failed => "Failed",
        ImageCacheState::Updating => "Updating",
        ImageCacheState::UpdateFailed => "UpdateFailed",
    }
}

/// An `ImageCache`.
pub(crate) fn image_cache(cache: &ImageCache, now_ms: i64) -> Value {
    const DAY_MS: i64 = 86_400_000;
    let state = cache.state(now_ms);
    let kept_ms = i64::try_from(cache.retention_days).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
    let expires = (cache.retention_days > 0).then(|| plain_time(cache.created_ms.saturating_add(kept_ms)));
    let credentials: Vec<_> = cache
        .credentials
        .iter()
        .map(|c| json!({"Server": c.server, "Username": c.username, "Password": "", "Name": c.name}))
        .collect();
    let tags: Vec<_> = cache.tags.iter().map(|(k, v)| json!({"Key": k, "Value": v})).collect();
    let broken = matches!(state, ImageCacheState::Failed | ImageCacheState::UpdateFailed);
    let (kind, reason, message) = match (broken, state) {
        (true, _) => ("Warning", "PullImageFailed", "an image was not found"),
        (false, ImageCacheState::Ready) => ("Normal", "Ready", "image cache is ready"),
        (false, _) => ("Normal", "Creating", "image cache is being made"),
    };
    let at_ms = if now_ms < cache.ready_ms { cache.created_ms } else { cache.ready_ms };
    json!({
        "ImageCacheId": cache.id,
        "ImageCacheName": cache.name,
        "ImageCacheSize": cache.size_gib,
        "Images": cache.images,
        "CreationTime": plain_time(cache.created_ms),
        "ExpireDateTime": expires.unwrap_or_default(),
        "Events": [{"ImageCacheId": cache.id, "Type": kind, "Reason": reason, "Message": message,
                    "FirstTimestamp": plain_time(at_ms), "LastTimestamp": plain_time(at_ms)}],
        "LastMatchedTime": cache.last_matched_ms.map(plain_time).unwrap_or_default(),
        "SnapshotId": cache.snapshot_id,
        "Status": cache_status(state),
        "RetentionDays": cache.retention_days,
        "ImageRegistryCredentials": credentials,
        "Tags": tags,
        "ImageCacheType": "",
        "Snapshotter": "",
    })
}
