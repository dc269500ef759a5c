use std::{convert::Infallible, io};

use http_body_util::Full;
use hyper::{Response, service::service_fn};
use hyper_util::rt::TokioIo;
use meridian_adapters::dial::{Dial, Dialling};
use meridian_model::ids::TenantId;
use meridian_policies::access::Role;
use serde_json::{Value, json};

use super::*;
use crate::identity::{grant::Condition, signer::Signer};

const ISSUER: &str = "http://issuer.example";
const NOW_MS: i64 = 1_767_225_600_000;

/// An issuer in memory: what it publishes, and how often it was asked for keys.
#[derive(Debug, Default)]
struct Published {
    keys: Mutex<Vec<Value>>,
    metadata: Mutex<Option<Value>>,
    is_down: Mutex<bool>,
    /// Takes connections and never answers.
    is_mute: Mutex<bool>,
    asked: Mutex<u32>,
}

impl Published {
    fn answer(&self, path: &str) -> (u16, Vec<u8>) {
        let body = match path {
            "/.well-known/openid-configuration" => {
                let usual = json!({"issuer": ISSUER, "jwks_uri": format!("{ISSUER}/keys")});
                lock(&self.metadata).clone().unwrap_or(usual)
            }
            "/keys" => {
                *lock(&self.asked) += 1;
                json!({ "keys": *lock(&self.keys) })
            }
            _ => return (404, Vec::new()),
        };
        (200, serde_json::to_vec(&body).unwrap())
    }

    fn publish(&self, signers: &[&Signer]) {
        *lock(&self.keys) = signers.iter().map(|s| s.jwk()).collect();
    }

    fn asked(&self) -> u32 {
        *lock(&self.asked)
    }
}

#[derive(Debug)]
struct Line(Arc<Published>);

impl Dial for Line {
    fn dial(&self, host: &str, _: u16) -> Dialling {
        assert_eq!(host, "issuer.example");
        let published = Arc::clone(&self.0);
        Box::pin(async move {
            if *lock(&published.is_down) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            if *lock(&published.is_mute) {
                std::future::pending::<()>().await;
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let (status, body) = published.answer(request.uri().path());
                let reply = Response::builder().status(status).header("connection", "close");
                std::future::ready(Ok::<_, Infallible>(reply.body(Full::new(Bytes::from(body))).unwrap()))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
            Ok(Box::new(ours) as Box<dyn meridian_adapters::dial::Stream>)
        })
    }
}

struct World {
    published: Arc<Published>,
    issuer: Arc<Issuer>,
    began: Instant,
    stop: CancellationToken,
}

impl World {
    /// An issuer that publishes these keys, and a gateway that has fetched them.
    async fn with(signers: &[&Signer]) -> Self {
        let world = Self::unfetched(signers);
        tokio::spawn(Arc::clone(&world.issuer).run(world.stop.clone()));
        world.issuer.fetched.subscribe().changed().await.unwrap();
        world
    }

    fn unfetched(signers: &[&Signer]) -> Self {
        let (published, began) = (Arc::new(Published::default()), Instant::now());
        published.publish(signers);
        let grant = Grant { tenant: Some(TenantId::new("acme").unwrap()), role: Role::Operator, project: None };
        let conditions = vec![Condition { claim: "groups".to_owned(), value: "acme-ops".to_owned() }];
        let rules = Rules {
            name: "corp".to_owned(),
            issuer: ISSUER.to_owned(),
            jwks_uri: None,
            audiences: vec!["meridian".to_owned()],
            algorithms: vec![Algorithm::ES256],
            leeway: Duration::ZERO,
            lifetime_max: Duration::from_secs(7200),
            principal_claim: "email".to_owned(),
            grants: vec![ClaimGrant { conditions, grant }],
        };
        let http = HttpClient::over(Arc::new(Line(Arc::clone(&published))));
        let clock = Clock::from_fn(move || Time::from_unix_ms(NOW_MS) + began.elapsed());
        let issuer = Issuer::new(rules, http, clock, IdentityMetrics::default());
        Self { published, issuer, began, stop: CancellationToken::new() }
    }

    fn token(&self, signer: &Signer, changes: &[(&str, Value)]) -> String {
        let now = (Time::from_unix_ms(NOW_MS) + self.began.elapsed()).unix_seconds();
        let mut claims = json!({
            "iss": ISSUER, "aud": "meridian", "email": "u1@corp.example", "groups": ["acme-ops"],
            "iat": now, "exp": now + 600
        });
        for (name, value) in changes {
            claims[*name] = value.clone();
        }
        signer.sign(&claims)
    }

