//! Meaning by table, bounds and panics by property, and the crate's own interpreter as the judge of what CEL means.

use meridian_model::{
    ids::{InstanceName, TenantId},
    instance::{InstanceSpec, Labels},
    time::Time,
};
use proptest::prelude::*;

use super::{
    schema::{ObjectView, RequestView, TenantView},
    value::{Constant, Value},
    *,
};

/// A request to look at, in JSON.
#[derive(Debug)]
struct Sample {
    name: InstanceName,
    labels: Labels,
    annotations: Labels,
    spec: InstanceSpec,
    roles: Vec<String>,
    tenant: TenantId,
}

impl Sample {
    fn new(labels: &str, spec: &str) -> Self {
        Self {
            name: InstanceName::new("web").unwrap(),
            labels: serde_json::from_str(labels).unwrap(),
            annotations: Labels::new(),
            spec: serde_json::from_str(spec).unwrap(),
            roles: vec!["operator".to_owned()],
            tenant: TenantId::new("acme").unwrap(),
        }
    }

    fn usual() -> Self {
        Self::new(
            r#"{"app": "shop", "team": "core"}"#,
            r#"{"containers": [
                    {"name": "main", "image": "registry.acme.example/web:1", "env": [{"name": "A", "value": "1"}],
                     "resources": {"limits": {"cpu": "1500m", "memory": "2Gi"}}},
                    {"name": "side", "image": "nginx", "securityContext": {"privileged": true}}],
                "capacity": {"type": "spot", "maxPricePerHour": "0.5"},
                "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["db"]}],
                "placement": {"regions": ["ap-guangzhou"], "placeTimeout": "30s"}, "activeDeadlineSeconds": 60}"#,
        )
    }

    fn with<T>(&self, with: impl FnOnce(RootValues<'_>) -> T) -> T {
        let object = ObjectView {
            name: &self.name,
            project: None,
            labels: &self.labels,
            annotations: &self.annotations,
            spec: &self.spec,
        };
        let shape = self.spec.shape();
        // Monday, 30 November 2026, 06:15:42 UTC.
        let time = Time::from_unix_ms(1_796_019_342_000);
        let request = RequestView { operation: "create", principal: "key-1", roles: &self.roles, time };
        let tenant = TenantView(&self.tenant);
        with([Value::Record(&object), Value::Record(&shape), Value::Record(&request), Value::Record(&tenant)])
    }

    fn ask(&self, condition: &Condition) -> (Result<bool, Fault>, u64) {
        self.with(|roots| {
            let mut meter = Meter::new(condition.cost_max());
            let answer = condition.holds(roots, &mut meter);
            (answer, condition.cost_max() - meter.fuel)
        })
    }
}

