//! The limits of one tenant with their buckets: in this gateway alone, or drawn from what all gateways share.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::HeaderValue;
use meridian_model::time::Time;
use meridian_policies::rate::{
    Bucket, Limit, Take,
    named::{Costs, Named, Per, RouteClass, Standing, Tally, Verdict},
};

use super::super::{
    authenticate::lock,
    drawn::{Drawer, DrawnBucket},
};
use crate::{
    config::{LIMITS_MAX, NamedLimit, Rate},
    http::shed::Share,
    refusal::LimitHeaders,
};

/// Window of the limits of `rate`.
const WINDOW: Duration = Duration::from_secs(60);
/// Name of the limit on all requests.
pub const TENANT_LIMIT: &str = "tenant";
/// Name of the limit on creates.
pub const CREATE_LIMIT: &str = "create";

/// Principals of a tenant that have a bucket of their own in one limit. Who comes when none of theirs can be forgotten
/// shares one with all who do.
const PRINCIPALS_MAX: usize = 10_000;

/// Whose bucket all share for whom there is no room. No principal is called so: a key's id is not empty.
const CROWD: &str = "";

type Limits = Named<Arc<str>>;

/// The limits of one tenant.
#[derive(Debug)]
pub struct TenantLimits {
    slots: Vec<Arc<Slot>>,
    policy: HeaderValue,
    /// What it has of the requests in work.
    pub share: Arc<Share>,
}

/// A limit and its buckets, which outlive a reload that leaves it as it is.
#[derive(Debug)]
struct Slot {
    limit: Limits,
    tokens: Tokens,
}

#[derive(Debug)]
enum Tokens {
    /// In this gateway alone.
    Here(Mutex<Bucket>),
    HereEach(Mutex<HashMap<String, Bucket>>),
    /// Where other gateways draw from them too.
    Drawn(Arc<Drawer>, Arc<DrawnBucket>),
    DrawnEach(Arc<Drawer>, String, Mutex<HashMap<String, Arc<DrawnBucket>>>),
}

/// What one look at the limits gave.
#[derive(Debug)]
pub struct Decided {
    /// How the closest limit stands.
    pub headers: LimitHeaders,
    /// The limit that refused, and when to come back.
    pub refused: Option<(Arc<str>, Duration)>,
    /// Bits of the shadow limits that would have refused.
    pub shadowed: u32,
}

/// What a request took so far.
#[derive(Debug, Default)]
struct Taking {
    tally: Tally,
    /// Bits of the limits that gave.
    taken: u32,
    shadowed: u32,
}

impl Taking {
    /// Takes in an answer; true when the request is refused.
    fn note(&mut self, which: usize, limit: &Limits, cost: u32, take: Take) -> bool {
        let bit = 1_u32 << which;
        match take {
            Take::Taken { .. } => self.taken |= bit,
            Take::Refused { .. } | Take::TooLarge if limit.shadow => self.shadowed |= bit,
            Take::Refused { .. } | Take::TooLarge => {}
        }
        self.tally.take(which, limit, cost, take)
    }
}

fn limit(quota: u32, burst: u32) -> Limit {
    Limit::new(quota.max(1), WINDOW, burst.max(1))
        .expect("invariant: quota and burst are at least 1, the window is 60 s")
}

impl Slot {
    fn new(owner: &str, limit: Limits, now: Time, drawer: Option<&Arc<Drawer>>) -> Self {
        let name = || format!("rate/{owner}/{}", limit.name);
        let tokens = match (limit.per, drawer) {
            (Per::Tenant, None) => Tokens::Here(Mutex::new(Bucket::new(limit.limit, now))),
            (Per::Principal, None) => Tokens::HereEach(Mutex::default()),
            (Per::Tenant, Some(drawer)) => {
                Tokens::Drawn(Arc::clone(drawer), drawer.bucket(name(), limit.limit, limit.costs.most()))
            }
            (Per::Principal, Some(drawer)) => Tokens::DrawnEach(Arc::clone(drawer), name(), Mutex::default()),
        };
        Self { limit, tokens }
    }

