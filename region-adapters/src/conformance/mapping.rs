//! Nothing is dropped silently: proof over every leaf of the largest possible spec.
//!
//! [`check`] takes a spec in which every field of the model is set, changes one leaf after the other, and
//! demands of each change that the adapter's request changes too, or that [`Capability`] refuses the field
//! by its pointer, or that the feature is declared [`Support::Implied`] with a reason. A field that is new in
//! the model and forgotten in an adapter is found here, provided it was added to `maximal.json`; that file
//! must hold every field, which a test beside this module checks against the model's own output.
//!
//! Pure: no network, no clock. The caller's `build` is the adapter's own request builder.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use meridian_model::{
    capability::{Capability, Feature, Support, used_by},
    ids::{ClientToken, CloudName, IdError, SubnetId, ZoneId},
    instance::InstanceSpec,
    quantity::{MemoryMib, MilliCpu},
};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use crate::{CreateCall, RegistryCredential, ResolvedNetwork, ResolvedSpec};

/// The spec with every field set. Not valid as a whole: it exists to have leaves.
const MAXIMAL: &str = include_str!("maximal.json");

/// Fields that the gateway consumes before an adapter is asked: they choose or resolve, and are not sent.
const CONSUMED_BEFORE: [&str; 3] = ["/placement", "/network/profile", "/imageProfile"];

/// Leaves governed by a feature whose pointer names another field.
const GOVERNED: [(&str, Feature); 3] = [
    ("/nvidia.com~1gpu", Feature::Gpu),
    ("/ephemeral-storage", Feature::EphemeralStorage),
    ("/capacity/maxPricePerHour", Feature::Spot),
];

/// Texts tried where appending a letter does not parse: every word of the model's enumerations, and
/// quantities. Those that do not parse in a place are passed over there.
const WORDS: [&str; 24] = [
    "Always",
    "OnFailure",
    "Never",
    "IfNotPresent",
    "TCP",
    "UDP",
    "SCTP",
    "",
    "Memory",
    "None",
    "HostToContainer",
    "Bidirectional",
    "HTTP",
    "HTTPS",
    "Default",
    "ClusterFirst",
    "linux",
    "windows",
    "amd64",
    "arm64",
    "onDemand",
    "spot",
    // More than any platform includes for nothing, before less than that.
    "77Gi",
    "7",
];

/// A create call for a spec, resolved against fixed network ids, with one credential per pull secret and the
/// spec's own size, not rounded, so that a change of it stays visible.
///
/// # Errors
/// [`IdError`] never in practice: the names are constants; it is passed on rather than hidden.
pub fn call_for(spec: &InstanceSpec) -> Result<CreateCall, IdError> {
    let zone = ZoneId::new("zone-1")?;
    let other = ZoneId::new("zone-2")?;
    let credential = |secret: &meridian_model::instance::SecretRef| RegistryCredential {
        server: format!("{}.example", secret.name),
        username: "user".to_owned(),
        password: SecretString::from("password"),
    };
    Ok(CreateCall {
        name: CloudName::new("m1-dep-ten-op-1-00")?,
        token: ClientToken::new("token-1")?,
        shape: spec.shape(),
        zone: zone.clone(),
        marks: BTreeMap::from([("MERIDIAN_OP".to_owned(), "op-1".to_owned())]),
        spec: Arc::new(ResolvedSpec {
            spec: spec.clone(),
            network: ResolvedNetwork {
                vpc_id: "vpc-1".to_owned(),
                security_group_ids: vec!["sg-1".to_owned(), "sg-2".to_owned()],
                subnets: BTreeMap::from([(zone, SubnetId::new("subnet-1")?), (other, SubnetId::new("subnet-2")?)]),
            },
            credentials: spec.image_pull_secrets.iter().map(credential).collect(),
        }),
    })
}

