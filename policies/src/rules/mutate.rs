//! Defaults and mutations: what a policy writes into a request before it is judged.

use std::borrow::Cow;

use meridian_model::instance::{InstanceSpec, Labels, Strategy};

use super::document::{Defaults, Mutations};
use crate::image;

/// What can be written to; copied when something changes, and not before.
#[derive(Debug, Clone)]
pub(super) struct Draft<'a> {
    pub labels: Cow<'a, Labels>,
    pub annotations: Cow<'a, Labels>,
    pub spec: Cow<'a, InstanceSpec>,
}

impl Draft<'_> {
    /// Whether anything was written.
    pub fn changed(&self) -> bool {
        matches!(self.labels, Cow::Owned(_))
            || matches!(self.annotations, Cow::Owned(_))
            || matches!(self.spec, Cow::Owned(_))
    }

    /// Fills in what the request leaves open.
    pub fn fill(&mut self, defaults: &Defaults) {
        absent(&mut self.labels, &defaults.labels);
        absent(&mut self.annotations, &defaults.annotations);
        let spec = &self.spec;
        if let Some(profile) = &defaults.network_profile
            && spec.network.profile.is_none()
        {
            self.spec.to_mut().network.profile = Some(profile.clone());
        }
        if let Some(profile) = &defaults.image_profile
            && self.spec.image_profile.is_none()
        {
            self.spec.to_mut().image_profile = Some(profile.clone());
        }
        let wishes = &self.spec.placement;
        let names_order = !(wishes.regions.is_empty() && wishes.zones.is_empty() && wishes.fallback_order.is_empty());
        if let Some(strategy) = defaults.strategy
            && wishes.strategy == Strategy::default()
            && strategy != Strategy::default()
            && !names_order
        {
            self.spec.to_mut().placement.strategy = strategy;
        }
        if !defaults.regions.is_empty() && !names_order {
            self.spec.to_mut().placement.regions.clone_from(&defaults.regions);
        }
        if let Some(timeout) = defaults.place_timeout
            && self.spec.placement.place_timeout.is_none()
        {
            self.spec.to_mut().placement.place_timeout = Some(timeout);
        }
        if let Some(seconds) = defaults.active_deadline_seconds
            && self.spec.active_deadline_seconds.is_none()
        {
            self.spec.to_mut().active_deadline_seconds = Some(seconds);
        }
        if let Some(seconds) = defaults.termination_grace_period_seconds
            && self.spec.termination_grace_period_seconds.is_none()
        {
            self.spec.to_mut().termination_grace_period_seconds = Some(seconds);
        }
    }

    /// Sets what the policy sets.
    pub fn set(&mut self, mutations: &Mutations) {
        overwrite(&mut self.labels, &mutations.labels);
        overwrite(&mut self.annotations, &mutations.annotations);
        if let Some(kind) = mutations.capacity_type
            && self.spec.capacity.kind != kind
        {
            let capacity = &mut self.spec.to_mut().capacity;
            capacity.kind = kind;
            if kind != meridian_model::instance::CapacityType::Spot {
                // A highest price is a spot instance's.
                capacity.max_price_per_hour = None;
            }
        }
        if let Some(strategy) = mutations.strategy
            && self.spec.placement.strategy != strategy
        {
            self.spec.to_mut().placement.strategy = strategy;
        }
        if let Some(max) = mutations.active_deadline_seconds_max
            && self.spec.active_deadline_seconds.is_none_or(|s| s > max)
        {
            self.spec.to_mut().active_deadline_seconds = Some(max);
        }
        if mutations.remove_public_ip && self.spec.network.public_ip.is_some() {
            self.spec.to_mut().network.public_ip = None;
        }
        self.registries(mutations);
    }

    fn registries(&mut self, mutations: &Mutations) {
        let rewritten = |reference: &str| {
            mutations
                .registries
                .iter()
                .find_map(|r| image::rewritten(reference, &r.from, &r.to))
                .filter(|n| n != reference)
        };
        let all = |spec: &InstanceSpec| -> Vec<Option<String>> {
            spec.containers.iter().chain(&spec.init_containers).map(|c| rewritten(&c.image)).collect()
        };
        if mutations.registries.is_empty() {
            return;
        }
        let images = all(&self.spec);
        if images.iter().all(Option::is_none) {
            return;
        }
        let spec = self.spec.to_mut();
        for (container, image) in spec.containers.iter_mut().chain(&mut spec.init_containers).zip(images) {
            if let Some(image) = image {
                container.image = image;
            }
        }
    }
}

fn absent(labels: &mut Cow<'_, Labels>, defaults: &Labels) {
    for (key, value) in defaults {
        if !labels.contains_key(key) {
            labels.to_mut().insert(key.clone(), value.clone());
        }
    }
}

fn overwrite(labels: &mut Cow<'_, Labels>, set: &Labels) {
    for (key, value) in set {
        if labels.get(key) != Some(value) {
            labels.to_mut().insert(key.clone(), value.clone());
        }
    }
}
