//! The thirteen container-instance and image-cache actions of TKE 2018-05-25.

use serde_json::{Value, json};

use super::error::TcError;
use super::time::parse_rfc3339;
use super::{render, wire};
use crate::core::{
    ImageCacheSpec, Instance, LogLine, Scope, State, Vendor, World, log_of, log_of_life, round_spec, spec_key,
};
use crate::rim::Call;

/// Ids of one delete (document).
const IDS_MAX: usize = 20;
/// Log lines: default and most (document).
const TAIL_DEFAULT: i64 = 500;
const TAIL_MAX: i64 = 2_000;
/// Bytes of one log reply (document).
const LOG_BYTES_MAX: i64 = 1_048_576;
const FILTERS: [&str; 5] = ["eks-ci-name", "status", "private-ip", "eip-address", "vpc-id"];

/// A decoded request.
#[derive(Debug)]
pub(crate) enum Request {
    Create(Box<wire::Create>),
    Describe(wire::Describe),
    Update(Box<wire::Update>),
    Restart(wire::Ids),
    Delete(wire::Ids),
    Events(wire::Events),
    Log(wire::Log),
    Regions,
    CreateImageCache(Box<wire::CreateImageCache>),
    DescribeImageCaches(wire::DescribeImageCaches),
    UpdateImageCache(wire::UpdateImageCache),
    DeleteImageCaches(wire::ImageCacheIds),
    MostSuitable(wire::MostSuitable),
}

impl Request {
    /// Reads parameters that the schema has checked.
    pub(crate) fn decode(action: &str, params: Value) -> Result<Self, TcError> {
        Ok(match action {
            "CreateEKSContainerInstances" => Self::Create(Box::new(wire::read(params)?)),
            "DescribeEKSContainerInstances" => Self::Describe(wire::read(params)?),
            "UpdateEKSContainerInstance" => Self::Update(Box::new(wire::read(params)?)),
            "RestartEKSContainerInstances" => Self::Restart(wire::read(params)?),
            "DeleteEKSContainerInstances" => Self::Delete(wire::read(params)?),
            "DescribeEKSContainerInstanceEvent" => Self::Events(wire::read(params)?),
            "DescribeEksContainerInstanceLog" => Self::Log(wire::read(params)?),
            "DescribeEKSContainerInstanceRegions" => Self::Regions,
            "CreateImageCache" => Self::CreateImageCache(Box::new(wire::read(params)?)),
            "DescribeImageCaches" => Self::DescribeImageCaches(wire::read(params)?),
            "UpdateImageCache" => Self::UpdateImageCache(wire::read(params)?),
            "DeleteImageCaches" => Self::DeleteImageCaches(wire::read(params)?),
            "GetMostSuitableImageCache" => Self::MostSuitable(wire::read(params)?),
            _ => return Err(TcError::new("InvalidAction", "The requested API action does not exist.")),
        })
    }

    /// Tells faults what the call is about.
    pub(crate) fn describe_to(&self, call: &mut Call, world: &World) {
        if let Self::Create(create) = self {
            let region = world.region(call.scope.vendor, &call.scope.region);
            let zone = region.and_then(|r| r.zone_of_subnet(&create.subnet_id));
            call.zone = zone.map(|z| z.config().zone.clone());
            call.name = Some(create.eks_ci_name.clone());
            call.spec = match create.gpu_type.as_deref() {
                Some(gpu) => Some(spec_key(create.cpu, create.memory, Some(gpu), create.gpu_count.unwrap_or(0))),
                None => round_spec(Vendor::TencentEksci, create.cpu, create.memory)
                    .map(|(cpu, memory)| spec_key(cpu, memory, None, 0)),
            };
            return;
        }
        let id = match self {
            Self::Update(update) => Some(&update.eks_ci_id),
            Self::Restart(ids) | Self::Delete(ids) => ids.eks_ci_ids.first(),
            Self::Events(events) => Some(&events.eks_ci_id),
            Self::Log(log) => Some(&log.eks_ci_id),
            Self::Describe(describe) => describe.eks_ci_ids.first(),
            Self::Create(_)
            | Self::Regions
            | Self::CreateImageCache(_)
            | Self::DescribeImageCaches(_)
            | Self::UpdateImageCache(_)
            | Self::DeleteImageCaches(_)
            | Self::MostSuitable(_) => None,
        };
        if let Some(instance) = id.and_then(|id| world.existing(&call.scope, id)) {
            call.about(instance);
        }
    }

