//! `meridian policy`.

use super::harness::{finish, meridian};

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