/// Checks that every leaf of the spec, and of the call around it, reaches the request or is refused by name.
///
/// `build` renders the adapter's request as text, everything that would be sent in it; an error of the
/// builder is rendered too. Returns the number of changes tried.
///
/// # Errors
/// A text with one line per dropped field.
pub fn check(capability: &Capability, build: impl Fn(&CreateCall) -> String) -> Result<usize, String> {
    let mut tried = 0;
    let mut gaps = BTreeSet::new();
    // Limits hide requests, and the instance's own size hides the containers': such a leaf must count in one
    // of the bases, not in each.
    let mut hidden: BTreeMap<String, bool> = BTreeMap::new();
    for (label, base) in bases()? {
        let base_spec = parse(&base)?;
        let before = build(&call_for(&base_spec).map_err(|e| e.to_string())?);
        for (pointer, spec) in changes(&base) {
            if spec == base_spec || CONSUMED_BEFORE.iter().any(|p| pointer.starts_with(p)) {
                continue;
            }
            tried += 1;
            let after = build(&call_for(&spec).map_err(|e| e.to_string())?);
            let kept = after != before
                || excused(capability, &pointer, &[&base_spec, &spec])
                || is_unused_port_name(&base, &pointer);
            if pointer.contains("/resources/") || pointer.starts_with("/resources") {
                *hidden.entry(normalised(&pointer)).or_default() |= kept;
            } else if !kept {
                gaps.insert(format!("/spec{pointer} is dropped silently (base: {label})"));
            }
        }
    }
    gaps.extend(
        hidden.into_iter().filter(|(_, kept)| !kept).map(|(p, _)| format!("/spec{p} is dropped in every base")),
    );
    tried += call_leaves(capability, &build, &mut gaps)?;
    if gaps.is_empty() { Ok(tried) } else { Err(gaps.into_iter().collect::<Vec<_>>().join("\n")) }
}

fn parse(value: &Value) -> Result<InstanceSpec, String> {
    InstanceSpec::deserialize(value).map_err(|e| format!("a base spec does not parse: {e}"))
}

/// The variants of the maximal spec from which leaves are changed.
fn bases() -> Result<Vec<(&'static str, Value)>, String> {
    let full: Value = serde_json::from_str(MAXIMAL).map_err(|e| format!("maximal.json: {e}"))?;
    let without = |mut value: Value, pointers: &[(&str, &str)]| {
        for (parent, key) in pointers {
            if let Some(Value::Object(map)) = value.pointer_mut(parent) {
                map.remove(*key);
            }
        }
        value
    };
    let sums = without(full.clone(), &[("", "resources"), ("/containers/0/resources", "requests")]);
    let requests = without(full.clone(), &[("", "resources"), ("/containers/0/resources", "limits")]);
    let no_init = without(requests.clone(), &[("", "initContainers")]);
    let own_requests = without(full.clone(), &[("/resources", "limits")]);
    let mut spot = full.clone();
    if let Some(capacity) = spot.pointer_mut("/capacity") {
        *capacity = serde_json::json!({"type": "spot", "maxPricePerHour": "0.25"});
    }
    Ok(vec![
        ("full", full),
        ("containers' limits", sums),
        ("containers' requests", requests),
        ("without init containers", no_init),
        ("own requests", own_requests),
        ("spot", spot),
    ])
}

/// Every changed copy of the base that is a spec, with the pointer of the change: each leaf replaced, each
/// array element removed.
fn changes(base: &Value) -> Vec<(String, InstanceSpec)> {
    let mut changes = Vec::new();
    let mut pointers = Vec::new();
    collect(base, String::new(), &mut pointers);
    for pointer in pointers {
        let Some(leaf) = base.pointer(&pointer) else { continue };
        let mut changed = base.clone();
        for new in alternatives(leaf) {
            if let Some(place) = changed.pointer_mut(&pointer) {
                *place = new;
            }
            if let Ok(spec) = parse(&changed) {
                changes.push((pointer.clone(), spec));
                // A free text is one change; only a word of an enumeration has others.
                if leaf.as_str().is_some_and(|s| !WORDS.contains(&s)) {
                    break;
                }
            }
        }
        if let Some((parent, index)) = pointer.rsplit_once('/')
            && let Ok(index) = index.parse::<usize>()
        {
            let mut changed = base.clone();
            if let Some(Value::Array(items)) = changed.pointer_mut(parent)
                && index < items.len()
            {
                items.remove(index);
                changes.extend(parse(&changed).ok().map(|spec| (pointer.clone(), spec)));
            }
        }
    }
    changes
}

