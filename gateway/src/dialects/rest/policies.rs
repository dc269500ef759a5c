//! The routes of policies: from a request to an action.

use hyper::body::Incoming;
use meridian_model::{ids::ProfileName, quantity::Span};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Endpoint, Rest,
    decode::Reading,
    directory::{condition, document, typed, validate_only},
    query::Query,
};
use crate::{
    dialects::{AnswerPlan, BodyLimits, Decoded},
    operation::{
        Action, Refusal,
        policies::{Home, PolicyAction},
    },
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
        let mut plan = AnswerPlan::default();
        let endpoint = r.meta.route.endpoint;
        let (home, of_platform) = match endpoint {
            Endpoint::ListPlatformPolicies
            | Endpoint::GetPlatformPolicy
            | Endpoint::PutPlatformPolicy
            | Endpoint::DeletePlatformPolicy => (Home::Platform, true),
            _ => (Home::Tenant(r.tenant_or_all()?), false),
        };
        let name = || {
            let name = ProfileName::new(r.param(usize::from(!of_platform))?).map_err(|_| Refusal::not_found())?;
            Ok::<_, Rejection>(name)
        };
        let action = match endpoint {
            Endpoint::ListPolicies | Endpoint::ListPlatformPolicies => {
                let query = Query::parse(r.query, &["pageSize", "pageToken"])?;
                PolicyAction::List(home, self.page(r, &query, &mut plan, &["policies"])?)
            }
            Endpoint::GetPolicy | Endpoint::GetPlatformPolicy => {
                Query::parse(r.query, &[])?;
                PolicyAction::Get(home, name()?)
            }
            Endpoint::PutPolicy | Endpoint::PutPlatformPolicy => {
                let validate_only = validate_only(r, &mut plan)?;
                let condition = condition(r.headers)?;
                let (_, manifest) = document(r.headers, incoming, limits).await?;
                PolicyAction::Put { home, name: name()?, manifest, condition, validate_only }
            }
            Endpoint::DeletePolicy | Endpoint::DeletePlatformPolicy => {
                let validate_only = validate_only(r, &mut plan)?;
                PolicyAction::Delete { home, name: name()?, condition: condition(r.headers)?, validate_only }
            }
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