    /// Carries the action out and gives the reply without `RequestId`.
    pub(crate) fn run(self, world: &mut World, scope: &Scope, now_ms: i64) -> Result<Value, TcError> {
        world.advance(now_ms);
        match self {
            Self::Create(create) => create_instances(world, scope, *create, now_ms),
            Self::Describe(describe) => describe_instances(world, scope, &describe, now_ms),
            Self::Update(update) => update_instance(world, scope, *update, now_ms),
            Self::Restart(ids) => {
                let ids = known_ids(world, scope, ids)?;
                // All or nothing: an instance in the wrong state refuses the call before any is touched.
                for id in &ids {
                    if let Some(i) = world.existing(scope, id).filter(|i| !is_changeable(i)) {
                        let text = format!("Instance {id} is {}.", render::status(i.state));
                        return Err(TcError::new("UnsupportedOperation", text));
                    }
                }
                for id in &ids {
                    world.restart(scope, id, now_ms)?;
                }
                Ok(json!({}))
            }
            Self::Delete(ids) => {
                for id in known_ids(world, scope, ids)? {
                    world.delete(scope, &id, now_ms)?;
                }
                Ok(json!({}))
            }
            Self::Events(events) => instance_events(world, scope, &events),
            Self::Log(log) => container_log(world, scope, &log, now_ms),
            Self::Regions => Ok(regions(world)),
            Self::CreateImageCache(create) => create_image_cache(world, scope, *create, now_ms),
            Self::DescribeImageCaches(describe) => describe_image_caches(world, scope, &describe, now_ms),
            Self::UpdateImageCache(update) => update_image_cache(world, scope, update, now_ms),
            Self::DeleteImageCaches(ids) => {
                let known = world.image_caches(scope, now_ms);
                if let Some(id) = ids.image_cache_ids.iter().find(|id| !known.iter().any(|c| c.id == **id)) {
                    return Err(TcError::not_found(id));
                }
                let unique: std::collections::BTreeSet<_> = ids.image_cache_ids.into_iter().collect();
                for id in unique {
                    world.delete_image_cache(scope, &id, now_ms)?;
                }
                Ok(json!({}))
            }
            Self::MostSuitable(ask) => {
                let found = world.match_image_cache(scope, &ask.images, now_ms);
                let cache = found.map(|c| render::image_cache(c, now_ms));
                Ok(json!({"Found": cache.is_some(), "ImageCache": cache}))
            }
        }
    }
}

fn is_changeable(instance: &Instance) -> bool {
    matches!(instance.state, State::Pending | State::Running)
}

fn create_instances(world: &mut World, scope: &Scope, create: wire::Create, now_ms: i64) -> Result<Value, TcError> {
    let mut ids = Vec::new();
    for spec in create.into_specs()? {
        match world.create(scope, spec, now_ms) {
            Ok(id) => ids.push(id),
            Err(error) => {
                // All replicas or none; those made in this same instant were never seen.
                for id in &ids {
                    world.delete(scope, id, now_ms)?;
                }
                return Err(error.into());
            }
        }
    }
    Ok(json!({"EksCiIds": ids}))
}

