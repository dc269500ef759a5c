use std::{fs, path::Path};

use meridian_adapters::{Page, http::HttpClient, registry};
use meridian_model::{error::Effect, ids::CloudId, time::Time};
use tokio::sync::Notify;

use super::*;
use crate::secrets::source::{Program, Source};

/// An adapter that answers with its key as an instance's id. One with a key that begins with `wrong` is refused; one with
/// the key `slow` answers when it is let.
fn adapter(key: &str, let_go: &Arc<Notify>) -> BoxAdapter {
    let (key, let_go) = (key.to_owned(), Arc::clone(let_go));
    BoxAdapter::new(tower::service_fn(move |call: Call| {
        let (key, let_go) = (key.clone(), Arc::clone(&let_go));
        async move {
            if key.starts_with("wrong") {
                return Err(AdapterError::new(FaultKind::Credentials, Effect::NotApplied, "AuthFailure", key));
            }
            if let Request::List(_) = call.request {
                return Ok(Reply::Page(Page::default()));
            }
            if key == "slow" {
                let_go.notified().await;
            }
            Ok(Reply::Created(CloudId::new(key).unwrap()))
        }
    }))
}

/// A backend whose id and key are files, and how it is known to others.
struct World {
    folder: tempfile::TempDir,
    slot: Slot,
    let_go: Arc<Notify>,
}

impl World {
    fn new(key: &str) -> (Self, Rotation) {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "key", key);
        put(folder.path(), "more", "{}");
        let credentials = Source::File(folder.path().join("more"));
        Self::with(folder, "secretKey = \"file:key\"", credentials)
    }

    /// A backend whose key a command prints, which is run again each hour.
    fn of_command(key: &str) -> (Self, Rotation) {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "printed", &printed(key));
        let command = vec!["cat".to_owned(), folder.path().join("printed").display().to_string()];
        let (timeout, refresh) = (Duration::from_secs(10), Duration::from_secs(3600));
        Self::with(folder, "", Source::Command(Program { command, timeout, refresh }))
    }

    fn with(folder: tempfile::TempDir, key_setting: &str, credentials: Source) -> (Self, Rotation) {
        let let_go = Arc::<Notify>::default();
        let (http, let_go_of) = (HttpClient::new().unwrap(), Arc::clone(&let_go));
        let build: Build = Arc::new(move |settings| {
            let built = registry::build("tencent-eksci", settings.clone(), http.clone())?;
            let key = settings["secretKey"].as_str().unwrap().to_owned();
            Ok(BoxedBackend { service: adapter(&key, &let_go_of), ..built })
        });
        put(folder.path(), "id", "id-1");
        let written = format!("region = \"r\"\nsecretId = \"file:id\"\n{key_setting}");
        let sources = Settings::new(written.parse().unwrap(), folder.path(), Some(credentials));
        let settings = sources.read(None).unwrap().settings;
        let boxed = build(settings.clone()).unwrap();
        let (slot, asked) = Slot::new(boxed.service);
        let rotation = Rotation::new(Parts {
            id: "gz".parse().unwrap(),
            sources,
            settings,
            build,
            capability: boxed.capability,
            slot: slot.clone(),
            asked,
            clock: Clock::from_fn(|| Time::from_unix_ms(0)),
            entropy: Entropy::from_fn(|| 0),
            metrics: CoreMetrics::detached(),
        });
        (Self { folder, slot, let_go }, rotation.unwrap())
    }

    fn put(&self, name: &str, text: &str) {
        put(self.folder.path(), name, text);
    }

    async fn key(&self) -> String {
        key_of(self.slot.clone()).await
    }

    /// How long it takes until a key is in use.
    async fn until_used(&self, key: &str) -> Duration {
        let start = Instant::now();
        while self.key().await != key {
            assert!(start.elapsed() < Duration::from_secs(60), "{key} was never used");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }
}

/// What the command prints.
fn printed(key: &str) -> String {
    serde_json::json!({ "secretKey": key }).to_string()
}

fn put(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), format!("{text}\n")).unwrap();
}

async fn key_of(mut slot: Slot) -> String {
    let at = CallContext { signed_at: Time::from_unix_ms(0), nonce: 0, timeout: Duration::from_secs(1) };
    match slot.call(Call { at, request: Request::Delete(CloudId::new("x").unwrap()) }).await {
        Ok(Reply::Created(id)) => id.to_string(),
        Err(error) => error.message,
        other => panic!("{other:?}"),
    }
}

