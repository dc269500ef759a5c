//! `meridian admin` before a running demo.

use super::harness::{Demo, wait_until};

#[test]
fn an_operator_sees_and_settles_over_the_admin_listener() {
    let demo = Demo::start();
    let admin = demo.process.ready["admin"].as_str().unwrap().to_owned();
    let run = |args: &[&str]| demo.run(&[&["admin", "--admin", admin.as_str()], args].concat());
    demo.run(&["create", "web", "--image", "nginx:1.27", "--wait"]).ok();
    let none = run(&["orphans"]);
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.as_str()), (0, "", "none\n"));
    assert_eq!(run(&["operations", "--state", "undetermined", "-o", "json"]).json()["total"], 0);
    let backends = run(&["reconcile", "-o", "json"]).json();
    assert!(backends["total"].as_u64().unwrap() >= 4, "{backends}");
    assert_eq!(backends["items"][0]["removalsLeft"], 5);
    let table = run(&["reconcile"]).ok();
    assert!(table.starts_with("BACKEND ") && table.lines().count() >= 5, "{table}");
    wait_until("all were judged by the only gateway", || {
        let table = run(&["reconcile"]).ok();
        table.lines().skip(1).all(|row| row.trim_end().ends_with("this one"))
    });
    let judged = run(&["reconcile", "-o", "json"]).json()["items"][0]["judged"].clone();
    assert!(judged["here"] == true && judged["agoMs"].is_u64() && judged["gateway"].is_string(), "{judged}");

    let backend = backends["items"][0]["backend"].as_str().unwrap().to_owned();
    let missing = run(&["import", &format!("{backend}/eksci-none"), "--as-tenant", "acme", "--name", "old"]);
    assert_eq!(missing.code, 3, "{missing:?}");
    assert!(missing.stderr.contains("shows no instance eksci-none"), "{missing:?}");
    let nobody = run(&["import", &format!("{backend}/eksci-none"), "--as-tenant", "nobody", "--name", "old"]);
    assert!(nobody.code == 3 && nobody.stderr.contains("no tenant nobody"), "{nobody:?}");
    assert_eq!(run(&["settle", "acme/none", "--absent"]).code, 3);
    assert_eq!(run(&["remove", &format!("{backend}/eksci-none")]).code, 3);
    assert_eq!(run(&["ignore", &format!("{backend}/eksci-none")]).code, 3);
    assert_eq!(run(&["settle", "acme/none"]).code, 2, "what became of it must be said");
    let unheard = demo.run(&["admin", "--admin", "http://127.0.0.1:1", "orphans"]);
    assert!(unheard.code == 1 && unheard.stderr.contains("--admin or MERIDIAN_ADMIN"), "{}", unheard.stderr);
    let own = demo.run(&["get", "inst/web", "-o", "json"]).json();
    let (at, id) = (own["status"]["backend"].as_str().unwrap(), own["status"]["cloudId"].as_str().unwrap());
    let held = run(&["remove", &format!("{at}/{id}")]);
    assert_eq!(held.code, 6, "{held:?}");
}