/// Pointers of all leaves, and of all array elements.
fn collect(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                collect(child, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        Value::Array(items) => {
            for (i, child) in items.iter().enumerate() {
                let at = format!("{at}/{i}");
                if child.is_object() {
                    into.push(at.clone());
                }
                collect(child, at, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => into.push(at),
    }
}

fn alternatives(leaf: &Value) -> Vec<Value> {
    match leaf {
        Value::Bool(b) => vec![Value::from(!b)],
        Value::Number(n) => n.as_i64().map(|n| Value::from(n.saturating_add(1))).into_iter().collect(),
        Value::String(s) => {
            let words = WORDS.iter().filter(|w| *w != s).map(|w| Value::from(*w));
            std::iter::once(Value::from(format!("{s}x"))).chain(words).collect()
        }
        Value::Null | Value::Array(_) | Value::Object(_) => Vec::new(),
    }
}

/// The field is refused by its pointer, or declared to need no field.
fn excused(capability: &Capability, pointer: &str, specs: &[&InstanceSpec]) -> bool {
    let native = |f: &Feature| capability.features.get(f) == Some(&Support::Native);
    let refused: Vec<String> = specs
        .iter()
        .flat_map(|s| used_by(s))
        .filter(|(feature, _)| !native(feature))
        .filter_map(|(_, at)| at.strip_prefix("/spec").map(str::to_owned))
        .collect();
    let by_pointer = refused.iter().any(|at| pointer.starts_with(at.as_str()));
    // A volume whose source is refused is refused with its name.
    let volume = pointer.strip_suffix("/name").unwrap_or(pointer);
    let source = |at: &String| at.strip_prefix(volume).is_some_and(|rest| rest.matches('/').count() == 1);
    let by_source = volume.starts_with("/volumes/") && volume.matches('/').count() == 2 && refused.iter().any(source);
    by_pointer || by_source || GOVERNED.iter().any(|(end, feature)| pointer.ends_with(end) && !native(feature))
}

/// A port's name exists to be referred to by probes and hooks, where it is resolved to a number; one that
/// nobody refers to has nothing to lose.
fn is_unused_port_name(base: &Value, pointer: &str) -> bool {
    let name = base.pointer(pointer).and_then(Value::as_str).filter(|_| pointer.ends_with("/name"));
    let is_used = |name: &str| base.to_string().contains(&format!("\"port\":{}", Value::from(name)));
    pointer.contains("/ports/") && name.is_some_and(|name| !is_used(name))
}

fn normalised(pointer: &str) -> String {
    let star = |part: &str| if part.parse::<usize>().is_ok() { "*".to_owned() } else { part.to_owned() };
    pointer.split('/').map(star).collect::<Vec<_>>().join("/")
}

/// The parts of the call that are not in the spec.
fn call_leaves(
    capability: &Capability,
    build: &impl Fn(&CreateCall) -> String,
    gaps: &mut BTreeSet<String>,
) -> Result<usize, String> {
    let minimal = serde_json::json!({
        "containers": [{"name": "app", "image": "a"}], "initContainers": [{"name": "init", "image": "b"}],
        "imagePullSecrets": [{"name": "team"}],
    });
    let call = call_for(&parse(&minimal)?).map_err(|e| e.to_string())?;
    let edit = |change: &dyn Fn(&mut CreateCall, &mut ResolvedSpec) -> Result<(), IdError>| {
        let (mut changed, mut spec) = (call.clone(), (*call.spec).clone());
        change(&mut changed, &mut spec).map_err(|e| e.to_string())?;
        changed.spec = Arc::new(spec);
        Ok::<_, String>(changed)
    };
    let mut cases = vec![
        ("name", edit(&|c, _| CloudName::new("other").map(|n| c.name = n))?),
        ("zone", edit(&|c, _| ZoneId::new("zone-2").map(|z| c.zone = z))?),
        (
            "shape.cpu",
            edit(&|c, _| {
                c.shape.cpu = MilliCpu(16_000);
                Ok(())
            })?,
        ),
        (
            "shape.memory",
            edit(&|c, _| {
                c.shape.memory = MemoryMib(64 << 10);
                Ok(())
            })?,
        ),
        (
            "marks",
            edit(&|c, _| {
                c.marks.insert("MERIDIAN_OP".to_owned(), "op-2".to_owned());
                Ok(())
            })?,
        ),
        (
            "network.securityGroupIds",
            edit(&|_, s| {
                s.network.security_group_ids = vec!["sg-9".to_owned()];
                Ok(())
            })?,
        ),
    ];
    if capability.has(Feature::ClientToken) {
        cases.push(("token", edit(&|c, _| ClientToken::new("token-2").map(|t| c.token = t))?));
    }
    if capability.has(Feature::PullSecrets) {
        let credential = |f: fn(&mut RegistryCredential)| {
            edit(&move |_, s| {
                s.credentials.iter_mut().for_each(f);
                Ok(())
            })
        };
        cases.push(("credentials.server", credential(|c| c.server = "other.example".to_owned())?));
        cases.push(("credentials.username", credential(|c| c.username = "other".to_owned())?));
        cases.push(("credentials.password", credential(|c| c.password = SecretString::from("other"))?));
    }
    let before = build(&call);
    for (name, changed) in &cases {
        if build(changed) == before {
            gaps.insert(format!("call.{name} is dropped silently"));
        }
    }
    Ok(cases.len())
}

#[cfg(test)]
mod tests {
    use meridian_model::ids::AdapterName;

    use super::*;

    fn capability(features: &[Feature]) -> Capability {
        Capability {
            adapter: AdapterName::new("test").unwrap(),
            features: features.iter().map(|f| (*f, Support::Native)).collect(),
            sizes: Vec::new(),
            gpu_sizes: Vec::new(),
            containers_max: 10,
            volumes_max: 10,
            effect_bound_ms: 0,
            denies_silently: false,
            forgets_ended: false,
        }
    }

    /// A builder that sends everything.
    fn honest(call: &CreateCall) -> String {
        let c = call;
        let secrets: Vec<String> = c
            .spec
            .credentials
            .iter()
            .map(|c| format!("{} {} {}", c.server, c.username, secrecy::ExposeSecret::expose_secret(&c.password)))
            .collect();
        let spec = serde_json::to_string(&c.spec.spec).unwrap();
        format!("{} {} {} {:?} {:?} {:?} {spec} {secrets:?}", c.name, c.token, c.zone, c.shape, c.marks, c.spec.network)
    }

    #[test]
    fn a_builder_that_sends_everything_passes() {
        let tried = check(&capability(&[]), honest).unwrap();
        assert!(tried > 400, "{tried}");
    }

    #[test]
    fn a_dropped_field_is_named() {
        let all = [
            Feature::InitContainers,
            Feature::Nfs,
            Feature::DnsConfig,
            Feature::SubPath,
            Feature::Probes,
            Feature::PullSecrets,
        ];
        let dropping = |call: &CreateCall| {
            let mut call = call.clone();
            let mut spec = (*call.spec).clone();
            spec.spec.dns_config.iter_mut().for_each(|d| d.searches.clear());
            spec.spec.containers.iter_mut().for_each(|c| c.working_dir = None);
            call.spec = Arc::new(spec);
            honest(&call)
        };
        let gaps = check(&capability(&all), dropping).unwrap_err();
        assert!(
            gaps.contains("/spec/dnsConfig/searches/0") && gaps.contains("/spec/containers/0/workingDir"),
            "{gaps}"
        );
        assert!(!gaps.contains("nfs"), "{gaps}");
    }

    #[test]
    fn every_field_of_the_model_is_in_the_maximal_spec() {
        // The model writes out every field that is not at its default; what it writes must come from the file,
        // and a field missing from the file would be missing from its parsed form's Debug output as `None`.
        let spec = parse(&bases().unwrap().remove(0).1).unwrap();
        let app = &spec.containers[0];
        let text = format!("{:?}", (app, &spec.volumes[3], &spec.dns_config, &spec.network, &spec.host_aliases));
        // The only `None`s are the two probe actions beside the chosen one, in three probes and three hooks
        // (2 actions x 5, and 2 x 1), the port without a name, the mount without two options, a file without
        // mode, an option without value and the three sources that a volume does not have.
        assert_eq!(text.matches("None").count(), 10 + 1 + 2 + 1 + 1 + 3, "{text}");
        let top =
            format!("{:?}", InstanceSpec { containers: vec![], init_containers: vec![], volumes: vec![], ..spec });
        let allowed = top.matches("max_price_per_hour: None").count()
            + top.matches("max_attempts: None").count()
            + top.matches("place_timeout: None").count()
            + top.matches("value: None").count()
            + top.matches("gpu: None").count();
        assert_eq!(top.matches("None").count(), allowed, "{top}");
    }
}
