//! The routes of policies: from a request to an action.

use hyper::body::Incoming;
use meridian_model::quantity::Span;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Endpoint, Rest,
    decode::Reading,
    directory::{document, typed},
    query::Query,
};
use crate::{
    dialects::{AnswerPlan, BodyLimits, Decoded},
    operation::{Action, Refusal, policies::PolicyAction},
    refusal::Rejection,
};

#[derive(Debug, Deserialize)]
struct Trial {
    policies: Vec<Value>,
    #[serde(default)]
    window: Option<Span>,
}

impl Rest {
    /// Reads a request of these routes.
    pub(super) async fn policies(
        &self,
        r: &Reading<'_>,
        incoming: Incoming,
        limits: BodyLimits,
    ) -> Result<Decoded, Rejection> {
        let plan = AnswerPlan::default();
        let action = match r.meta.route.endpoint {
            Endpoint::TestPolicies => {
                Query::parse(r.query, &[])?;
                let (bytes, _) = document(r.headers, incoming, limits).await?;
                let Trial { policies, window } = typed(&bytes)?;
                PolicyAction::Test { tenant: r.tenant_or_all()?, policies, window }
            }
            _ => return Err(Refusal::internal("a route without a decoder").into()),
        };
        Ok(Decoded::Action(Action::Policies(Box::new(action)), plan))
    }
}