    /// Takes tokens, or says when to come back; `None` when only the shared store knows.
    fn take_now(&self, principal: &str, cost: u32, now: Time) -> Option<Take> {
        match &self.tokens {
            Tokens::Here(bucket) => Some(lock(bucket).take(cost, now)),
            Tokens::HereEach(buckets) => {
                let mut buckets = lock(buckets);
                Some(own(&mut buckets, principal, self.limit.limit, now).take(cost, now))
            }
            Tokens::Drawn(drawer, bucket) => drawer.take_now(bucket, cost),
            Tokens::DrawnEach(drawer, ..) => drawer.take_now(&self.drawn_of(principal)?, cost),
        }
    }

    /// As [`Self::take_now`], waiting for a draw.
    async fn take(&self, principal: &str, cost: u32, now: Time) -> Take {
        match (&self.tokens, self.drawn_of(principal)) {
            (Tokens::Drawn(drawer, _) | Tokens::DrawnEach(drawer, ..), Some(bucket)) => {
                drawer.take(&bucket, cost).await
            }
            _ => self.take_now(principal, cost, now).unwrap_or(Take::TooLarge),
        }
    }

    fn refund(&self, principal: &str, cost: u32) {
        match &self.tokens {
            Tokens::Here(bucket) => lock(bucket).refund(cost),
            Tokens::HereEach(buckets) => {
                let mut buckets = lock(buckets);
                let name = if buckets.contains_key(principal) { principal } else { CROWD };
                if let Some(bucket) = buckets.get_mut(name) {
                    bucket.refund(cost);
                }
            }
            Tokens::Drawn(drawer, _) | Tokens::DrawnEach(drawer, ..) => {
                if let Some(bucket) = self.drawn_of(principal) {
                    drawer.refund(&bucket, cost);
                }
            }
        }
    }

    /// The shared bucket that counts a principal.
    fn drawn_of(&self, principal: &str) -> Option<Arc<DrawnBucket>> {
        match &self.tokens {
            Tokens::Here(_) | Tokens::HereEach(_) => None,
            Tokens::Drawn(_, bucket) => Some(Arc::clone(bucket)),
            Tokens::DrawnEach(drawer, prefix, buckets) => {
                let mut buckets = lock(buckets);
                if let Some(bucket) = buckets.get(principal) {
                    return Some(Arc::clone(bucket));
                }
                if buckets.len() >= PRINCIPALS_MAX {
                    // What nobody else holds is in use by nobody; what it was drawn for is dropped.
                    buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1);
                }
                let name = if buckets.len() < PRINCIPALS_MAX { principal } else { CROWD };
                let fresh = || drawer.bucket(format!("{prefix}/{name}"), self.limit.limit, self.limit.costs.most());
                Some(Arc::clone(buckets.entry(name.to_owned()).or_insert_with(fresh)))
            }
        }
    }
}

/// The bucket of a principal; a full one is the same as a new one, so those are forgotten when room is needed.
fn own<'b>(buckets: &'b mut HashMap<String, Bucket>, principal: &str, limit: Limit, now: Time) -> &'b mut Bucket {
    if !buckets.contains_key(principal) && buckets.len() >= PRINCIPALS_MAX {
        buckets.retain(|_, bucket| !bucket.is_full(now));
    }
    let room = buckets.len() < PRINCIPALS_MAX || buckets.contains_key(principal);
    let name = if room { principal } else { CROWD };
    buckets.entry(name.to_owned()).or_insert_with(|| Bucket::new(limit, now))
}