fn trouble(rotation: &Rotation) -> String {
    rotation.trouble.lock().unwrap().clone().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_end_with_the_old_adapter() {
    let (world, mut rotation) = World::new("slow");
    let under_way = tokio::spawn(key_of(world.slot.clone()));
    tokio::task::yield_now().await;
    world.put("key", "new");
    rotation.look(false).await;
    assert_eq!((world.key().await.as_str(), world.slot.generation()), ("new", 1));
    assert!(!under_way.is_finished());
    world.let_go.notify_one();
    assert_eq!(under_way.await.unwrap(), "slow");
    rotation.look(false).await;
    assert_eq!(world.slot.generation(), 1, "what has not changed is left alone");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_changes_nothing_and_is_told_until_it_is_mended() {
    let (world, mut rotation) = World::new("old");
    for (name, text, why) in [
        ("key", "wrong-1", "the vendor refuses them: AuthFailure"),
        ("id", "", "settings.secretId: file:"),
        ("id", "two words", "settings.secretId: must be visible ASCII characters without spaces"),
        ("more", "{\"effectBoundMs\": \"3\"}", "settings.effectBoundMs: "),
        ("more", "{\"secretKey\": \"x\"}", "gives `secretKey`, which stands in `settings` too"),
        ("more", "hunter2", "gives no JSON object of texts (line 1, column 1)"),
        ("more", "{\"regoin\": \"x\"}", "unknown field `regoin`"),
    ] {
        let path = world.folder.path().join(name);
        let good = fs::read(&path).unwrap();
        world.put(name, text);
        rotation.look(true).await;
        let told = trouble(&rotation);
        assert!(told.contains(why) && !told.contains("wrong-1") && !told.contains("hunter2"), "{name} {text}: {told}");
        assert_eq!((world.key().await.as_str(), world.slot.generation()), ("old", 0), "{name} {text}");
        fs::write(path, good).unwrap();
        rotation.look(true).await;
        assert_eq!((trouble(&rotation), world.slot.generation()), (String::new(), 0), "{name} {text}");
    }
    fs::remove_file(world.folder.path().join("key")).unwrap();
    rotation.look(true).await;
    assert!(trouble(&rotation).contains("settings.secretKey: cannot read"), "{}", trouble(&rotation));
    world.put("key", "new");
    rotation.look(true).await;
    assert_eq!((trouble(&rotation), world.key().await.as_str()), (String::new(), "new"));
}

#[tokio::test(start_paused = true)]
async fn what_is_being_written_is_not_taken_for_what_it_will_be() {
    let (world, mut rotation) = World::new("old");
    world.put("key", "half");
    let folder = world.folder.path().to_owned();
    let writing = tokio::spawn(async move {
        tokio::time::sleep(SETTLED_AFTER / 2).await;
        put(&folder, "key", "whole");
    });
    rotation.look(true).await;
    writing.await.unwrap();
    assert_eq!((world.key().await.as_str(), trouble(&rotation)), ("old", String::new()));
    rotation.look(false).await;
    assert_eq!(world.key().await, "whole");
}

#[tokio::test(start_paused = true)]
async fn files_are_read_by_themselves_and_at_once_when_a_person_or_a_refusal_asks() {
    let (world, rotation) = World::new("wrong");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let credentials = Credentials::start(vec![rotation], (&tasks, &stop));
    assert!(!credentials.is_empty() && credentials.troubles().is_empty());

    world.put("key", "one");
    let by_itself = world.until_used("one").await;
    assert!(by_itself > LOOK_EACH - SETTLED_AFTER && by_itself < LOOK_EACH + 2 * SETTLED_AFTER, "{by_itself:?}");
    world.put("key", "two");
    credentials.reload();
    let by_person = world.until_used("two").await;
    assert!(by_person < 2 * SETTLED_AFTER, "{by_person:?}");

    world.put("key", "three");
    assert!(world.slot.renewed(world.slot.generation()).await, "who was refused waits for it");
    assert_eq!(world.key().await, "three");
    assert!(world.slot.renewed(0).await, "what was refused is not in use any more");
    let start = Instant::now();
    world.put("key", "four");
    assert!(!world.slot.renewed(world.slot.generation()).await);
    assert_eq!(start.elapsed(), Duration::ZERO, "who is refused again so soon does not wait");
    world.slot.refused(world.slot.generation());
    world.until_used("four").await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    assert!(!world.slot.renewed(world.slot.generation()).await, "nobody looks any more");
}

/// The clock runs: a command is waited for in real time.
#[tokio::test]
async fn a_command_that_gives_what_is_refused_is_run_until_it_does_not() {
    let (world, mut rotation) = World::of_command("old");
    world.put("printed", &printed("wrong-1"));
    rotation.tick().await;
    assert_eq!((trouble(&rotation).as_str(), world.slot.generation()), ("", 0), "its time has not come");
    // The vendor refused the old key.
    rotation.look(true).await;
    for _ in 0..2 {
        assert!(trouble(&rotation).contains("the vendor refuses them"), "{}", trouble(&rotation));
        rotation.tick().await;
    }
    world.put("printed", &printed("new"));
    rotation.tick().await;
    assert_eq!((trouble(&rotation), world.key().await), (String::new(), "new".to_owned()));
    world.put("printed", &printed("later"));
    rotation.tick().await;
    assert_eq!(world.key().await, "new", "an hour from the last run that was good");
}