fn params() -> Params {
    let text = |t: &str| Constant::Text(t.into());
    let list = Constant::List(vec![text("registry.acme.example"), text("docker.io")]);
    [("registries", list), ("maxCpu", text("4")), ("max", Constant::Int(7)), ("pattern", text("^[a-z]+$"))]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn told(faults: &[Diagnostic]) -> String {
    faults.iter().map(|f| format!("{f}\n")).collect()
}

#[track_caller]
fn check(expression: &str, expected: Result<bool, Fault>) {
    let condition = Condition::load(expression, &params()).unwrap_or_else(|f| panic!("{expression}\n{}", told(&f)));
    let (answer, cost) = Sample::usual().ask(&condition);
    assert_eq!(answer, expected, "{expression}");
    assert!(cost <= condition.cost_max(), "{expression} cost {cost} of {}", condition.cost_max());
}

#[test]
fn what_holds() {
    for expression in [
        "object.name == 'web' && tenant.name == \"acme\"",
        "object.spec.containers.all(c, registry(c.image) in params.registries)",
        "object.spec.containers.exists(c, has(c.securityContext) && has(c.securityContext.privileged) && c.securityContext.privileged)",
        "object.spec.containers.exists_one(c, c.image.startsWith('registry.acme.example/'))",
        "shape.cpu <= quantity(params.maxCpu) && shape.cpu == quantity('1.5') && quantity('1499m') < shape.cpu",
        "shape.memory >= quantity('2Gi') && shape.memory + shape.memory == quantity('4096Mi')",
        "'team' in object.labels && object.labels['team'] == 'core' && object.labels.team != 'x'",
        "!('owner' in object.labels) || object.labels.owner == 'me'",
        "params.registries.all(r, size(r) > 3) && object.name in ['web', 'db']",
        "object.spec.capacity.type == 'spot' && has(object.spec.capacity.maxPricePerHour) && object.spec.capacity.maxPricePerHour <= 0.5",
        "has(object.spec.gpuType) ? object.spec.gpuType == 'T4' : true",
        "request.time.getDayOfWeek() in [1, 2, 3, 4, 5] && request.time.getHours('+08:00') == 14",
        "request.time.getHours() == 6 && request.time.getMinutes() == 15 && request.time.getFullYear() == 2026",
        "request.time > timestamp('2026-01-01T00:00:00Z') && request.time - timestamp('2026-11-30T06:00:00Z') < duration('16m')",
        "object.spec.hostAliases.all(h, cidr('10.0.0.0/8').containsIP(h.ip) && isIP(h.ip))",
        "object.spec.containers.all(c, c.name.matches(params.pattern)) && object.name.size() == 3",
        "!(\"nvidia.com/gpu\" in object.spec.containers[0].resources.limits)",
        "object.spec.placement.regions.all(r, r in ['ap-guangzhou', 'cn-hangzhou'])",
        "has(object.spec.placement.placeTimeout) && object.spec.placement.placeTimeout <= duration('1m')",
        "object.labels.all(k, size(k) < 10) && object.labels.exists(k, k in object.labels && object.labels[k] == 'shop')",
        "'operator' in request.roles && request.operation == 'create'",
        "has(object.spec.activeDeadlineSeconds) && -object.spec.activeDeadlineSeconds * 2 + 121 == 1 && 7 % 4 == params.max - 4",
    ] {
        check(expression, Ok(true));
    }
}

#[test]
fn what_has_no_answer_is_a_fault() {
    check("object.spec.containers[7].name == 'x'", Err(Fault::OutOfRange));
    check("size(object.spec.containers) / (size(object.name) - 3) == 1", Err(Fault::DivisionByZero));
    check("size(object.name) * 9223372036854775807 > 0", Err(Fault::Overflow));
    check("-(size(object.name) - 3) % 0 == 0", Err(Fault::DivisionByZero));
    // An operand that settles the result settles it, whichever side it stands on.
    check("object.spec.containers[7].name == 'x' || object.name == 'web'", Ok(true));
    check("object.spec.containers[7].name == 'x' && object.name == 'other'", Ok(false));
    check("object.spec.containers[7].name == 'x' && object.name == 'web'", Err(Fault::OutOfRange));
    check("object.spec.containers.all(c, c.args[0] == 'x')", Err(Fault::OutOfRange));
    check("object.spec.containers.exists(c, c.args[0] == 'x' || c.name == 'side')", Ok(true));
}

#[test]
fn fuel_ends_every_evaluation() {
    let condition = Condition::load("object.spec.containers.all(c, c.name != 'x') || true", &params()).unwrap();
    Sample::usual().with(|roots| {
        for fuel in 0..condition.cost_max() {
            let mut meter = Meter::new(fuel);
            let answer = condition.holds(roots, &mut meter);
            assert!(answer == Ok(true) || answer == Err(Fault::OutOfFuel), "{fuel}: {answer:?}");
        }
        assert_eq!(condition.holds(roots, &mut Meter::new(3)), Err(Fault::OutOfFuel), "not even `|| true` saves it");
    });
}

#[test]
fn the_failed_element_is_known() {
    let condition = Condition::load("object.spec.containers.all(c, c.name == 'main')", &params()).unwrap();
    Sample::usual().with(|roots| {
        let mut meter = Meter::new(condition.cost_max());
        assert_eq!(condition.holds(roots, &mut meter), Ok(false));
        assert_eq!(meter.failed_at[0], Some(1));
    });
}

#[test]
fn addresses_are_what_packets_go_to() {
    let address = |address: &str, network: &str| {
        let asked = format!("'address' in object.labels && cidr('{network}').containsIP(object.labels['address'])");
        let condition = Condition::load(&asked, &params()).unwrap();
        let mut sample = Sample::usual();
        sample.labels.insert("address".to_owned(), address.to_owned());
        sample.with(|roots| condition.holds(roots, &mut Meter::new(condition.cost_max())))
    };
    assert_eq!(address("169.254.169.254", "169.254.0.0/16"), Ok(true));
    assert_eq!(address("::ffff:169.254.169.254", "169.254.0.0/16"), Ok(true));
    assert_eq!(address("::ffff:10.0.0.1", "::/0"), Ok(false));
    assert_eq!(address("metadata.internal", "169.254.0.0/16"), Err(Fault::NoAddress));
    assert_eq!(
        Condition::load("cidr('::ffff:10.0.0.0/104').containsIP('::1')", &params()).unwrap_err()[0].code,
        "wrong-value"
    );
}

/// What a pattern costs follows from its states, not from its letters.
#[test]
fn a_counted_repetition_costs_what_it_counts() {
    let cost =
        |pattern: &str| Condition::load(&format!("object.name.matches('{pattern}')"), &params()).map(|c| c.cost_max());
    let (once, counted) = (cost("a{0,9}b").unwrap(), cost("a{0,900}b").unwrap());
    assert!(counted > 60 * once, "{once} {counted}");
    assert!(cost("^[a-z]{1,63}([.][a-z]{1,63}){0,10}$").is_ok());
    assert_eq!(cost("a{0,3500}b").unwrap_err()[0].code, "wrong-value");
    let loops = "object.annotations.all(k, !(k in object.annotations) || !object.annotations[k].matches('a{0,500}b'))";
    assert_eq!(Condition::load(loops, &params()).unwrap_err()[0].code, "too-costly");
}

#[test]
fn messages() {
    let text = |expression: &str| {
        let message = Message::load(expression, &params()).unwrap();
        Sample::usual().with(|r| message.text(r, &mut Meter::new(message.cost_max())).unwrap())
    };
    assert_eq!(text("'cpu ' + string(shape.cpu) + ' > ' + params.maxCpu"), "cpu 1500m > 4");
    assert_eq!(
        text("object.spec.placement.regions.join(', ') + (shape.gpuCount > 0 ? ' gpu' : ' ' + string(shape.memory))"),
        "ap-guangzhou 2Gi"
    );
    assert_eq!(text("string(request.time) + string(request.time - request.time)"), "2026-11-30T06:15:42.000Z0s");
    let faults = Message::load("shape.cpu", &params()).unwrap_err();
    assert_eq!(faults[0].code, "not-text");
}

/// The parser is kept from what it cannot bear: as many brackets as are allowed, of every kind, on its own stack.
#[test]
fn nesting_is_bounded_and_borne() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("f(", ")"),
        ("a[", "]"),
        ("{1:", "}"),
        ("a.b(", ")"),
        ("-(", ")"),
        ("true ? (", ") : false"),
    ] {
        let nested = |n: usize| format!("{}object.name{}", open.repeat(n), close.repeat(n));
        let _ = Condition::load(&nested(BRACKETS_MAX), &params());
        let faults = Condition::load(&nested(BRACKETS_MAX + 1), &params()).unwrap_err();
        assert_eq!(faults[0].code, "too-deep", "{open}");
    }
    for chain in ["a.", "!", "-", "a?a:", "a+", "a&&", "a<", "[1]."] {
        let long = chain.repeat(SOURCE_LEN_MAX / chain.len());
        assert!(Condition::load(&long, &params()).is_err());
        assert!(Condition::load(&format!("{}a", chain.repeat(90)), &params()).is_err());
    }
    let sum = |n: usize| format!("size(object.name){} > 0", " + 1".repeat(n));
    assert!(Condition::load(&sum(DEPTH_MAX - 4), &params()).is_ok());
    assert_eq!(Condition::load(&sum(DEPTH_MAX), &params()).unwrap_err()[0].code, "too-deep");
    let joined = vec!["object.name == 'a'"; 100].join(" || ");
    assert!(Condition::load(&joined, &params()).is_ok(), "chains of && and || are balanced by the parser");
}

