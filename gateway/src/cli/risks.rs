//! What a configuration allows that is right in itself and dangerous in production.

use std::time::Duration;

use meridian_adapters::registry;
use meridian_model::quantity::Span;

use crate::{config::Config, regions::build::check_backend};

/// Every risk, in the words of a person who would warn of it.
pub(super) fn of(config: &Config) -> Vec<String> {
    let mut risks = Vec::new();
    let server = &config.server;
    if !server.listen.ip().is_loopback() && server.tls.is_none() {
        let listen = server.listen;
        risks.push(format!(
            "server.listen: {listen} without [server.tls]: whoever can listen on the network reads the keys; add \
             [server.tls], or let a proxy on this host end TLS"
        ));
    }
    if !server.admin_listen.ip().is_loopback() {
        let listen = server.admin_listen;
        risks.push(format!(
            "server.adminListen: {listen}: who reaches it can drain this gateway and remove, import and settle \
             instances without a key; see that only probes and metrics do, or use 127.0.0.1"
        ));
    }
    for backend in &config.backends {
        let Ok(capability) = check_backend(backend) else { continue };
        let bound = Duration::from_millis(capability.effect_bound_ms);
        if let Some(min) = registry::effect_bound_min(backend.adapter.as_str()).filter(|min| bound < *min) {
            risks.push(format!(
                "backend {}: effectBoundMs of {} is less than the {} for which a create that was sent can still take \
                 effect: one in doubt may be made twice; leave it out",
                backend.id,
                Span(bound),
                Span(min)
            ));
        }
    }
    risks
}
