//! May this tenant have this instance, and with which defaults?
//!
//! All denials at once, each with the pointer of the field, so that one round is enough to mend a request. What a
//! spec leaves open is not denied here but narrowed in placement: a tenant bound to two regions that names none
//! is placed in one of the two. Rules over other fields (CEL) come later and join the same list of denials.

use meridian_model::{
    error::FieldError,
    ids::ProfileName,
    instance::{InstanceSpec, Strategy},
};

use crate::tenant::{Allow, TenantRules};

/// The spec with the tenant's defaults filled in, or every denial.
pub type Verdict = Result<InstanceSpec, Vec<FieldError>>;

/// Checks a valid spec against the tenant's rules and fills in what it leaves open: network profile, image
/// profile, strategy.
///
/// `strategy: priority` cannot be told from no strategy at all (it is the default of the type), so the tenant's
/// default replaces it, unless the spec names an order (regions, zones or backends): then priority is meant.
///
/// # Errors
/// Every field that asks for what the tenant may not use, with one of the codes `region-not-allowed`,
/// `provider-not-allowed`, `network-profile-not-allowed`, `image-profile-not-allowed`,
/// `secret-profile-not-allowed`, or `required` for a network profile that nobody names.
pub fn admit(rules: &TenantRules, spec: &InstanceSpec) -> Verdict {
    let mut denials = Vec::new();
    places(rules, spec, &mut denials);
    profiles(rules, spec, &mut denials);
    if denials.is_empty() { Ok(filled(rules, spec)) } else { Err(denials) }
}

fn places(rules: &TenantRules, spec: &InstanceSpec, denials: &mut Vec<FieldError>) {
    for (i, region) in spec.placement.regions.iter().enumerate() {
        if !rules.regions.allows(region) {
            let pointer = format!("/spec/placement/regions/{i}");
            let detail = format!("region {region} is not open to tenant {}", rules.tenant);
            denials.push(denial(pointer, "region-not-allowed", detail, allowed(&rules.regions)));
        }
    }
    for (i, provider) in spec.placement.providers.iter().enumerate() {
        if !rules.providers.allows(provider) {
            let pointer = format!("/spec/placement/providers/{i}");
            let detail = format!("provider {provider} is not open to tenant {}", rules.tenant);
            denials.push(denial(pointer, "provider-not-allowed", detail, allowed(&rules.providers)));
        }
    }
}

fn profiles(rules: &TenantRules, spec: &InstanceSpec, denials: &mut Vec<FieldError>) {
    let mut check = |allow: &Allow<ProfileName>, name: &ProfileName, pointer: String, kind: &str| {
        if !allow.allows(name) {
            let detail = format!("{kind} profile {name} is not open to tenant {}", rules.tenant);
            let code = format!("{kind}-profile-not-allowed");
            denials.push(denial(pointer, &code, detail, allowed(allow)));
        }
    };
    if let Some(name) = &spec.network.profile {
        check(&rules.network_profiles, name, "/spec/network/profile".to_owned(), "network");
    }
    if let Some(name) = &spec.image_profile {
        check(&rules.image_profiles, name, "/spec/imageProfile".to_owned(), "image");
    }
    for (i, secret) in spec.image_pull_secrets.iter().enumerate() {
        check(&rules.secret_profiles, &secret.name, format!("/spec/imagePullSecrets/{i}/name"), "secret");
    }
    if spec.network.profile.is_none() && rules.default_network_profile.is_none() {
        let detail = format!("the spec names no network profile and tenant {} has no default", rules.tenant);
        denials.push(denial("/spec/network/profile".to_owned(), "required", detail, allowed(&rules.network_profiles)));
    }
}

fn filled(rules: &TenantRules, spec: &InstanceSpec) -> InstanceSpec {
    let mut spec = spec.clone();
    if spec.network.profile.is_none() {
        spec.network.profile.clone_from(&rules.default_network_profile);
    }
    if spec.image_profile.is_none() {
        spec.image_profile.clone_from(&rules.default_image_profile);
    }
    let wishes = &mut spec.placement;
    let names_order = !(wishes.regions.is_empty() && wishes.zones.is_empty() && wishes.fallback_order.is_empty());
    if let Some(strategy) = rules.default_strategy
        && wishes.strategy == Strategy::default()
        && !names_order
    {
        wishes.strategy = strategy;
    }
    spec
}

