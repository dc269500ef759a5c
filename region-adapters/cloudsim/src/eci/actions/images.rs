//! Image caches: create, describe, update, delete.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, has_tags, page};
use crate::core::{ChangeError, ImageCache, ImageCacheSpec, ImageCacheState, RegistryCredential};
use crate::eci::error::EciError;
use crate::eci::wire::{self, CredentialIn, MAX_TAGS, TagIn};
use crate::eci::{render, time};

const LIMIT: (i64, i64, i64) = (1, 20, 50);
/// Most images in one cache (the vendor states none for ECI; containers are at most 20).
const MAX_IMAGES: usize = 20;
const SIZE_GIB: (i64, i64, i64) = (20, 20, 32_768);
const RETENTION_DAYS: (i64, i64, i64) = (0, 0, 36_500);
const DAY_MS: i64 = 86_400_000;
/// A cache that failed is kept a day (README 4.6, document).
const FAILED_KEPT_MS: i64 = DAY_MS;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Request {
    image_cache_id: String,
    image_cache_name: Option<String>,
    image: Option<Vec<String>>,
    image_cache_size: Option<i64>,
    retention_days: Option<i64>,
    v_switch_id: Option<String>,
    security_group_id: Option<String>,
    image_registry_credential: Option<Vec<CredentialIn>>,
    tag: Option<Vec<TagIn>>,
    elimination_strategy: Option<String>,
    resource_group_id: Option<String>,
}

fn images(given: Vec<String>) -> Result<Vec<String>, EciError> {
    if given.is_empty() || given.iter().any(String::is_empty) {
        return Err(EciError::missing("Image.1"));
    }
    if given.len() > MAX_IMAGES {
        return Err(EciError::invalid("Image", &format!("at most {MAX_IMAGES}")));
    }
    Ok(given)
}

pub(super) fn create(call: &mut Call<'_>) -> Result<Value, EciError> {
    let request: Request = wire::read(call.params)?;
    let size = call.bounded("ImageCacheSize", SIZE_GIB)?;
    let retention = call.bounded("RetentionDays", RETENTION_DAYS)?;
    if let Some(id) = request.v_switch_id.as_deref().filter(|id| !id.is_empty()) {
        let region = call.world.region(call.scope.vendor, &call.scope.region);
        if region.is_none_or(|region| region.zone_of_subnet(id).is_none()) {
            return Err(EciError::not_found("VSwitchId", id));
        }
    }
    let mut spec = ImageCacheSpec {
        name: request.image_cache_name.unwrap_or_default(),
        images: images(request.image.unwrap_or_default())?,
        subnet_id: request.v_switch_id,
        vpc_id: None,
        size_gib: u64::try_from(size).ok(),
        retention_days: u64::try_from(retention).ok(),
        credentials: credentials(request.image_registry_credential.unwrap_or_default()),
        security_group_ids: request.security_group_id.into_iter().collect(),
        tags: wire::tags(request.tag.unwrap_or_default(), MAX_TAGS)?,
        ..ImageCacheSpec::default()
    };
    for (name, value) in
        [("EliminationStrategy", request.elimination_strategy), ("ResourceGroupId", request.resource_group_id)]
    {
        if let Some(value) = value {
            spec.extra.insert(name.to_owned(), Value::from(value));
        }
    }
    let Some(id) = call.world.create_image_cache(call.scope, spec, call.now_ms) else {
        return Err(EciError::new("QuotaExceeded", "The quota of image caches is exceeded."));
    };
    let builder = builder_id(&id);
    Ok(json!({"ImageCacheId": id, "ContainerGroupId": builder}))
}

/// The instance that pulled the images; it is not simulated and never listed.
fn builder_id(cache_id: &str) -> String {
    format!("eci-{}", render::tail(cache_id))
}

fn credentials(given: Vec<CredentialIn>) -> Vec<RegistryCredential> {
    given.into_iter().map(CredentialIn::into_core).collect()
}

