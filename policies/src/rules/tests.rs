use std::fmt::Write as _;

use meridian_model::ids::ProfileName;
use serde::Deserialize;

use super::*;

/// A policy with its name, in short.
#[derive(Debug, Deserialize)]
struct Document {
    name: ProfileName,
    #[serde(flatten)]
    spec: PolicySpec,
}

fn try_load(text: &str) -> Result<Vec<Arc<Policy>>, Findings> {
    let documents: Vec<Document> = serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let load = |Document { name, spec }: Document| Policy::load(spec.scope.clone().unwrap(), &name, spec).map(Arc::new);
    documents.into_iter().map(load).collect()
}

#[track_caller]
fn load(text: &str) -> RuleSet {
    RuleSet::of(try_load(text).unwrap_or_else(|f| panic!("{f}")))
}

/// A request to judge.
#[derive(Debug)]
struct Asked {
    tenant: TenantId,
    name: InstanceName,
    labels: Labels,
    annotations: Labels,
    spec: InstanceSpec,
    roles: Vec<String>,
}

impl Asked {
    fn new(spec: &str) -> Self {
        Self {
            tenant: TenantId::new("acme").unwrap(),
            name: InstanceName::new("web").unwrap(),
            labels: Labels::new(),
            annotations: Labels::new(),
            spec: serde_json::from_str(spec).unwrap(),
            roles: vec!["operator".to_owned()],
        }
    }

    fn of<'a>(&'a self, projects: &'a [ProjectName]) -> Request<'a> {
        Request {
            operation: Operation::Create,
            tenant: &self.tenant,
            projects,
            principal: "key-1",
            roles: &self.roles,
            time: Time::from_unix_ms(1_796_019_342_000),
            name: &self.name,
            labels: &self.labels,
            annotations: &self.annotations,
            spec: &self.spec,
        }
    }
}

