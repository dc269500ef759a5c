//! The same on a real Redis: each gateway has a connection of its own, as on machines of their own.

use std::sync::Arc;

use meridian_cloudsim::Scenario;
use meridian_gateway::core::Core;
use meridian_ledger::{
    conformance::redis_server::RedisServer,
    embedded::SealKey,
    redis::{LeaseTime, LedgerOptions, Options, Redis, RedisLedger},
};

use super::{
    LEASE, a_hundred_keys_eight_times, a_quota_of_37_is_met_and_not_passed, another_ends_what_a_killed_one_began,
};
use crate::journeys::world::World;

/// A ledger of its own on a Redis.
pub fn ledger(port: u16) -> Arc<RedisLedger> {
    let options =
        LedgerOptions { prefix: "test".to_owned(), key: SealKey::new([7; 32]), time: LeaseTime::Server, acks: None };
    Arc::new(RedisLedger::new(Redis::connect(Options::single("127.0.0.1", port)).unwrap(), options).unwrap())
}

async fn pair() -> (RedisServer, World, Arc<Core>) {
    pair_with(LEASE).await
}

/// Two gateways with more in their configuration.
pub async fn pair_with(extra: &str) -> (RedisServer, World, Arc<Core>) {
    let server = RedisServer::start(&[]);
    let first = ledger(server.port());
    first.initialise().await.unwrap();
    let world = World::on(first, Scenario::demo(7), extra).await;
    let b = world.another(ledger(server.port()), extra).await;
    (server, world, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_keys_eight_times_at_two_gateways_on_a_redis_are_a_hundred_instances() {
    let server = RedisServer::start(&[]);
    let first = ledger(server.port());
    first.initialise().await.unwrap();
    let world = World::unhurried(first).await;
    let b = world.another_unhurried(ledger(server.port())).await;
    a_hundred_keys_eight_times(&world, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_hammered_through_two_gateways_on_a_redis_is_met_and_not_passed() {
    let (_server, world, b) = pair().await;
    a_quota_of_37_is_met_and_not_passed(&world, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_gateway_was_creating_another_on_the_redis_ends_once() {
    let (server, world, b) = pair().await;
    let port = server.port();
    another_ends_what_a_killed_one_began(&world, &b, move || ledger(port)).await;
}