/// Expressions of a type, mostly right, now and then not.
mod expressions {
    use super::*;

    pub(super) fn text(local: bool) -> BoxedStrategy<String> {
        let roots = prop::sample::select(vec![
            "object.name",
            "tenant.name",
            "request.principal",
            "request.operation",
            "object.spec.restartPolicy",
            "object.spec.placement.strategy",
            "'web'",
            "'main'",
            "'a'",
            "''",
            "'\u{e9}\u{6f22}'",
            "'Always'",
            "params.maxCpu",
            "object.spec.containers[0].image",
            "object.labels['app']",
            "(object.name)",
        ]);
        let locals = prop::sample::select(vec!["c.name", "c.image"]);
        if local {
            prop_oneof![roots.prop_map(str::to_owned), locals.prop_map(str::to_owned)].boxed()
        } else {
            roots.prop_map(str::to_owned).boxed()
        }
    }

    pub(super) fn int(local: bool, depth: u32) -> BoxedStrategy<String> {
        let leaf = prop_oneof![
            prop::sample::select(vec![
                "0",
                "1",
                "-1",
                "3",
                "9223372036854775807",
                "params.max",
                "size(object.labels)",
                "size(object.spec.containers)"
            ])
            .prop_map(str::to_owned),
            text(local).prop_map(|t| format!("size({t})")),
        ];
        if depth == 0 {
            return leaf.boxed();
        }
        let operator = prop::sample::select(vec!["+", "-", "*", "/", "%"]);
        let pair =
            (int(local, depth - 1), operator, int(local, depth - 1)).prop_map(|(a, o, b)| format!("({a} {o} {b})"));
        let choice = (condition(local, depth - 1), int(local, depth - 1), int(local, depth - 1))
            .prop_map(|(c, a, b)| format!("({c} ? {a} : {b})"));
        prop_oneof![3 => leaf, 2 => pair, 1 => choice].boxed()
    }