pub(super) fn describe(call: &mut Call<'_>) -> Result<Value, EciError> {
    let (limit, token) = (call.bounded("Limit", LIMIT)?, call.text("NextToken"));
    let tags = call.tag_filters(MAX_TAGS)?;
    let text = |name: &str| call.text(name).map(str::to_owned);
    let (id, name, snapshot) = (text("ImageCacheId"), text("ImageCacheName"), text("SnapshotId"));
    let mut wanted: Vec<&str> = call.texts("MatchImage");
    wanted.extend(call.text("Image"));
    let now_ms = call.now_ms;
    let caches = call.world.image_caches(call.scope, now_ms);
    let shown = caches
        .into_iter()
        .filter(|cache| cache.state(now_ms) != ImageCacheState::Failed || now_ms < cache.ready_ms + FAILED_KEPT_MS)
        .filter(|cache| id.as_ref().is_none_or(|id| *id == cache.id))
        .filter(|cache| name.as_ref().is_none_or(|name| *name == cache.name))
        .filter(|cache| snapshot.as_ref().is_none_or(|id| *id == cache.snapshot_id))
        .filter(|cache| wanted.iter().all(|image| cache.images.iter().any(|own| own == image)))
        .filter(|cache| has_tags(&cache.tags, &tags))
        .map(|cache| (cache.seq, cache))
        .collect();
    let page = page(shown, limit, token)?;
    let shown: Vec<Value> = page.items.iter().map(|cache| shown_cache(cache, now_ms)).collect();
    Ok(json!({"TotalCount": page.total, "NextToken": page.next_token, "ImageCaches": shown}))
}

fn state_name(state: ImageCacheState) -> &'static str {
    match state {
        ImageCacheState::Preparing => "Preparing",
        ImageCacheState::Creating => "Creating",
        ImageCacheState::Ready => "Ready",
        ImageCacheState::Failed => "Failed",
        ImageCacheState::Updating => "Updating",
        ImageCacheState::UpdateFailed => "UpdateFailed",
    }
}

fn shown_cache(cache: &ImageCache, now_ms: i64) -> Value {
    let state = cache.state(now_ms);
    let spent = (now_ms - cache.created_ms).max(0) * 100;
    let whole = (cache.ready_ms - cache.created_ms).max(1);
    let progress = if state == ImageCacheState::Ready { 100 } else { (spent / whole).min(99) };
    let kept_ms = i64::try_from(cache.retention_days).unwrap_or(0).saturating_mul(DAY_MS);
    render::compact(json!({
        "ImageCacheId": cache.id,
        "ImageCacheName": cache.name,
        "ImageCacheSize": cache.size_gib,
        "Images": cache.images,
        "SnapshotId": cache.snapshot_id,
        "ContainerGroupId": builder_id(&cache.id),
        "RegionId": cache.scope.region,
        "ResourceGroupId": cache.extra.get("ResourceGroupId"),
        "EliminationStrategy": cache.extra.get("EliminationStrategy"),
        "Status": state_name(state),
        "Progress": format!("{progress}%"),
        "CreationTime": time::format(cache.created_ms),
        "ExpireDateTime": (kept_ms > 0).then(|| time::format(cache.created_ms.saturating_add(kept_ms))),
        "LastMatchedTime": cache.last_matched_ms.map(time::format),
        "Tags": render::tags(&cache.tags),
        "Events": [],
    }))
}

pub(super) fn update(call: &mut Call<'_>) -> Result<Value, EciError> {
    let request: Request = wire::read(call.params)?;
    let given_images = request.image.filter(|given| !given.is_empty()).map(images).transpose()?;
    let tags = request.tag.map(|given| wire::tags(given, MAX_TAGS)).transpose()?;
    let size = request.image_cache_size.map(|_| call.bounded("ImageCacheSize", SIZE_GIB)).transpose()?;
    let retention = request.retention_days.map(|_| call.bounded("RetentionDays", RETENTION_DAYS)).transpose()?;
    let edit = |cache: &mut ImageCache| {
        if let Some(images) = given_images {
            cache.images = images;
        }
        if let Some(name) = request.image_cache_name {
            cache.name = name;
        }
        if let Some(tags) = tags {
            cache.tags = tags;
        }
        if let Some(given) = request.image_registry_credential {
            cache.credentials = credentials(given);
        }
        cache.size_gib = size.and_then(|gib| u64::try_from(gib).ok()).unwrap_or(cache.size_gib);
        cache.retention_days = retention.and_then(|days| u64::try_from(days).ok()).unwrap_or(cache.retention_days);
    };
    let id = &request.image_cache_id;
    call.world.update_image_cache(call.scope, id, call.now_ms, edit).map_err(|error| refusal(&error, id))?;
    Ok(json!({}))
}

pub(super) fn delete(call: &mut Call<'_>) -> Result<Value, EciError> {
    let id = call.required("ImageCacheId")?;
    call.world.delete_image_cache(call.scope, id, call.now_ms).map_err(|error| refusal(&error, id))?;
    Ok(json!({}))
}

fn refusal(error: &ChangeError, id: &str) -> EciError {
    match error {
        ChangeError::NotFound { .. } => EciError::not_found("ImageCacheId", id),
        ChangeError::WrongState { .. } => EciError::incorrect_status(id, "Creating"),
        ChangeError::NothingToChange | ChangeError::Size(_) => {
            EciError::new("NoNeedUpdate", format!("Nothing of {id} would change."))
        }
    }
}
