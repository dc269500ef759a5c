//! `DescribeContainerGroups`, `DescribeContainerGroupStatus`, `DescribeContainerGroupEvents`.

use serde_json::{Value, json};

use super::{Call, has_tags, page};
use crate::core::Instance;
use crate::eci::error::EciError;
use crate::eci::render;

/// Limits of `alibaba-eci.json`, `constraints` (document): least, default, most.
const GROUPS_LIMIT: (i64, i64, i64) = (1, 20, 20);
const STATUS_LIMIT: (i64, i64, i64) = (1, 200, 200);
const EVENTS_SINCE: (i64, i64, i64) = (60, 3_600, 3_600);
/// For status the vendor states no range; a day covers everything it still lists.
const STATUS_SINCE_MAX: i64 = 86_400;
const TAG_FILTERS: usize = 10;

/// What all three can be asked for.
struct Filter<'a> {
    ids: Option<Vec<String>>,
    tags: Vec<(&'a str, Option<&'a str>)>,
    zone: Option<&'a str>,
    vswitch: Option<&'a str>,
    resource_group: Option<&'a str>,
    name: Option<&'a str>,
    status: Option<&'a str>,
    security_group: Option<&'a str>,
    compute_category: Option<&'a str>,
}

impl<'a> Filter<'a> {
    fn read(call: &Call<'a>) -> Result<Self, EciError> {
        Ok(Self {
            ids: call.ids("ContainerGroupIds")?,
            tags: call.tag_filters(TAG_FILTERS)?,
            zone: call.text("ZoneId"),
            vswitch: call.text("VSwitchId"),
            resource_group: call.text("ResourceGroupId"),
            name: call.text("ContainerGroupName"),
            status: call.text("Status"),
            security_group: call.text("SecurityGroupId"),
            compute_category: call.text("ComputeCategory"),
        })
    }

    fn takes(&self, instance: &Instance) -> bool {
        let extra = |name: &str| instance.spec.extra.get(name).and_then(Value::as_str);
        let categories = instance.spec.extra.get("ComputeCategory").and_then(Value::as_array);
        self.zone.is_none_or(|zone| zone == instance.zone)
            && self.vswitch.is_none_or(|id| id == instance.subnet_id)
            && self.resource_group.is_none_or(|id| extra("ResourceGroupId") == Some(id))
            && self.name.is_none_or(|name| name == instance.spec.name)
            && self.status.is_none_or(|status| status == instance.state.as_str())
            && self.security_group.is_none_or(|id| instance.spec.security_group_ids.iter().any(|own| own == id))
            && self.compute_category.is_none_or(|wanted| {
                categories.is_some_and(|own| own.iter().any(|category| category.as_str() == Some(wanted)))
            })
            && has_tags(&instance.spec.tags, &self.tags)
    }
}

/// The instances a filter takes, in order of creation, after forgetting those the vendor has forgotten.
fn select<'w>(call: &'w mut Call<'_>, filter: &Filter<'_>) -> Vec<(u64, &'w Instance)> {
    call.world.forget_ended(call.scope, call.now_ms);
    let all = match &filter.ids {
        Some(ids) => call.world.list_of(call.scope, ids, call.now_ms),
        None => call.world.list(call.scope, call.now_ms),
    };
    all.into_iter().filter(|instance| filter.takes(instance)).map(|instance| (instance.seq, instance)).collect()
}

pub(super) fn groups(call: &mut Call<'_>) -> Result<Value, EciError> {
    let filter = Filter::read(call)?;
    let (limit, token) = (call.bounded("Limit", GROUPS_LIMIT)?, call.text("NextToken"));
    let with_events = call.flag("WithEvent");
    if call.world.rules().eci_unknown_id_is_error {
        let unknown = filter.ids.iter().flatten().find(|id| call.world.existing(call.scope, id).is_none());
        if let Some(id) = unknown {
            return Err(EciError::not_found("ContainerGroupId", id));
        }
    }
    let page = page(select(call, &filter), limit, token)?;
    let groups: Vec<Value> = page.items.iter().map(|instance| render::group(instance, with_events)).collect();
    Ok(json!({"TotalCount": page.total, "NextToken": page.next_token, "ContainerGroups": groups}))
}

pub(super) fn status(call: &mut Call<'_>) -> Result<Value, EciError> {
    let filter = Filter::read(call)?;
    let (limit, token) = (call.bounded("Limit", STATUS_LIMIT)?, call.text("NextToken"));
    let since =
        call.integer("SinceSecond").map(|_| call.bounded("SinceSecond", (1, 1, STATUS_SINCE_MAX))).transpose()?;
    let oldest_ms = since.map(|secs| call.now_ms - secs * 1_000);
    let mut found = select(call, &filter);
    found.retain(|(_, instance)| oldest_ms.is_none_or(|oldest| render::last_change_ms(instance) >= oldest));
    let page = page(found, limit, token)?;
    let data: Vec<Value> = page.items.iter().map(|instance| render::pod_status(instance)).collect();
    Ok(json!({"TotalCount": page.total, "NextToken": page.next_token, "Data": data}))
}

pub(super) fn events(call: &mut Call<'_>) -> Result<Value, EciError> {
    let filter = Filter::read(call)?;
    let (limit, token) = (call.bounded("Limit", STATUS_LIMIT)?, call.text("NextToken"));
    let source = call.text("EventSource");
    if source.is_some_and(|source| source != "EciService" && source != "K8sAgent") {
        return Err(EciError::invalid("EventSource", "EciService or K8sAgent"));
    }
    let since = call.bounded("SinceSecond", EVENTS_SINCE)?;
    let oldest_ms = call.now_ms - since * 1_000;
    let page = page(select(call, &filter), limit, token)?;
    let data: Vec<Value> = page.items.iter().map(|instance| instance_events(instance, source, oldest_ms)).collect();
    Ok(json!({"TotalCount": page.total, "NextToken": page.next_token, "Data": data}))
}

fn instance_events(instance: &Instance, source: Option<&str>, oldest_ms: i64) -> Value {
    let name = &instance.spec.name;
    let events: Vec<Value> = render::latest_events(instance)
        .filter(|event| event.last_ms >= oldest_ms)
        .filter(|event| source.is_none_or(|source| source == render::event_source(event)))
        .map(|event| {
            let component = render::event_source(event);
            json!({
                "Type": event.kind.as_str(), "Reason": event.reason, "Message": event.message, "Count": event.count,
                "FirstTimestamp": crate::eci::time::format(event.first_ms),
                "LastTimestamp": crate::eci::time::format(event.last_ms),
                "ReportingComponent": component, "ReportingInstance": instance.id,
                "Source": {"Component": component, "Host": instance.id},
                "Metadata": {"Name": render::event_name(name, event), "Namespace": "default"},
                "involvedObject": {
                    "ApiVersion": "v1", "Kind": "Pod", "Name": name, "Namespace": "default", "Uid": instance.id,
                },
            })
        })
        .collect();
    json!({
        "ContainerGroupId": instance.id, "Name": name, "Namespace": "default", "uuid": instance.id, "Events": events,
    })
}