    pub(super) fn condition(local: bool, depth: u32) -> BoxedStrategy<String> {
        let comparison = || prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
        let texts = (text(local), comparison(), text(local)).prop_map(|(a, o, b)| format!("{a} {o} {b}"));
        let affix = (text(local), prop::sample::select(vec!["startsWith", "endsWith", "contains"]), text(local))
            .prop_map(|(a, f, b)| format!("{a}.{f}({b})"));
        let member = text(local).prop_map(|t| format!("{t} in ['web', 'nginx', 'main']"));
        let doubles = comparison().prop_map(|o| format!("1.5 * 2.0 - 0.5 {o} 2.5"));
        let key = prop::sample::select(vec!["app", "team", "owner"]).prop_map(|k| format!("'{k}' in object.labels"));
        let leaf =
            prop_oneof![4 => texts, 2 => affix, 2 => member, 1 => doubles, 1 => key, 1 => Just("true".to_owned())];
        if depth == 0 {
            return leaf.boxed();
        }
        let ints =
            (int(local, depth - 1), comparison(), int(local, depth - 1)).prop_map(|(a, o, b)| format!("{a} {o} {b}"));
        let pair = (
            condition(local, depth - 1),
            prop::sample::select(vec!["&&", "||", "==", "!="]),
            condition(local, depth - 1),
        )
            .prop_map(|(a, o, b)| format!("({a}) {o} ({b})"));
        let not = condition(local, depth - 1).prop_map(|c| format!("!({c})"));
        let choice = (condition(local, depth - 1), condition(local, depth - 1), condition(local, depth - 1))
            .prop_map(|(c, a, b)| format!("({c} ? {a} : {b})"));
        let simple = prop_oneof![3 => leaf, 3 => ints, 3 => pair, 1 => not, 1 => choice];
        if local {
            return simple.boxed();
        }
        let loops = (prop::sample::select(vec!["all", "exists", "exists_one"]), condition(true, depth - 1))
            .prop_map(|(f, c)| format!("object.spec.containers.{f}(c, {c})"));
        prop_oneof![3 => simple, 2 => loops].boxed()
    }

