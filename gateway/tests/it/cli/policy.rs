//! `meridian policy`.

use super::harness::{Demo, finish, meridian};

#[test]
fn the_library_lists_prints_and_compiles() {
    let list = finish(meridian(&["policy", "library"])).ok();
    assert!(list.contains("allowed-registries  Images come from named registries only.\n"), "{list}");
    let folder = tempfile::tempdir().unwrap();
    let names = finish(meridian(&["policy", "library", "-o", "name"])).ok();
    for name in names.lines() {
        let text = finish(meridian(&["policy", "library", name])).ok();
        std::fs::write(folder.path().join(format!("{name}.yaml")), text).unwrap();
    }
    let path = folder.path().display().to_string();
    assert_eq!(finish(meridian(&["policy", "check", "-f", &path])).ok(), "ok; 9 policies, 15 rules\n");
    let unknown = finish(meridian(&["policy", "library", "nothing"]));
    assert_eq!(unknown.code, 3, "{unknown:?}");
}

#[test]
fn mistakes_have_file_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    let text = "apiVersion: meridian.dev/v1\nkind: Policy\nmetadata: {name: bad}\nspec:\n  scope: platform\n  rules:\n  - id: r\n    \
                expression: object.spec.contaners.all(c, c.tty)\n    mod: warn\n";
    std::fs::write(&path, text).unwrap();
    let name = path.display().to_string();
    let ran = finish(meridian(&["policy", "check", "-f", &name]));
    assert_eq!(ran.code, 1, "{ran:?}");
    // Both mistakes are told, each with its place and its cure.
    for (at, cure) in [("8:29", "did you mean `containers`?"), ("9:5", "did you mean mode?")] {
        assert!(ran.stderr.contains(&format!("--> {name}:{at} ")) && ran.stderr.contains(cure), "{at}: {ran:?}");
    }
    assert!(ran.stderr.contains("^^^^^^^^^"), "{ran:?}");
    assert_eq!(finish(meridian(&["policy", "check", "-f", "/nowhere"])).code, 1);
}

#[test]
fn a_policy_is_tried_before_it_is_used() {
    let demo = Demo::start();
    demo.run(&["create", "web-1", "--image", "nginx:1.27", "--wait"]).ok();
    demo.run(&["create", "job-1", "--image", "busybox:1", "--wait"]).ok();
    let document = |expression: &str| {
        format!(
            "apiVersion: meridian.dev/v1\nkind: Policy\nmetadata: {{name: tried}}\nspec:\n  scope: {{tenant: acme}}\n  rules:\n  - id: web\n    \
             expression: {expression}\n    message: only web\n    pointer: /name\n  mutations: {{capacityType: spot}}\n"
        )
    };
    let file = demo.file("tried.yaml", &document("object.name.startsWith('web')"));
    let live = demo.run(&["policy", "test", "-f", &file]);
    assert_eq!(live.code, 10, "{live:?}");
    assert!(live.stdout.starts_with("2 requests since 20"), "{live:?}");
    assert!(
        live.stdout
            .contains("rule web (enforce) of tenants/acme/policies/tried: would not hold for 1 of 2   (acme/job-1)"),
        "{live:?}"
    );
    assert!(live.stdout.contains("denied   acme/job-1  /name"), "{live:?}");
    assert!(live.stdout.contains("/spec/capacity/type  \"onDemand\" -> \"spot\""), "{live:?}");
    let none = demo.run(&["policy", "test", "-f", &file, "--against", "history:0s"]);
    assert!(none.code == 0 && none.stdout.starts_with("0 requests: 0 would be denied"), "{none:?}");

    // The same of a file, without a gateway.
    let list = demo.file("list.json", &demo.run(&["get", "inst", "-o", "json"]).ok());
    let offline = finish(meridian(&["policy", "test", "-f", &file, "--against", &list, "-o", "json"]));
    assert_eq!(offline.code, 10, "{offline:?}");
    let report: serde_json::Value = serde_json::from_str(&offline.stdout).unwrap();
    assert_eq!((&report["requests"], &report["denied"], &report["written"]), (&2.into(), &1.into(), &2.into()));

    // The gateway's word on a mistake is shown where the file has it.
    let bad = demo.file("bad.yaml", &document("object.nme.startsWith('web')"));
    let refused = demo.run(&["policy", "test", "-f", &bad]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("bad.yaml:8:24 ") && refused.stderr.contains("did you mean `name`?"),
        "{refused:?}"
    );
}
