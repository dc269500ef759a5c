//! The vendor's replies with its own names (alibaba-eci.json, objects of the response bodies).
//!
//! Every field may be missing or null: the SDK ignores both, and so do we. Only what the model uses is
//! declared; unknown fields are ignored. Requests have no types: they are flat parameters, see
//! [`super::request`].

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Reads `null` as the default, as missing fields are.
fn lenient<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Declares reply types: every field lenient, names in the vendor's PascalCase unless renamed.
macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(rename_all = "PascalCase")]
        pub(super) struct $name {
            $($(#[$attr])* #[serde(default, deserialize_with = "lenient")] pub(super) $field: $kind,)*
        }
    )*};
}

replies! {
    /// To `CreateContainerGroup`.
    Created {
        container_group_id: String,
    }

    /// To `DescribeContainerGroups`.
    ContainerGroups {
        container_groups: Vec<ContainerGroup>,
        next_token: String,
        total_count: Option<u64>,
    }

    /// An instance.
    ContainerGroup {
        container_group_id: String,
        container_group_name: String,
        zone_id: String,
        status: String,
        cpu: f64,
        memory: f64,
        instance_type: String,
        intranet_ip: String,
        internet_ip: String,
        containers: Vec<Container>,
        init_containers: Vec<Container>,
        tags: Vec<Tag>,
        events: Vec<Event>,
        creation_time: String,
        succeeded_time: String,
        failed_time: String,
        expired_time: String,
    }

    /// A container or init container.
    Container {
        name: String,
        gpu: u32,
        ready: bool,
        restart_count: u32,
        environment_vars: Vec<EnvironmentVar>,
        current_state: ContainerState,
        previous_state: ContainerState,
    }

    /// Where a container is.
    ContainerState {
        state: String,
        exit_code: Option<i64>,
        reason: String,
        detail_status: String,
        message: String,
        start_time: String,
        finish_time: String,
    }

    /// An environment variable; without `Value` where it refers to a field.
    EnvironmentVar {
        key: String,
        value: String,
    }

    /// A tag.
    Tag {
        key: String,
        value: String,
    }

    /// An event of an instance.
    Event {
        #[serde(rename = "Type")]
        kind: String,
        reason: String,
        message: String,
        count: u32,
        first_timestamp: String,
        last_timestamp: String,
    }

    /// To `DescribeRegions`.
    Regions {
        regions: Vec<Region>,
    }

    /// A region. `UnavailableZones` is newer than the SDK model (vendor-api README 4.4).
    Region {
        region_id: String,
        zones: Vec<String>,
        unavailable_zones: Vec<String>,
    }

    /// To `DescribeAvailableResource`.
    AvailableResources {
        available_zones: AvailableZones,
    }

    /// Wrapper of a list.
    AvailableZones {
        available_zone: Vec<AvailableZone>,
    }

    /// What is for sale in one zone.
    AvailableZone {
        zone_id: String,
        available_resources: ResourceGroups,
    }

    /// Wrapper of a list.
    ResourceGroups {
        available_resource: Vec<ResourceGroup>,
    }

    /// Resources of one type.
    ResourceGroup {
        supported_resources: SupportedResources,
    }

    /// Wrapper of a list.
    SupportedResources {
        supported_resource: Vec<SupportedResource>,
    }

    /// A size or family.
    SupportedResource {
        value: String,
        status_category: String,
    }

    /// To `ListUsage`. The values are numbers; text is read too.
    Usage {
        attributes: BTreeMap<String, serde_json::Value>,
    }

    /// To `DescribeContainerGroupPrice`.
    PriceReply {
        price_info: PriceInfo,
    }

    /// Prices of one size.
    PriceInfo {
        price: Option<Price>,
        spot_prices: SpotPrices,
    }

    /// Pay-as-you-go price **per second** (see docs.md).
    Price {
        trade_price: Option<f64>,
        original_price: Option<f64>,
    }

    /// Wrapper of a list.
    SpotPrices {
        spot_price: Vec<SpotPrice>,
    }

    /// Spot price **per hour** in one zone.
    SpotPrice {
        zone_id: String,
        spot_price: Option<f64>,
    }
}

/// An error body, in the spelling of the service or in lower case, which the vendor's SDK also reads.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Fault {
    /// Error code.
    #[serde(rename = "Code", alias = "code", default, deserialize_with = "lenient")]
    pub(super) code: String,
    /// Text.
    #[serde(rename = "Message", alias = "message", default, deserialize_with = "lenient")]
    pub(super) message: String,
    /// Request id.
    #[serde(rename = "RequestId", alias = "requestId", default, deserialize_with = "lenient")]
    pub(super) request_id: Option<String>,
}