    /// Expressions that use what the crate's interpreter knows nothing of.
    pub(super) fn ours() -> BoxedStrategy<String> {
        let leaf = prop::sample::select(vec![
            "object.spec.containers.all(c, c.env.all(e, e.name != e.value && !e.value.contains('x')))",
            "object.spec.containers.exists(c, registry(c.image) == 'docker.io')",
            "shape.cpu * 2 <= quantity('4')",
            "shape.memory / 0 == quantity('1Gi')",
            "has(object.spec.network.publicIp) && has(object.spec.network.publicIp.bandwidthMbps) && object.spec.network.publicIp.bandwidthMbps > 5",
            "request.time.getHours('-03:30') >= 9 && request.time.getDate() < 30",
            "object.labels.all(k, k.matches('^[a-z./-]+$'))",
            "object.annotations.exists(k, k.endsWith('owner'))",
            "object.spec.containers.exists(c, c.ports.exists(p, p.containerPort == 80 && p.protocol == 'TCP'))",
            "object.spec.hostAliases.all(h, h.hostnames.all(n, n.matches('(a|b)*c')))",
            "object.spec.containers.all(c, 'cpu' in c.resources.limits && c.resources.limits.cpu <= quantity('2'))",
            "object.spec.containers[1].args[0] == ''",
            "has(object.project) && object.project == 'x'",
        ]);
        let leaf = prop_oneof![leaf.prop_map(str::to_owned), condition(false, 1)];
        leaf.prop_recursive(3, 12, 2, |inner| {
            (inner.clone(), prop::sample::select(vec!["&&", "||"]), inner)
                .prop_map(|(a, o, b)| format!("({a}) {o} !({b})"))
        })
        .boxed()
    }
}

fn samples() -> impl Strategy<Value = Sample> {
    let word = "[a-z\u{e9}]{0,70}";
    let labels = prop::collection::btree_map("[a-z]{1,5}|app|team", "[a-z]{0,5}|core", 0..6);
    let env = prop::collection::vec((word, word), 0..5);
    let container = (
        "main|side|[a-z]{1,4}",
        "nginx|registry.acme.example/web:1|[a-z./:]{1,90}",
        env,
        prop::option::of(1_u32..9000),
    );
    (labels, prop::collection::vec(container, 0..20), prop::option::of(0_u32..3000)).prop_map(
        |(labels, containers, ip)| {
            let containers: Vec<_> = containers
                .into_iter()
                .map(|(name, image, env, cpu)| {
                    let env: Vec<_> =
                        env.into_iter().map(|(n, v)| serde_json::json!({"name": n, "value": v})).collect();
                    let limits = cpu.map_or(serde_json::json!({}), |c| serde_json::json!({"cpu": format!("{c}m")}));
                    serde_json::json!({"name": name, "image": image, "env": env, "ports": [{"containerPort": 80}],
                    "resources": {"limits": limits}})
                })
                .collect();
            let network = ip.map_or(serde_json::json!({}), |b| serde_json::json!({"publicIp": {"bandwidthMbps": b}}));
            // The wish is there for the interpreter too only if it is not the default.
            let wishes = serde_json::json!({"maxAttempts": 3});
            let spec = serde_json::json!({"containers": containers, "network": network, "placement": wishes});
            Sample::new(&serde_json::to_string(&labels).unwrap(), &spec.to_string())
        },
    )
}