impl TenantLimits {
    /// The limits of a tenant, with full buckets, or its part of those that a drawer shares. Of limits that stood before
    /// and are as they were the buckets are taken over.
    #[must_use]
    pub fn new(
        owner: &str,
        (rate, named): (&Rate, &[NamedLimit]),
        now: Time,
        drawer: Option<&Arc<Drawer>>,
        before: Option<&Self>,
    ) -> Self {
        let tenant = Named {
            name: Arc::from(TENANT_LIMIT),
            per: Per::Tenant,
            costs: Costs::all(1),
            limit: limit(rate.requests_per_minute, rate.burst),
            shadow: false,
        };
        let create = Named {
            name: Arc::from(CREATE_LIMIT),
            costs: Costs::default().with(RouteClass::Create, 1),
            limit: limit(rate.creates_per_minute, rate.create_burst),
            ..tenant.clone()
        };
        let further = named.iter().take(LIMITS_MAX).filter_map(NamedLimit::named::<Arc<str>>);
        let slots: Vec<Arc<Slot>> = [tenant, create]
            .into_iter()
            .chain(further)
            .map(|limit| {
                let kept = before.and_then(|b| b.slots.iter().find(|slot| slot.limit == limit));
                kept.map_or_else(|| Arc::new(Slot::new(owner, limit, now, drawer)), Arc::clone)
            })
            .collect();
        let policy = policy(slots.iter().map(|slot| &slot.limit));
        let share = before.map_or_else(Arc::default, |b| Arc::clone(&b.share));
        Self { slots, policy, share }
    }

    /// Takes what a request costs at every limit, or says which one refuses; `None` when only the shared store knows.
    pub fn take_now(&self, class: RouteClass, principal: &str, now: Time) -> Option<Decided> {
        let mut taking = Taking::default();
        for (which, slot) in self.slots.iter().enumerate() {
            let Some(cost) = slot.limit.costs.of(class) else { continue };
            let Some(take) = slot.take_now(principal, cost, now) else {
                self.give_back(taking.taken, class, principal);
                return None;
            };
            if taking.note(which, &slot.limit, cost, take) {
                self.give_back(taking.taken, class, principal);
                break;
            }
        }
        Some(self.decided(&taking))
    }

    /// As [`Self::take_now`], waiting for tokens where nothing is known.
    pub async fn take(&self, class: RouteClass, principal: &str, now: Time) -> Decided {
        let mut taking = Taking::default();
        for (which, slot) in self.slots.iter().enumerate() {
            let Some(cost) = slot.limit.costs.of(class) else { continue };
            let take = slot.take(principal, cost, now).await;
            if taking.note(which, &slot.limit, cost, take) {
                self.give_back(taking.taken, class, principal);
                break;
            }
        }
        self.decided(&taking)
    }

    /// The names of limits by their bits.
    pub(super) fn names(&self, bits: u32) -> impl Iterator<Item = &str> {
        self.slots.iter().enumerate().filter(move |(n, _)| bits & (1 << n) != 0).map(|(_, slot)| &*slot.limit.name)
    }

    /// A request that is not served counts against no limit.
    fn give_back(&self, taken: u32, class: RouteClass, principal: &str) {
        for (_, slot) in self.slots.iter().enumerate().filter(|(n, _)| taken & (1 << n) != 0) {
            slot.refund(principal, slot.limit.costs.of(class).unwrap_or_default());
        }
    }

    fn decided(&self, taking: &Taking) -> Decided {
        let Verdict { closest, refused } = taking.tally.verdict();
        let of = |standing: Standing| Some((&self.slots.get(standing.which)?.limit.name, standing));
        let closest = closest.and_then(of);
        let state = closest.map(|(name, Standing { remaining, after, .. })| {
            HeaderValue::try_from(format!("\"{name}\";r={remaining};t={}", ceil_seconds(after)))
        });
        let state = state.and_then(Result::ok).unwrap_or(HeaderValue::from_static("\"tenant\";r=0"));
        let refused = closest.filter(|_| refused).map(|(name, standing)| (Arc::clone(name), standing.after));
        Decided { headers: LimitHeaders { policy: self.policy.clone(), state }, refused, shadowed: taking.shadowed }
    }
}

/// The `RateLimit-Policy` header (draft-ietf-httpapi-ratelimit-headers-11, section 3): what never refuses is left out.
fn policy<'l>(limits: impl Iterator<Item = &'l Limits>) -> HeaderValue {
    let mut text = String::new();
    for limit in limits.filter(|limit| !limit.shadow) {
        let comma = if text.is_empty() { "" } else { ", " };
        let (quota, window) = (limit.limit.quota(), limit.limit.window().as_secs());
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}\"{}\";q={quota};w={window}", limit.name);
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"tenant\""))
}

pub(super) fn ceil_seconds(d: Duration) -> u32 {
    u32::try_from(d.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}