    async fn check(&self, signer: &Signer) -> Checked {
        self.issuer.check(&self.token(signer, &[])).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_proves_a_principal_and_its_grant() {
    let signer = Signer::ec("a");
    let world = World::with(&[&signer]).await;
    let token = world.token(&signer, &[]);
    for _ in 0..2 {
        let Checked::Subject(subject) = world.issuer.check(&token).await else { panic!("not believed") };
        assert_eq!(subject.principal, "oidc:corp:u1@corp.example");
        assert_eq!(subject.grant.tenant.as_ref().map(TenantId::as_str), Some("acme"));
    }
    // The second time it was remembered; its end is still its end.
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(world.issuer.check(&token).await, Checked::Refused(Fault::Expired));
    let stranger = world.token(&signer, &[("groups", json!(["other"]))]);
    assert_eq!(world.issuer.check(&stranger).await, Checked::NoGrant("oidc:corp:u1@corp.example".to_owned()));
    for name in [json!(null), json!(""), json!("a\nb"), json!(7), json!("x".repeat(257))] {
        let token = world.token(&signer, &[("email", name.clone())]);
        assert_eq!(world.issuer.check(&token).await, Checked::Refused(Fault::Claim("of the principal")), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollover_of_keys_is_followed_at_once_and_a_withdrawn_key_ends() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let world = World::with(&[&old]).await;
    let of_old = world.token(&old, &[]);
    assert!(matches!(world.issuer.check(&of_old).await, Checked::Subject(_)));
    world.published.publish(&[&new]);
    tokio::time::advance(FORCED_INTERVAL).await;
    assert!(matches!(world.check(&new).await, Checked::Subject(_)), "the token waited for the new keys");
    assert_eq!(world.issuer.check(&of_old).await, Checked::Refused(Fault::UnknownKey), "what was remembered went too");
}

#[tokio::test(start_paused = true)]
async fn strangers_do_not_make_us_ask_the_issuer() {
    let (mine, stranger) = (Signer::ec("mine"), Signer::ec("stranger"));
    let world = World::with(&[&mine]).await;
    let (began, before) = (Instant::now(), world.published.asked());
    for _ in 0..100 {
        assert_eq!(world.check(&stranger).await, Checked::Refused(Fault::UnknownKey));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let fetches = u64::from(world.published.asked() - before);
    let most = began.elapsed().as_secs() / FORCED_INTERVAL.as_secs() + 1;
    assert!(fetches >= 5 && fetches <= most, "{fetches} fetches in {:?}", began.elapsed());
    assert!(matches!(world.check(&mine).await, Checked::Subject(_)));
}

#[tokio::test(start_paused = true)]
async fn strangers_wait_only_for_a_fetch_that_may_come_in_time_and_few_at_once() {
    let (mine, stranger) = (Signer::ec("mine"), Signer::ec("stranger"));
    let world = World::with(&[&mine]).await;
    let waited = async || {
        let asked = (0..2 * WAITING_MAX).map(async |_| {
            let began = Instant::now();
            assert_eq!(world.check(&stranger).await, Checked::Refused(Fault::UnknownKey));
            began.elapsed()
        });
        futures_util::future::join_all(asked).await
    };
    assert!(waited().await.iter().all(Duration::is_zero), "the next fetch is too far away to be waited for");
    *lock(&world.published.is_mute) = true;
    tokio::time::sleep(FORCED_INTERVAL).await;
    let waited = waited().await;
    assert_eq!(waited.iter().filter(|waited| **waited >= KEY_WAIT).count(), WAITING_MAX);
    assert_eq!(waited.iter().filter(|waited| waited.is_zero()).count(), WAITING_MAX);
    assert!(matches!(world.check(&mine).await, Checked::Subject(_)), "whose key is held waits for nothing");
}

#[tokio::test(start_paused = true)]
async fn keys_outlast_an_issuer_that_is_away_for_an_hour_and_no_longer() {
    let signer = Signer::ec("a");
    let world = World::with(&[&signer]).await;
    *lock(&world.published.is_down) = true;
    tokio::time::sleep(KEYS_AGE_MAX - Duration::from_secs(30)).await;
    assert!(matches!(world.check(&signer).await, Checked::Subject(_)));
    assert!(world.issuer.standing().unwrap().contains("the last fetch failed"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.check(&signer).await, Checked::KeysMissing);
    assert!(world.issuer.standing().is_err());
    *lock(&world.published.is_down) = false;
    tokio::time::sleep(RETRY_INTERVAL.1).await;
    assert!(matches!(world.check(&signer).await, Checked::Subject(_)));
    assert!(!world.issuer.standing().unwrap().contains("failed"));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_comes_before_the_first_keys_waits_for_them() {
    let signer = Signer::ec("a");
    let world = World::unfetched(&[&signer]);
    assert_eq!(world.check(&signer).await, Checked::KeysMissing, "nobody fetches");
    tokio::spawn(Arc::clone(&world.issuer).run(world.stop.clone()));
    assert!(matches!(world.check(&signer).await, Checked::Subject(_)));
}

#[tokio::test(start_paused = true)]
async fn the_metadata_has_to_be_the_issuers() {
    let signer = Signer::ec("a");
    for (metadata, why) in [
        (json!({"issuer": "http://other.example", "jwks_uri": format!("{ISSUER}/keys")}), "of the issuer"),
        (json!({"issuer": ISSUER}), "not the metadata"),
        (json!({"issuer": ISSUER, "jwks_uri": format!("{ISSUER}/nothing")}), "404"),
    ] {
        let world = World::unfetched(&[&signer]);
        *lock(&world.published.metadata) = Some(metadata);
        let error = world.issuer.fetch().await.unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let empty = World::unfetched(&[]);
    assert!(empty.issuer.fetch().await.unwrap_err().contains("no key"));
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded() {
    let signer = Signer::ec("a");
    let world = World::with(&[&signer]).await;
    let held = world.issuer.held.load_full().unwrap();
    let subject = match world.check(&signer).await {
        Checked::Subject(subject) => subject,
        other => panic!("{other:?}"),
    };
    for n in 0..REMEMBERED_MAX {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        lock(&held.remembered).insert(digest, Arc::clone(&subject));
    }
    assert!(matches!(world.check(&signer).await, Checked::Subject(_)));
    let token = world.token(&signer, &[("email", json!("u2"))]);
    assert!(matches!(world.issuer.check(&token).await, Checked::Subject(_)));
    assert!(lock(&held.remembered).len() <= REMEMBERED_MAX);
}