fn one(image: &str) -> Asked {
    Asked::new(&format!(r#"{{"containers": [{{"name": "main", "image": "{image}"}}]}}"#))
}

/// A rule as a document, with the params that the cases share.
fn rule(expression: &str) -> String {
    let indented = expression.replace('\n', "\n    ");
    format!(
        "name: p\nscope: platform\nparams:\n  max: 4\n  cpu: \"2\"\n  regions: [ap-guangzhou]\nrules:\n- id: r\n  expression: |\n    {indented}\n"
    )
}

/// Expressions that people write, and the code of what they are told.
const EXPRESSIONS: &[(&str, &str, &str)] = &[
    ("misspelt field", "unknown-field", "object.spec.contaners.all(c, c.image != '')"),
    ("field of Kubernetes that stands elsewhere", "unknown-field", "object.metadata.labels['app'] == 'x'"),
    ("misspelt field of a container", "unknown-field", "object.spec.containers.all(c, c.imagePulPolicy == 'Always')"),
    ("unknown variable", "unknown-variable", "objct.name == 'x'"),
    ("variable of Kubernetes", "unknown-variable", "oldObject.name == object.name"),
    ("text without quotes", "unknown-variable", "object.name == web"),
    ("unknown function", "unknown-function", "object.name.beginsWith('a')"),
    ("misspelt function", "unknown-function", "object.name.startWith('a')"),
    ("macro that makes a list", "not-supported", "size(object.spec.containers.filter(c, c.tty)) == 0"),
    ("not a condition", "not-boolean", "object.spec.containers"),
    ("number compared with text", "wrong-type", "size(object.spec.containers) < '3'"),
    ("quantity compared with a number", "wrong-type", "shape.cpu <= 2"),
    ("processor time compared with memory", "wrong-type", "shape.cpu <= shape.memory"),
    ("quantity that is none", "wrong-value", "shape.memory <= quantity('2 GB')"),
    (
        "integer compared with a float",
        "wrong-type",
        "has(object.spec.capacity.maxPricePerHour) && object.spec.capacity.maxPricePerHour < 1",
    ),
    ("optional field not asked for", "unguarded", "object.spec.gpuType == 'T4'"),
    ("asked for too late", "unguarded", "object.spec.gpuType == 'T4' && has(object.spec.gpuType)"),
    ("label not asked for", "unguarded", "object.labels['team'] != ''"),
    (
        "asked for something else",
        "unguarded",
        "has(object.spec.network.publicIp) && object.spec.network.profile == 'x'",
    ),
    ("asked whether a list is there", "always-there", "!has(object.spec.volumes)"),
    ("word that does not exist", "unknown-word", "object.spec.capacity.type == 'Spot'"),
    ("word that does not exist, in a list", "unknown-word", "object.spec.restartPolicy in ['always', 'Never']"),
    ("one = for two", "syntax", "object.name = 'web'"),
    ("words for signs", "syntax", "object.name == 'a' and object.name == 'b'"),
    ("unclosed bracket", "syntax", "object.spec.containers.all(c, c.image != ''"),
    ("unclosed string", "syntax", "object.name == 'web"),
    ("if as in other languages", "syntax", "if object.name == 'a' then true"),
    (
        "loops in loops in loops",
        "too-costly",
        "object.spec.containers.all(c,\n  c.env.all(e,\n    c.env.exists(f, f.name == e.value)))",
    ),
    (
        "pattern over much text",
        "too-costly",
        "object.spec.containers.all(c, c.env.all(e, !e.value.matches('^(([a-z0-9]+)-)*secret')))",
    ),
    ("pattern that cannot be read", "wrong-value", "object.name.matches('(unclosed')"),
    ("pattern with look-ahead", "wrong-value", "object.name.matches('^(?!test).*')"),
    ("pattern from the request", "not-constant", "object.name.matches(tenant.name)"),
    ("the same for everybody", "constant", "params.max > 3"),
    ("unknown param", "unknown-param", "size(object.spec.containers) <= params.maximum"),
    ("misspelt param", "unknown-param", "object.spec.placement.regions.all(r, r in params.region)"),
    ("named time zone", "wrong-value", "request.time.getHours('Asia/Shanghai') < 18"),
    (
        "duration without unit",
        "wrong-type",
        "has(object.spec.placement.placeTimeout) && object.spec.placement.placeTimeout < 60",
    ),
    ("field of a list", "unknown-field", "object.spec.containers.image == 'nginx'"),
    ("list asked like text", "wrong-type", "object.spec.placement.regions.contains('ap-guangzhou')"),
    ("in on a text", "wrong-type", "'nginx' in object.spec.containers[0].image"),
    ("condition where a number is", "wrong-type", "size(object.spec.containers) && true"),
    ("order of what has none", "wrong-type", "object.spec.os.name < true"),
    ("texts put together", "not-supported", "object.name == tenant.name + '-web'"),
    ("null", "not-supported", "object.name != null"),
    ("variable taken twice", "name-taken", "object.spec.containers.all(c, c.env.all(c, c.name != ''))"),
    ("two mistakes at once", "unknown-field", "object.spec.containers.all(c,\n  c.imge != '' && c.nme != '')"),
];

/// Mistakes that people make: what they write, and the code of what they are told.
fn mistakes() -> Vec<(&'static str, &'static str, String)> {
    let mut all: Vec<_> = EXPRESSIONS.iter().map(|(name, code, e)| (*name, *code, rule(e))).collect();
    let document = |body: &str| format!("name: p\nscope: platform\n{body}");
    let held = "expression: object.name != ''";
    all.extend([
        ("two rules of one id", "duplicate", document(&format!("rules:\n- id: r\n  {held}\n- id: r\n  {held}\n"))),
        ("id that is no name", "invalid-name", document(&format!("rules:\n- id: No Tags\n  {held}\n"))),
        (
            "pointer that leads nowhere",
            "unknown-pointer",
            document(&format!("rules:\n- id: r\n  {held}\n  pointer: /spec/container/0\n")),
        ),
        ("nothing in it", "empty", document("description: later\n")),
        ("label that is not valid", "wrong-value", document("defaults:\n  labels: {\"team name\": core}\n")),
        (
            "message that is no text",
            "not-text",
            document(&format!("rules:\n- id: r\n  {held}\n  messageExpression: shape.cpu\n")),
        ),
    ]);
    all
}

#[test]
fn mistakes_are_refused_with_place_and_hint() {
    let mut shown = String::new();
    let all = mistakes();
    for (name, code, text) in &all {
        let Err(Findings(findings)) = try_load(text) else { panic!("{name} is not refused:\n{text}") };
        let first = &findings[0];
        assert_eq!(&first.diagnostic.code, code, "{name}\n{first}");
        for finding in &findings {
            assert!(!finding.diagnostic.hint.is_empty() && finding.diagnostic.line > 0, "{name}");
        }
        writeln!(shown, "## {name}\n{}\n", Findings(findings)).unwrap();
    }
    assert!(all.len() >= 25, "{} mistakes", all.len());
    insta::assert_snapshot!("mistakes", shown);
}

#[test]
fn denials_warnings_and_counts() {
    let set = load(
        "name: baseline\nscope: platform\nparams: {registries: [registry.acme.example]}\nrules:\n\
         - id: registry\n  expression: object.spec.containers.all(c, registry(c.image) in params.registries)\n\
         \x20 message: the image is not from an allowed registry\n  pointer: /spec/containers/*/image\n  hint: \"allowed: registry.acme.example\"\n\
         - id: team\n  expression: \"'team' in object.labels\"\n  mode: warn\n  pointer: /labels/team\n\
         - id: named\n  expression: object.name != 'web'\n  mode: audit\n  messageExpression: \"'not ' + object.name\"\n",
    );
    let asked = Asked::new(
        r#"{"containers": [{"name": "a", "image": "registry.acme.example/a"}, {"name": "b", "image": "evil.example/m"}]}"#,
    );
    let decision = set.decide(&asked.of(&[]));
    assert!(decision.denied());
    assert_eq!((decision.judged, decision.broken.len(), decision.written), (3, 3, None));
    let denial = &decision.broken[0];
    assert_eq!((&*denial.policy, &*denial.rule), ("policies/baseline", "registry"));
    assert_eq!(denial.pointer, "/spec/containers/1/image");
    assert_eq!(denial.hint.as_deref(), Some("allowed: registry.acme.example"));
    assert_eq!(decision.broken[1].message, "rule team of policy baseline does not hold");
    assert_eq!(decision.broken[2].message, "not web");
    let (again, judged) = set.explain(&asked.of(&[]));
    assert_eq!(again.broken, decision.broken, "the same request is decided in the same way");
    assert_eq!(judged.iter().map(|j| j.held).collect::<Vec<_>>(), [false, false, false]);
    assert!(judged.iter().all(|j| j.cost <= j.cost_max));
    let good = Asked::new(r#"{"containers": [{"name": "a", "image": "registry.acme.example/a"}]}"#);
    assert!(!set.decide(&good.of(&[])).denied(), "a warning denies nothing");
}

#[test]
fn a_rule_without_an_answer_denies() {
    let set = load("name: p\nscope: platform\nrules:\n- id: r\n  expression: object.spec.containers[3].name != ''\n");
    let decision = set.decide(&one("nginx").of(&[]));
    assert!(decision.denied());
    assert_eq!(decision.broken[0].fault, Some(Fault::OutOfRange));
    assert!(decision.broken[0].message.ends_with("(the rule has no answer: an index is past the end of its list)"));
}

const SCOPES: &str = "name: all\nscope: platform\ndefaults: {labels: {cost: platform, by: platform}}\nmutations: {labels: {env: platform}}\n\
    rules: [{id: r, expression: \"object.labels.exists(k, k == 'env') && object.name != 'web'\"}]\n---\n\
    name: own\nscope: {tenant: acme}\ndefaults: {labels: {cost: tenant}}\nmutations: {labels: {env: tenant, tier: tenant}}\n\
    rules: [{id: r, expression: object.name == 'web'}]\n---\n\
    name: shop\nscope: {tenant: acme, project: shop}\ndefaults: {labels: {cost: project}}\n\
    rules: [{id: r, expression: object.name == 'other'}]\n---\n\
    name: team\nscope: {tenant: acme, project: team}\ndefaults: {labels: {cost: team, lead: team}}\n---\n\
    name: foreign\nscope: {tenant: other}\nrules: [{id: r, expression: object.name == 'x'}]\n";

#[test]
fn scopes_and_their_order() {
    let set = load(SCOPES);
    let decide = |projects: &[&str]| {
        let projects: Vec<ProjectName> = projects.iter().map(|p| ProjectName::new(p).unwrap()).collect();
        let decision = set.decide(&one("nginx").of(&projects));
        let broken: Vec<String> = decision.broken.iter().map(|b| b.policy.to_string()).collect();
        (broken, decision.written.unwrap().labels)
    };
    let (broken, labels) = decide(&[]);
    assert_eq!(broken, ["policies/all"], "a tenant that allows does not lift what the platform denies");
    let pairs = |labels: &Labels| labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
    assert_eq!(pairs(&labels), "by=platform cost=tenant env=platform tier=tenant");
    let (broken, labels) = decide(&["shop", "team"]);
    assert_eq!(broken, ["policies/all", "tenants/acme/policies/shop"]);
    assert_eq!(pairs(&labels), "by=platform cost=project env=platform lead=team tier=tenant");
}

#[test]
fn what_policies_write() {
    let set = load(
        "name: p\nscope: platform\ndefaults:\n  networkProfile: net\n  strategy: spread\n  regions: [r1]\n  placeTimeout: 90s\n  terminationGracePeriodSeconds: 5\n  annotations: {why: because}\n\
         mutations:\n  capacityType: spot\n  activeDeadlineSecondsMax: 3600\n  removePublicIp: true\n  registries: [{from: docker.io, to: mirror.example/hub}]\n\
         rules: [{id: r, expression: \"object.spec.capacity.type == 'spot' && object.spec.containers.all(c, c.image.startsWith('mirror.example/'))\"}]\n",
    );
    let asked = Asked::new(
        r#"{"containers": [{"name": "a", "image": "nginx"}], "initContainers": [{"name": "i", "image": "docker.io/x/y:1"}],
            "network": {"publicIp": {}}, "activeDeadlineSeconds": 9000}"#,
    );
    let decision = set.decide(&asked.of(&[]));
    assert!(!decision.denied(), "rules judge what was written: {:?}", decision.broken);
    let written = decision.written.unwrap();
    insta::assert_json_snapshot!(
        "written",
        serde_json::json!({"annotations": written.annotations, "spec": written.spec})
    );
    // What was written stays as it is when it is judged again.
    let again = Asked { annotations: written.annotations, labels: written.labels, spec: written.spec, ..one("x") };
    assert_eq!(set.decide(&again.of(&[])).written, None);
}

#[test]
fn a_condition_selects_requests() {
    let set = load(
        "name: p\nscope: platform\nmatch: {condition: \"'batch' in object.labels\"}\nmutations: {capacityType: spot}\nrules: [{id: r, expression: object.name == 'x'}]\n",
    );
    let plain = set.decide(&one("nginx").of(&[]));
    assert_eq!((plain.judged, plain.written.is_some()), (0, false));
    let batch = Asked { labels: [("batch".to_owned(), String::new())].into(), ..one("nginx") };
    let judged = set.decide(&batch.of(&[]));
    assert_eq!((judged.judged, judged.written.is_some(), judged.denied()), (1, true, true));
}

#[test]
fn all_rules_of_a_request_have_a_bound_together() {
    let dear = "object.spec.containers.all(c, c.env.all(e, e.name != 'A' && e.name != 'B'))";
    let policy = |scope: &str, i: usize| {
        let text = format!("name: p{i}\nscope: {scope}\nrules:\n- id: r\n  expression: {dear}\n");
        try_load(&text).unwrap().pop().unwrap()
    };
    let platform = RuleSet::of((0..3).map(|i| policy("platform", i)));
    let one = platform.cost_max(None);
    let acme = TenantId::new("acme").unwrap();
    let set =
        platform.with(policy("{tenant: acme}", 0)).with(policy("{tenant: lab}", 0)).with(policy("{tenant: lab}", 1));
    assert_eq!((set.cost_max(Some(&acme)), set.cost_max(None)), (one / 3 * 4, one / 3 * 5));
    assert!(RuleSet::of((0..20).map(|i| policy("platform", i))).cost_max(None) > SET_COST_MAX);
}

/// Sets that are declared side by side, each within the bound, can together be dearer than it.
#[test]
fn a_decision_spends_no_more_than_its_bound_and_denies_what_it_could_not_judge() {
    let policy = |i: usize| {
        let pattern = format!("^(a?){{20}}b{i}$");
        format!(
            "name: p{i}\nscope: platform\nrules:\n- id: r\n  expression: |\n    \
                 !object.spec.containers.exists(c, c.image.matches('{pattern}'))\n"
        )
    };
    let set = |n: usize| load(&(0..n).map(policy).collect::<Vec<_>>().join("---\n"));
    let image = "a".repeat(200);
    let containers: Vec<String> = (0..20).map(|n| format!(r#"{{"name": "c{n}", "image": "{image}"}}"#)).collect();
    let asked = Asked::new(&format!(r#"{{"containers": [{}]}}"#, containers.join(", ")));
    let each = set(1).decide(&asked.of(&[]));
    assert!(!each.denied() && each.cost > 10_000, "{}", each.cost);
    let many = usize::try_from(SET_COST_MAX / each.cost).unwrap() + 3;
    let all = set(many).decide(&asked.of(&[]));
    assert!(all.cost <= SET_COST_MAX, "{}", all.cost);
    assert_eq!(all.judged as usize, many);
    assert!(all.denied() && all.broken.iter().all(|b| b.fault == Some(Fault::OutOfFuel)), "{:?}", all.broken);
}

#[test]
fn a_policy_takes_the_place_of_the_one_of_its_path() {
    let set = load(SCOPES);
    let paths = |set: &RuleSet| set.policies().map(|p| p.path().to_string()).collect::<Vec<_>>();
    // The name is a project's already: one path, whatever the scope.
    let wider = try_load("name: shop\nscope: {tenant: acme}\nrules: [{id: r, expression: object.name != 'web'}]\n");
    let next = set.with(wider.unwrap().pop().unwrap());
    assert_eq!(paths(&next).len(), paths(&set).len());
    assert!(paths(&next).contains(&"tenants/acme/policies/shop".to_owned()));
    let broken = |set: &RuleSet| set.decide(&one("nginx").of(&[])).broken.len();
    assert_eq!((broken(&set), broken(&next)), (1, 2), "the set it was made from is as it was");
}

#[test]
fn messages_are_paid_for_like_rules() {
    let rule = |name: &str| {
        let told = "object.spec.containers.all(c, c.env.all(e, e.name != 'A' && e.name != 'B')) ? 'one' : 'other'";
        format!(
            "name: {name}\nscope: platform\nrules:\n- id: r\n  expression: object.name != 'web'\n  messageExpression: \"{told}\"\n"
        )
    };
    let (decision, judged) = load(&rule("p")).explain(&one("nginx").of(&[]));
    assert_eq!(decision.broken[0].message, "one");
    assert!(decision.cost > judged[0].cost, "{} {}", decision.cost, judged[0].cost);
    let many: Vec<String> = (0..20).map(|n| rule(&format!("p{n}"))).collect();
    assert!(load(&many.join("---\n")).cost_max(None) > SET_COST_MAX);
}

#[test]
fn the_library_compiles_and_judges() {
    /// As it stands in a file.
    #[derive(Debug, Deserialize)]
    struct Whole {
        metadata: Metadata,
        spec: PolicySpec,
    }
    #[derive(Debug, Deserialize)]
    struct Metadata {
        name: ProfileName,
    }
    let mut policies = Vec::new();
    for (name, text) in crate::library::LIBRARY {
        let Whole { metadata, spec } = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(metadata.name.as_str() == name && !crate::library::description(text).is_empty(), "{name}");
        policies.push(Arc::new(Policy::load(Scope::Platform, &metadata.name, spec).unwrap_or_else(|f| panic!("{f}"))));
    }
    let set = RuleSet::of(policies);
    assert_eq!(set.policies().count(), crate::library::LIBRARY.len());
    let bad = Asked::new(
        r#"{"containers": [{"name": "a", "image": "evil.example/a",
                "resources": {"limits": {"cpu": 17, "memory": "65Gi", "nvidia.com/gpu": 5}}}],
            "initContainers": [{"name": "i", "image": "nginx"}], "gpuType": "T4", "network": {"publicIp": {}},
            "placement": {"regions": ["us-east-1"]}, "activeDeadlineSeconds": 86401}"#,
    );
    let decision = set.decide(&bad.of(&[]));
    let broken: Vec<String> =
        decision.broken.iter().map(|b| format!("{} {} {}", b.rule, b.pointer, b.message)).collect();
    insta::assert_snapshot!("library", broken.join("\n"));
    let good = Asked {
        labels: [("team", "core"), ("app", "web"), ("cost-center", "7")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        roles: vec!["admin".to_owned()],
        ..Asked::new(
            r#"{"containers": [{"name": "a", "image": "registry.example/a", "resources": {"limits": {"nvidia.com/gpu": 1}}}],
                "gpuType": "T4", "capacity": {"type": "spot"}}"#,
        )
    };
    let decision = set.decide(&good.of(&[]));
    assert_eq!(decision.broken, []);
    assert_eq!(decision.written.unwrap().spec.active_deadline_seconds, Some(86_400));
}

/// What the second policies do with a request otherwise than the first, in words.
fn differs(before: &RuleSet, after: &RuleSet, asked: &Asked) -> Vec<String> {
    let request = asked.of(&[]);
    let difference = Difference::of(&request, &before.decide(&request), &after.decide(&request));
    let mut told = match difference.fate {
        Fate::Same => Vec::new(),
        fate => vec![format!("{fate:?}").to_lowercase()],
    };
    let rule = |sign: &str, b: &Broken| format!("{sign} {} {} {}", b.mode.as_str(), b.rule, b.pointer);
    told.extend(difference.broken.iter().map(|b| rule("+", b)));
    told.extend(difference.mended.iter().map(|b| rule("-", b)));
    let value = |v: &Option<serde_json::Value>| v.as_ref().map_or("none".to_owned(), ToString::to_string);
    told.extend(
        difference.written.iter().map(|w| format!("{} {} -> {}", w.pointer, value(&w.before), value(&w.after))),
    );
    assert_eq!(told.is_empty(), difference.is_none());
    told
}

#[test]
fn what_policies_would_change() {
    let policy = |spec: &str| load(&format!("name: p\nscope: platform\n{spec}"));
    let (none, asked) = (RuleSet::default(), one("docker.io/nginx"));
    let rule = "id: named, expression: \"object.name != 'web'\", pointer: /name";
    let enforced = policy(&format!("rules: [{{{rule}}}]\n"));
    let warned = policy(&format!("rules: [{{{rule}, mode: warn}}]\n"));
    assert_eq!(differs(&none, &enforced, &asked), ["denied", "+ enforce named /name"]);
    assert_eq!(differs(&enforced, &none, &asked), ["passed", "- enforce named /name"]);
    assert_eq!(differs(&warned, &enforced, &asked), ["denied", "+ enforce named /name", "- warn named /name"]);
    assert_eq!(differs(&none, &warned, &asked), ["+ warn named /name"]);
    // What is denied already is not denied anew, and still told of the other rule.
    let also = enforced.with(
        try_load("name: q\nscope: platform\nrules: [{id: x, expression: object.name == 'x'}]\n").unwrap().remove(0),
    );
    assert_eq!(differs(&enforced, &also, &asked), ["+ enforce x "]);
    assert_eq!(differs(&enforced, &enforced, &asked), [""; 0]);

    let writes = policy(
        "defaults: {labels: {a/b: c}}\nmutations: {capacityType: spot, registries: [{from: docker.io, to: m.example/hub}]}\n",
    );
    assert_eq!(
        differs(&none, &writes, &asked),
        [
            "/labels/a~1b none -> \"c\"",
            "/spec/capacity/type \"onDemand\" -> \"spot\"",
            "/spec/containers/0/image \"docker.io/nginx\" -> \"m.example/hub/library/nginx\"",
        ]
    );
    assert_eq!(differs(&writes, &writes, &asked), [""; 0]);
    let public = Asked::new(r#"{"containers": [{"name": "a", "image": "b"}], "network": {"publicIp": {}}}"#);
    let removes = policy("mutations: {removePublicIp: true}\ndefaults: {regions: [r1, r2]}\n");
    assert_eq!(
        differs(&none, &removes, &public),
        ["/spec/network/publicIp {} -> none", "/spec/placement/regions none -> [\"r1\",\"r2\"]",]
    );
}
