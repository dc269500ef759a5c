//! Dialects: the wire languages of the gateway. They translate to and from the unified model and decide nothing.
//!
//! Today there is one, REST. A dialect is chosen with the route, before anything else is known of a request, so
//! that every refusal can be spoken in it.

pub mod rest;

use std::{fmt::Debug, future::Future, pin::Pin, sync::Arc};

use http::{HeaderValue, Method, Request};
use hyper::body::Incoming;

use crate::{
    admin::Health,
    clock::Clock,
    config::Config,
    http::{Meta, Reply},
    operation::{Action, Outcome},
    refusal::Rejection,
};

/// A boxed future of a dialect.
pub type DialectFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Rejection>> + Send + 'a>>;

/// What a request costs and may do, as far as its route tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Needs no credential, is never shed or counted.
    Public,
    /// Reads one resource.
    Read,
    /// Reads many resources, or a decision record: the first to be shed.
    List,
    /// Makes something.
    Create,
    /// Removes something.
    Delete,
    /// Changes what is declared: tenants, keys.
    Change,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The path's template, a label of spans and metrics.
    pub template: &'static str,
    /// What it costs and may do.
    pub class: Class,
    /// The dialect's own name of it.
    pub endpoint: rest::Endpoint,
    /// Byte ranges of the path's parameters, in order.
    pub params: [(usize, usize); ROUTE_PARAMS_MAX],
}

/// Most parameters of a path.
pub const ROUTE_PARAMS_MAX: usize = 2;

/// Bounds of a request body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Most bytes.
    pub len_max: usize,
    /// Least bytes per second after the first second; 0 is no bound.
    pub rate_min: usize,
}

/// What a dialect made of a request.
#[derive(Debug)]
pub enum Decoded {
    /// Something for the operation stack, and how its answer is to be written.
    Action(Action, AnswerPlan),
    /// Answered by the dialect itself: description, health, version.
    Answered(Reply),
}

/// What of a request shapes its answer.
#[derive(Debug, Default)]
pub struct AnswerPlan {
    /// Nothing will be changed.
    pub validate_only: bool,
    /// `If-None-Match`.
    pub if_none_match: Option<HeaderValue>,
    /// Which preference was followed.
    pub preference_applied: Option<HeaderValue>,
    /// What a page token of the answer is bound to.
    pub page_binding: Option<Vec<u8>>,
    /// Unknown fields that were let pass.
    pub warnings: Vec<String>,
    /// How much of the outcome is answered.
    pub view: View,
}

/// How much of an outcome is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum View {
    /// All of it.
    #[default]
    Whole,
    /// Only the zones of a region.
    Zones,
}

/// A wire language.
pub trait Dialect: Debug + Send + Sync + 'static {
    /// Name in spans and metrics.
    fn name(&self) -> &'static str;

    /// Picks the route of a path. What does not exist is a route too: it is refused after authentication, so that
    /// a stranger learns nothing of what there is.
    fn route(&self, method: &Method, path: &str) -> Route;

    /// Reads a request, its body included.
    ///
    /// # Errors
    /// [`Rejection`] for everything that is wrong with it, all faults at once where they are independent.
    ///
    /// # Cancel safety
    /// Nothing is kept of a request that was not read to its end.
    fn decode<'a>(&'a self, request: Request<Incoming>, meta: &'a Meta, body: BodyLimits)
    -> DialectFuture<'a, Decoded>;

    /// Writes an answer.
    ///
    /// # Errors
    /// [`Rejection`] only for faults of ours.
    fn encode(&self, outcome: Outcome, plan: &AnswerPlan) -> Result<Reply, Rejection>;

    /// Writes a refusal.
    fn encode_refusal(&self, rejection: &Rejection, request_id: &str, path: &str) -> Reply;
}

/// All dialects.
#[derive(Debug, Clone)]
pub struct Dialects {
    rest: Arc<dyn Dialect>,
    /// Stands in for a request's identifier until it has one.
    pub(crate) no_id: Arc<str>,
}

impl Dialects {
    /// The dialects of a configuration.
    #[must_use]
    pub fn new(config: &Config, clock: &Clock, health: Arc<Health>) -> Self {
        let rest = rest::Rest::new(&config.deployment.secret, clock.clone(), health);
        Self { rest: Arc::new(rest), no_id: Arc::from("") }
    }

    /// The dialect and route of a path.
    #[must_use]
    pub fn route(&self, method: &Method, path: &str) -> (Arc<dyn Dialect>, Route) {
        (Arc::clone(&self.rest), self.rest.route(method, path))
    }
}