/// What the crate's interpreter says: the request as JSON, the same names.
fn interpreted(expression: &str, sample: &Sample) -> Result<bool, String> {
    let program = cel::Program::compile(expression).map_err(|e| e.to_string())?;
    let mut context = cel::Context::default();
    let mut add =
        |name: &str, value: serde_json::Value| context.add_variable(name, cel::to_value(value).unwrap()).unwrap();
    let spec = serde_json::to_value(&sample.spec).unwrap();
    add("object", serde_json::json!({"name": "web", "labels": sample.labels, "annotations": {}, "spec": spec}));
    add("tenant", serde_json::json!({"name": "acme"}));
    add("request", serde_json::json!({"operation": "create", "principal": "key-1"}));
    // JSON's numbers become unsigned, which do not go with integers; CEL's own map keeps the type.
    let params: std::collections::HashMap<&str, cel::Value> = [("maxCpu", "4".into()), ("max", 7_i64.into())].into();
    context.add_variable("params", cel::Value::from(params)).unwrap();
    match program.execute(&context) {
        Ok(cel::Value::Bool(b)) => Ok(b),
        Ok(other) => Err(format!("{other:?}")),
        Err(why) => Err(why.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever loads has an answer or a proper fault within its bound, on any valid request.
    #[test]
    fn what_loads_stays_within_its_bound(expression in expressions::ours(), sample in samples()) {
        if let Ok(condition) = Condition::load(&expression, &params()) {
            let (answer, cost) = sample.ask(&condition);
            prop_assert!(!matches!(answer, Err(Fault::OutOfFuel | Fault::Mismatch)), "{expression}: {answer:?}");
            prop_assert!(cost <= condition.cost_max(), "{expression} cost {cost} of {}", condition.cost_max());
        }
    }

    /// Where both have an answer, it is the same; where the interpreter has none, neither have we.
    #[test]
    fn it_means_what_the_interpreter_means(expression in expressions::condition(false, 3), sample in samples()) {
        // `'app' in` guards the one look-up of the generator, which is refused without.
        let guarded = format!("'app' in object.labels && size(object.spec.containers) > 0 && ({expression})");
        if let Ok(condition) = Condition::load(&guarded, &params()) {
            let ours = sample.ask(&condition).0;
            let theirs = interpreted(&guarded, &sample);
            match (&ours, &theirs) {
                (Ok(a), Ok(b)) => prop_assert_eq!(a, b, "{}", guarded),
                (Err(_), Err(_)) => {}
                _ => prop_assert!(false, "{guarded}: ours {ours:?}, theirs {theirs:?}"),
            }
        }
    }

    /// Text of any kind is refused or loads; nothing panics, and every fault has a place in the text.
    #[test]
    fn any_text_is_answered(text in r#"([a-z. ]|[()\[\]{}?:!&|=<>+*/%,'"\\]|[0-9]|\u{e9}|in |has\(|object\.|\n){0,60}"#) {
        if let Err(faults) = Condition::load(&text, &params()) {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(fault.line >= 1 && fault.line <= text.lines().count().max(1) + 1, "{fault}");
                prop_assert!(!fault.hint.is_empty(), "{fault}");
            }
        }
    }

    /// A right expression with one character changed is refused or loads.
    #[test]
    fn a_slip_is_answered(expression in expressions::ours(), at in 0_usize..200, with in prop::char::any()) {
        let mut chars: Vec<char> = expression.chars().collect();
        let at = at % chars.len();
        chars[at] = with;
        let text: String = chars.into_iter().collect();
        if let Ok(condition) = Condition::load(&text, &params()) {
            let (answer, _) = Sample::usual().ask(&condition);
            prop_assert!(!matches!(answer, Err(Fault::Mismatch)), "{text}");
        }
    }
}
