//! Vendor credentials that are replaced while the gateway runs, and secrets that never come out.

mod canary;
mod place;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use serde_json::Value;

use self::place::{Caller, Place};
use super::harness::wait_until;

/// Somebody who creates one instance after the other in a region.
struct Creator {
    statuses: Arc<Mutex<Vec<(u16, Value)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Creator {
    fn start(caller: Caller, region: &str) -> Self {
        let (statuses, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (told, ends, region) = (Arc::clone(&statuses), Arc::clone(&stop), region.to_owned());
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                told.lock().unwrap().push(caller.create(&format!("{region}-{n}"), "", Some(&region)));
            }
        });
        Self { statuses, stop, thread: Some(thread) }
    }

    fn made(&self) -> usize {
        self.statuses.lock().unwrap().len()
    }

    fn end(mut self) -> Vec<(u16, Value)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.statuses.lock().unwrap())
    }
}

/// Waits until each has created some more, one of them begun after this.
fn create_more(creators: &[Creator]) {
    let before: Vec<usize> = creators.iter().map(Creator::made).collect();
    wait_until("instances are made", || creators.iter().zip(&before).all(|(creator, n)| creator.made() >= n + 2));
}

#[test]
fn vendor_keys_are_replaced_while_the_gateway_runs_and_no_create_fails() {
    let place = Place::start("info");
    let regions = place.regions();
    // One region of each vendor: credentials from a file, and from a command.
    let creators = [0, 2].map(|n| Creator::start(place.caller(), &regions[n]));
    create_more(&creators);
    let replaced = |times: u64| {
        let region = |region: &String| place.metric("meridian_credentials_total", region, "replaced") == times;
        wait_until(&format!("{times} new keys are in use everywhere"), || regions.iter().all(region));
    };

    // In order: the new key works before the old one ends.
    let first = place.keys();
    let second = place.new_keys("second");
    place.write_keys(&second);
    replaced(1);
    place.revoke(&first);
    create_more(&creators);

    // In haste: the old key is gone at once, and nobody tells the gateway.
    let third = place.new_keys("third");
    place.write_keys(&third);
    place.revoke(&second);
    create_more(&creators);
    replaced(2);

    // What cannot be used, a file that says nothing and a key that the vendor does not know, changes nothing.
    let (file, command) = (&regions[0], &regions[2]);
    place.write(file, "{ \"secretId\": 4711 }");
    place.write(command, &third[2].unknown());
    place.signal("HUP");
    for (region, why) in [(file, "gives no JSON object of texts"), (command, "the vendor refuses them")] {
        wait_until("it is told", || place.metric("meridian_credentials_broken", region, "") == 1);
        let told = place.admin_text("/readyz?verbose");
        assert!(told.contains(&format!("{region} keeps the old ones")) && told.contains(why), "{told}");
        assert!(told.contains("\"status\":\"ready\"") && !told.contains("4711"), "{told}");
        assert!(place.log().lines().any(|l| l.contains("ERROR") && l.contains(region.as_str()) && l.contains(why)));
    }
    create_more(&creators);
    place.write_keys(&third);
    place.signal("HUP");
    for region in [file, command] {
        wait_until("it is mended", || place.metric("meridian_credentials_broken", region, "") == 0);
    }
    replaced(2);

    let made: Vec<(u16, Value)> = creators.into_iter().flat_map(Creator::end).collect();
    let failed: Vec<&(u16, Value)> = made.iter().filter(|(status, _)| *status >= 300).collect();
    assert!(failed.is_empty() && made.len() >= 16, "{} of {}: {failed:?}", failed.len(), made.len());
    assert_eq!(place.instances(), made.len(), "each create is one instance");
    place.end();
}
