//! Every file under `examples/` does what its comment says.

use super::harness::{Demo, finish, root};

fn example(name: &str) -> String {
    root().join("examples").join(name).display().to_string()
}

#[test]
fn every_example_runs_and_stays_unchanged() {
    let demo = Demo::start();
    let mut files: Vec<_> = std::fs::read_dir(root().join("examples")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    for file in &files {
        let file = file.to_str().unwrap();
        let created = demo.run(&["apply", "-f", file, "--wait", "--timeout", "60s"]).ok();
        assert!(created.contains(" created: "), "{file}: {created}");
    }
    demo.run(&["wait", "report", "--for=phase=Succeeded"]).ok();
    let folder = root().join("examples").display().to_string();
    let again = demo.run(&["apply", "-f", &folder]).ok();
    assert!(again.lines().count() >= 6 && again.lines().all(|l| l.contains(" unchanged")), "{again}");

    let changed = std::fs::read_to_string(example("web.yaml")).unwrap().replace("nginx:1.27", "nginx:1.28");
    let changed = demo.run(&["apply", "-f", &demo.file("web.yaml", &changed)]);
    assert_eq!(changed.code, 6);
    assert!(changed.stderr.contains("web.yaml:13:14   image: nginx:1.28"), "{}", changed.stderr);

    let deleted = demo.run(&["delete", "-f", &example("portable.yaml"), "--yes"]).ok();
    assert_eq!(deleted, "instance/api-tencent deleted\ninstance/api-alibaba deleted\n");
}

#[test]
fn manifests_come_from_stdin_too_and_one_bad_document_does_not_stop_the_others() {
    let demo = Demo::start();
    let mut command = demo.command(&["apply", "-f", "-", "--wait"]);
    let text = "name: good\nspec: {containers: [{name: m, image: i}]}\n---\nname: bad\nspec: {containers: [{name: m, image: i, what: 1}]}\n";
    let file = demo.file("two.yaml", text);
    command.stdin(std::fs::File::open(file).unwrap());
    let ran = finish(command);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.starts_with("instance/good created"), "{ran:?}");
    assert!(ran.stderr.contains("instance/bad: error") && ran.stderr.contains("stdin:5:41"), "{ran:?}");
}