fn allowed<T: Ord + AsRef<str>>(allow: &Allow<T>) -> Option<String> {
    let names: Vec<&str> = allow.listed().map(AsRef::as_ref).collect();
    (!names.is_empty()).then(|| format!("allowed: {}", names.join(", ")))
}

fn denial(pointer: String, code: &str, detail: String, hint: Option<String>) -> FieldError {
    FieldError { pointer, code: code.to_owned(), detail, hint, ..FieldError::default() }
}

#[cfg(test)]
mod tests {
    use meridian_model::ids::TenantId;

    use super::*;

    fn spec(json: &str) -> InstanceSpec {
        serde_json::from_str(json).unwrap()
    }

    fn profile(name: &str) -> ProfileName {
        ProfileName::new(name).unwrap()
    }

    fn rules() -> TenantRules {
        TenantRules {
            regions: serde_json::from_str::<Vec<_>>(r#"["r1", "r2"]"#).map(Allow::all_when_empty).unwrap(),
            providers: serde_json::from_str::<Vec<_>>(r#"["cloud-a"]"#).map(Allow::all_when_empty).unwrap(),
            network_profiles: Allow::all_when_empty([profile("net")]),
            image_profiles: Allow::all_when_empty([profile("mirror")]),
            default_network_profile: Some(profile("net")),
            default_image_profile: Some(profile("mirror")),
            default_strategy: Some(Strategy::Cheapest),
            ..TenantRules::new(TenantId::new("acme").unwrap())
        }
    }

    #[test]
    fn every_denial_at_once_with_its_pointer() {
        let asked = spec(
            r#"{"containers": [], "network": {"profile": "other"}, "imageProfile": "other",
                "imagePullSecrets": [{"name": "creds"}],
                "placement": {"regions": ["r1", "r9"], "providers": ["cloud-b"]}}"#,
        );
        let denials = admit(&rules(), &asked).unwrap_err();
        let short: Vec<(&str, &str)> = denials.iter().map(|d| (d.pointer.as_str(), d.code.as_str())).collect();
        assert_eq!(
            short,
            [
                ("/spec/placement/regions/1", "region-not-allowed"),
                ("/spec/placement/providers/0", "provider-not-allowed"),
                ("/spec/network/profile", "network-profile-not-allowed"),
                ("/spec/imageProfile", "image-profile-not-allowed"),
                ("/spec/imagePullSecrets/0/name", "secret-profile-not-allowed"),
            ]
        );
        assert_eq!(denials[0].hint.as_deref(), Some("allowed: r1, r2"));
        assert_eq!(denials[4].hint, None, "names of secrets the tenant may not use are not told");
    }

    #[test]
    fn defaults_fill_what_is_left_open() {
        let admitted = admit(&rules(), &spec(r#"{"containers": []}"#)).unwrap();
        assert_eq!(admitted.network.profile, Some(profile("net")));
        assert_eq!(admitted.image_profile, Some(profile("mirror")));
        assert_eq!(admitted.placement.strategy, Strategy::Cheapest);
    }

    #[test]
    fn what_the_spec_says_stands() {
        let said = spec(r#"{"containers": [], "placement": {"strategy": "spread"}}"#);
        assert_eq!(admit(&rules(), &said).unwrap().placement.strategy, Strategy::Spread);
        let ordered = spec(r#"{"containers": [], "placement": {"regions": ["r2", "r1"]}}"#);
        assert_eq!(admit(&rules(), &ordered).unwrap().placement.strategy, Strategy::Priority);
    }

    #[test]
    fn a_network_profile_must_come_from_somewhere() {
        let bare = TenantRules::new(TenantId::new("acme").unwrap());
        let denials = admit(&bare, &spec(r#"{"containers": []}"#)).unwrap_err();
        assert_eq!((denials.len(), denials[0].code.as_str()), (1, "required"));
    }
}