/// A list's window. Numbers out of range are refused, as the vendor documents a maximum.
fn window(limit: Option<i64>, offset: Option<i64>, (default, most): (i64, i64)) -> Result<(usize, usize), TcError> {
    let limit = limit.unwrap_or(default);
    if !(0..=most).contains(&limit) {
        return Err(TcError::invalid("Limit", &format!("must be 0 to {most}")));
    }
    let offset = usize::try_from(offset.unwrap_or(0)).map_err(|_| TcError::invalid("Offset", "must be 0 or more"))?;
    Ok((offset, usize::try_from(limit).unwrap_or(0)))
}

fn describe_instances(world: &mut World, scope: &Scope, ask: &wire::Describe, now_ms: i64) -> Result<Value, TcError> {
    let (offset, limit) = window(ask.limit, ask.offset, (20, 100))?;
    if let Some(filter) = ask.filters.iter().find(|f| !FILTERS.contains(&f.name.as_str())) {
        let text = format!("has the unknown name {}; known: {}", filter.name, FILTERS.join(", "));
        return Err(TcError::invalid("Filters.Name", &text));
    }
    let matches = |i: &Instance| {
        ask.filters.iter().all(|f| f.values.iter().any(|v| Some(v.as_str()) == filter_value(i, &f.name)))
    };
    let all = match ask.eks_ci_ids.as_slice() {
        [] => world.list(scope, now_ms),
        ids => world.list_of(scope, ids, now_ms),
    };
    let found: Vec<_> = all.into_iter().filter(|i| matches(i)).collect();
    let page: Vec<_> = found.iter().skip(offset).take(limit).map(|i| render::instance(i)).collect();
    Ok(json!({"TotalCount": found.len(), "EksCis": page}))
}

fn filter_value<'a>(instance: &'a Instance, name: &str) -> Option<&'a str> {
    match name {
        "eks-ci-name" => Some(&instance.spec.name),
        "status" => Some(render::status(instance.state)),
        "private-ip" => Some(&instance.private_ip),
        "eip-address" => instance.eip.as_ref().map(|e| e.address.as_str()),
        "vpc-id" => Some(&instance.vpc_id),
        _ => None,
    }
}

fn update_instance(world: &mut World, scope: &Scope, update: wire::Update, now_ms: i64) -> Result<Value, TcError> {
    let id = update.eks_ci_id.clone();
    let old = world.existing(scope, &id).ok_or_else(|| TcError::not_found(&id))?;
    if !is_changeable(old) {
        let text = format!("Instance {id} is {}.", render::status(old.state));
        return Err(TcError::new("UnsupportedOperation", text));
    }
    let spec = update.apply_to(&old.spec).map_err(|e| TcError { code: "InvalidParameter.Param", ..e })?;
    if spec != old.spec {
        world.update(scope, &id, spec, now_ms)?;
    }
    Ok(json!({"EksCiId": id}))
}

/// The ids of a batch, once each. One unknown id refuses the whole call (which of them would be done is not
/// documented).
fn known_ids(world: &World, scope: &Scope, ids: wire::Ids) -> Result<Vec<String>, TcError> {
    if ids.eks_ci_ids.is_empty() || ids.eks_ci_ids.len() > IDS_MAX {
        return Err(TcError::invalid("EksCiIds", &format!("must be 1 to {IDS_MAX}")));
    }
    if let Some(id) = ids.eks_ci_ids.iter().find(|id| world.existing(scope, id).is_none()) {
        return Err(TcError::not_found(id));
    }
    let unique: std::collections::BTreeSet<_> = ids.eks_ci_ids.into_iter().collect();
    Ok(unique.into_iter().collect())
}

fn instance_events(world: &World, scope: &Scope, ask: &wire::Events) -> Result<Value, TcError> {
    let (_, limit) = window(ask.limit, None, (50, 100))?;
    let instance = world.existing(scope, &ask.eks_ci_id).ok_or_else(|| TcError::not_found(&ask.eks_ci_id))?;
    let skip = instance.events.len().saturating_sub(limit);
    let newest = instance.events.iter().skip(skip);
    let events: Vec<_> = newest.map(|e| render::event(&instance.spec.name, e)).collect();
    Ok(json!({"Events": events, "EksCiId": instance.id}))
}

