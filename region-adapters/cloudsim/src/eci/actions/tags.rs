//! `TagResources`, `UntagResources`, `ListTagResources`.

use serde_json::{Value, json};

use super::{Call, has_tags, page};
use crate::core::Tags;
use crate::eci::error::EciError;
use crate::eci::wire::{self, MAX_TAGS, TagIn};

/// Most resources in one call. The vendor's platform allows 50; for ECI not verified.
const MAX_RESOURCES: usize = 50;
const LIMIT: (i64, i64, i64) = (1, 50, 50);

/// What can be tagged, and how its ids begin.
fn prefix(call: &Call<'_>) -> Result<&'static str, EciError> {
    match call.required("ResourceType")?.to_ascii_lowercase().as_str() {
        "containergroup" => Ok("eci-"),
        "imagecache" => Ok("imc-"),
        _ => Err(EciError::invalid("ResourceType", "containergroup or imagecache")),
    }
}

fn resources(call: &Call<'_>) -> Result<Vec<String>, EciError> {
    let prefix = prefix(call)?;
    let ids = call.texts("ResourceId");
    if ids.is_empty() || ids.len() > MAX_RESOURCES {
        return Err(EciError::invalid("ResourceId", &format!("1 to {MAX_RESOURCES}")));
    }
    match ids.iter().find(|id| !id.starts_with(prefix)) {
        Some(id) => Err(EciError::not_found("ResourceId", id)),
        None => Ok(ids.into_iter().map(str::to_owned).collect()),
    }
}

/// Applies `edit` to every resource, or to none: the results are worked out before the first is stored.
fn edit_all(call: &mut Call<'_>, edit: impl Fn(&mut Tags) -> Result<(), EciError>) -> Result<Value, EciError> {
    let mut edited = Vec::new();
    for id in resources(call)? {
        let Some(tags) = call.world.tags_mut(call.scope, &id, call.now_ms) else {
            return Err(EciError::not_found("ResourceId", &id));
        };
        let mut tags = tags.clone();
        edit(&mut tags)?;
        edited.push((id, tags));
    }
    for (id, new) in edited {
        if let Some(tags) = call.world.tags_mut(call.scope, &id, call.now_ms) {
            *tags = new;
        }
    }
    Ok(json!({}))
}

pub(super) fn tag(call: &mut Call<'_>) -> Result<Value, EciError> {
    let given: Vec<TagIn> = wire::read(call.params.get("Tag").unwrap_or(&Value::Null))?;
    let given = wire::tags(given, MAX_TAGS)?;
    edit_all(call, |tags| {
        tags.retain(|(key, _)| !given.iter().any(|(new, _)| new == key));
        tags.extend(given.iter().cloned());
        if tags.len() > MAX_TAGS {
            return Err(EciError::invalid("Tag", &format!("a resource has at most {MAX_TAGS}")));
        }
        Ok(())
    })
}

pub(super) fn untag(call: &mut Call<'_>) -> Result<Value, EciError> {
    let (all, keys) = (call.flag("All"), call.texts("TagKey"));
    if !all && keys.is_empty() {
        return Err(EciError::missing("TagKey.1"));
    }
    edit_all(call, |tags| {
        // Keys win over All, as the platform's tag service documents it.
        tags.retain(|(key, _)| if keys.is_empty() { !all } else { !keys.contains(&key.as_str()) });
        Ok(())
    })
}

pub(super) fn list(call: &mut Call<'_>) -> Result<Value, EciError> {
    let prefix = prefix(call)?;
    let kind = call.required("ResourceType")?;
    let wanted = call.tag_filters(MAX_TAGS)?;
    let ids = call.texts("ResourceId");
    // `Limit` is text in this action only.
    let limit = match call.text("Limit") {
        None => LIMIT.1,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (LIMIT.0..=LIMIT.2).contains(limit))
            .ok_or_else(|| EciError::invalid("Limit", &format!("{} to {}", LIMIT.0, LIMIT.2)))?,
    };
    let token = call.text("NextToken");
    let mut found: Vec<(u64, String, Tags)> = Vec::new();
    if prefix == "imc-" {
        let caches = call.world.image_caches(call.scope, call.now_ms);
        found.extend(caches.iter().map(|cache| (cache.seq, cache.id.clone(), cache.tags.clone())));
    } else {
        let instances = call.world.list(call.scope, call.now_ms);
        found.extend(instances.iter().map(|one| (one.seq, one.id.clone(), one.spec.tags.clone())));
    }
    found.retain(|(_, id, tags)| (ids.is_empty() || ids.contains(&id.as_str())) && has_tags(tags, &wanted));
    let rows = found.into_iter().flat_map(|(seq, id, tags)| {
        (0u64..).zip(tags).map(move |(at, (key, value))| {
            let row = json!({"ResourceId": id, "ResourceType": kind, "TagKey": key, "TagValue": value});
            // At most MAX_TAGS rows a resource, so numbers stay apart and rise.
            (seq * (MAX_TAGS as u64 + 1) + at, row)
        })
    });
    let page = page(rows.collect(), limit, token)?;
    Ok(json!({"TagResources": page.items, "NextToken": page.next_token}))
}