fn container_log(world: &World, scope: &Scope, ask: &wire::Log, now_ms: i64) -> Result<Value, TcError> {
    let instance = world.existing(scope, &ask.eks_ci_id).ok_or_else(|| TcError::not_found(&ask.eks_ci_id))?;
    let tail = ask.tail.unwrap_or(TAIL_DEFAULT);
    if !(1..=TAIL_MAX).contains(&tail) {
        return Err(TcError::invalid("Tail", &format!("must be 1 to {TAIL_MAX}")));
    }
    let limit = ask.limit_bytes.unwrap_or(LOG_BYTES_MAX);
    if !(1..=LOG_BYTES_MAX).contains(&limit) {
        return Err(TcError::invalid("LimitBytes", &format!("must be 1 to {LOG_BYTES_MAX}")));
    }
    let container = match (&ask.container_name, instance.containers.as_slice()) {
        (Some(name), _) => instance.container(name).ok_or_else(|| {
            TcError::new("InternalError.ContainerNotFound", format!("Container {name} is not found."))
        })?,
        (None, [only]) => only,
        (None, _) => return Err(TcError::missing("ContainerName")),
    };
    let interval_ms = world.timing().log_interval_ms;
    let lines = match (ask.previous, &container.previous) {
        (true, Some(life)) => log_of_life(&container.spec, life, interval_ms),
        (true, None) => return Err(no_log("has not been restarted")),
        (false, _) => log_of(&container.spec, &container.state, interval_ms, now_ms),
    };
    if lines.is_empty() {
        return Err(no_log("has not started"));
    }
    let mut from_ms = i64::MIN;
    if let Some(text) = &ask.start_time {
        from_ms = parse_rfc3339(text).ok_or_else(|| TcError::invalid("StartTime", "must be RFC 3339"))?;
    }
    if let Some(secs) = ask.since_seconds {
        if secs < 0 {
            return Err(TcError::invalid("SinceSeconds", "must be 0 or more"));
        }
        from_ms = from_ms.max(now_ms.saturating_sub(secs.saturating_mul(1000)));
    }
    let content = log_text(&lines, from_ms, tail, limit);
    Ok(json!({"ContainerName": container.spec.name, "LogContent": content}))
}

fn no_log(why: &str) -> TcError {
    TcError::new("ResourceUnavailable.EksContainerStatus", format!("The container {why}."))
}

fn log_text(lines: &[LogLine], from_ms: i64, tail: i64, limit_bytes: i64) -> String {
    let kept: Vec<_> = lines.iter().filter(|l| l.at_ms >= from_ms).collect();
    let skip = kept.len().saturating_sub(usize::try_from(tail).unwrap_or(0));
    let mut text: String = kept.into_iter().skip(skip).map(|l| format!("{}\n", l.text)).collect();
    let limit = usize::try_from(limit_bytes).unwrap_or(0);
    if text.len() > limit {
        // Whole characters only.
        let end = (0..=limit).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Numeric ids and short names the documents give; other regions get numbers of their own.
const REGION_IDS: [(&str, &str, u64); 2] = [("ap-guangzhou", "gz", 1), ("ap-chongqing", "cq", 19)];
const OTHER_REGION_IDS: u64 = 1_000;

fn regions(world: &World) -> Value {
    let all: Vec<_> = (OTHER_REGION_IDS..)
        .zip(world.regions(Vendor::TencentEksci))
        .map(|(number, region)| {
            let name = &region.config.region;
            let known = REGION_IDS.iter().find(|(n, _, _)| n == name);
            let short = name.rsplit('-').next().unwrap_or(name);
            let (alias, id) = known.map_or((short, number), |(_, alias, id)| (*alias, *id));
            json!({"Alias": alias, "RegionName": name, "RegionId": id})
        })
        .collect();
    json!({"TotalCount": all.len(), "Regions": all})
}

fn create_image_cache(
    world: &mut World,
    scope: &Scope,
    ask: wire::CreateImageCache,
    now_ms: i64,
) -> Result<Value, TcError> {
    if ask.images.is_empty() || ask.images.iter().any(String::is_empty) {
        return Err(TcError::invalid("Images", "may not be empty"));
    }
    if ask.existed_eip_id.is_some() && ask.auto_create_eip {
        return Err(TcError::invalid("ExistedEipId", "may not be given with AutoCreateEip"));
    }
    let region = world.region(scope.vendor, &scope.region);
    if region.is_none_or(|r| r.zone_of_subnet(&ask.subnet_id).is_none() || r.config.vpc_id != ask.vpc_id) {
        return Err(TcError::invalid("SubnetId", "and VpcId do not name a subnet of this region"));
    }
    let spec = ImageCacheSpec {
        name: ask.image_cache_name.unwrap_or_default(),
        images: ask.images,
        subnet_id: Some(ask.subnet_id),
        vpc_id: Some(ask.vpc_id),
        size_gib: ask.image_cache_size,
        retention_days: ask.retention_days,
        credentials: wire::registry_credentials(ask.image_registry_credentials),
        security_group_ids: ask.security_group_ids,
        tags: ask.tags.into_iter().map(|t| (t.key, t.value)).collect(),
        ..ImageCacheSpec::default()
    };
    let id = world.create_image_cache(scope, spec, now_ms);
    let id = id.ok_or_else(|| TcError::new("LimitExceeded", "Too many image caches."))?;
    Ok(json!({"ImageCacheId": id}))
}

fn describe_image_caches(
    world: &mut World,
    scope: &Scope,
    ask: &wire::DescribeImageCaches,
    now_ms: i64,
) -> Result<Value, TcError> {
    let (offset, limit) = window(ask.limit, ask.offset, (20, 50))?;
    if let Some(filter) = ask.filters.iter().find(|f| f.name != "image-cache-name") {
        return Err(TcError::invalid("Filters.Name", &format!("has the unknown name {}", filter.name)));
    }
    let all = world.image_caches(scope, now_ms);
    let found: Vec<_> = all
        .into_iter()
        .filter(|c| ask.image_cache_ids.is_empty() || ask.image_cache_ids.contains(&c.id))
        .filter(|c| ask.image_cache_names.is_empty() || ask.image_cache_names.contains(&c.name))
        .filter(|c| ask.filters.iter().all(|f| f.values.contains(&c.name)))
        .collect();
    let page: Vec<_> = found.iter().skip(offset).take(limit).map(|c| render::image_cache(c, now_ms)).collect();
    Ok(json!({"TotalCount": found.len(), "ImageCaches": page}))
}

fn update_image_cache(
    world: &mut World,
    scope: &Scope,
    ask: wire::UpdateImageCache,
    now_ms: i64,
) -> Result<Value, TcError> {
    if ask.images.as_ref().is_some_and(Vec::is_empty) {
        return Err(TcError::invalid("Images", "may not be empty"));
    }
    let id = ask.image_cache_id.clone();
    world.update_image_cache(scope, &id, now_ms, |cache| {
        if let Some(name) = ask.image_cache_name {
            cache.name = name;
        }
        if let Some(images) = ask.images {
            cache.images = images;
        }
        if let Some(size) = ask.image_cache_size {
            cache.size_gib = size;
        }
        if let Some(days) = ask.retention_days {
            cache.retention_days = days;
        }
        if let Some(groups) = ask.security_group_ids {
            cache.security_group_ids = groups;
        }
        if let Some(all) = ask.image_registry_credentials {
            cache.credentials = wire::registry_credentials(all);
        }
        if let Some(tags) = ask.tags {
            cache.tags = tags.into_iter().map(|t| (t.key, t.value)).collect();
        }
    })?;
    Ok(json!({}))
}
