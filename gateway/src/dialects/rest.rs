//! The REST dialect, `/v1` (API-CONVENTIONS): routes here, reading and writing below.

pub mod body;
mod decode;
mod directory;
mod encode;
mod hints;
mod key;
mod manifest;
mod policies;
mod problem;
pub mod query;
pub mod token;

use std::sync::Arc;

use http::{Method, Request};
use hyper::body::Incoming;
use secrecy::SecretString;

pub(crate) use self::problem::problem_reply;
use self::token::TokenKey;
use super::{AnswerPlan, BodyLimits, Class, Decoded, Dialect, DialectFuture, ROUTE_PARAMS_MAX, Route};
use crate::{
    admin::Health,
    clock::Clock,
    http::{Meta, Reply},
    operation::Outcome,
    refusal::Rejection,
};

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is a row of ROUTES, which says what it is")]
pub enum Endpoint {
    CreateInstance,
    ListInstances,
    GetInstance,
    DeleteInstance,
    ExplainInstance,
    ListOperations,
    GetOperation,
    ListQuotas,
    GetQuota,
    /// The same of one project.
    GetProjectQuota,
    ListConsumers,
    ListTenants,
    GetTenant,
    ListTenantAudit,
    ListAudit,
    CreateTenant,
    PutTenant,
    PatchTenant,
    DeleteTenant,
    ListKeys,
    GetKey,
    CreateKey,
    RotateKey,
    RevokeKey,
    ListServiceAccounts,
    GetServiceAccount,
    CreateServiceAccount,
    DeleteServiceAccount,
    WhoAmI,
    ListPolicies,
    GetPolicy,
    PutPolicy,
    DeletePolicy,
    ListPlatformPolicies,
    GetPlatformPolicy,
    PutPlatformPolicy,
    DeletePlatformPolicy,
    TestPolicies,
    ListRegions,
    GetRegion,
    ListZones,
    ListAdapters,
    ListInstanceTypes,
    OpenApi,
    Health,
    Ready,
    Version,
    /// No such path.
    NotFound,
    /// The path has other methods.
    MethodNotAllowed(&'static str),
}

/// A path with its methods.
#[derive(Debug)]
pub struct PathEntry {
    /// Template.
    pub path: &'static str,
    /// The `Allow` header.
    pub allow: &'static str,
    /// Method, endpoint and class; HEAD goes with GET.
    pub methods: &'static [(&'static str, Endpoint, Class)],
}

const fn get(path: &'static str, methods: &'static [(&'static str, Endpoint, Class)]) -> PathEntry {
    PathEntry { path, allow: "GET, HEAD", methods }
}

/// Every path of the dialect; the OpenAPI description is made from the same table.
pub const ROUTES: &[PathEntry] = &[
    PathEntry {
        path: "/v1/tenants/{tenant}/instances",
        allow: "GET, HEAD, POST",
        methods: &[("GET", Endpoint::ListInstances, Class::List), ("POST", Endpoint::CreateInstance, Class::Create)],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}/instances/{instance}",
        allow: "GET, HEAD, DELETE",
        methods: &[("GET", Endpoint::GetInstance, Class::Read), ("DELETE", Endpoint::DeleteInstance, Class::Delete)],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}/instances/{instance}:explain",
        allow: "GET, HEAD, POST",
        methods: &[("GET", Endpoint::ExplainInstance, Class::List), ("POST", Endpoint::ExplainInstance, Class::List)],
    },
    get("/v1/tenants/{tenant}/operations", &[("GET", Endpoint::ListOperations, Class::List)]),
    get("/v1/tenants/{tenant}/operations/{operation}", &[("GET", Endpoint::GetOperation, Class::Read)]),
    get("/v1/tenants/{tenant}/quotas", &[("GET", Endpoint::ListQuotas, Class::List)]),
    get("/v1/tenants/{tenant}/quotas/default", &[("GET", Endpoint::GetQuota, Class::Read)]),
    get("/v1/tenants/{tenant}/quotas/{project}", &[("GET", Endpoint::GetProjectQuota, Class::Read)]),
    get("/v1/tenants/{tenant}/quotas/{project}/consumers", &[("GET", Endpoint::ListConsumers, Class::List)]),
    PathEntry {
        path: "/v1/tenants",
        allow: "GET, HEAD, POST",
        methods: &[("GET", Endpoint::ListTenants, Class::List), ("POST", Endpoint::CreateTenant, Class::Change)],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}",
        allow: "GET, HEAD, PUT, PATCH, DELETE",
        methods: &[
            ("GET", Endpoint::GetTenant, Class::Read),
            ("PUT", Endpoint::PutTenant, Class::Change),
            ("PATCH", Endpoint::PatchTenant, Class::Change),
            ("DELETE", Endpoint::DeleteTenant, Class::Change),
        ],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}/keys",
        allow: "GET, HEAD, POST",
        methods: &[("GET", Endpoint::ListKeys, Class::List), ("POST", Endpoint::CreateKey, Class::Change)],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}/keys/{key}",
        allow: "GET, HEAD, DELETE",
        methods: &[("GET", Endpoint::GetKey, Class::Read), ("DELETE", Endpoint::RevokeKey, Class::Change)],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}/keys/{key}:rotate",
        allow: "POST",
        methods: &[("POST", Endpoint::RotateKey, Class::Change)],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}/serviceAccounts",
        allow: "GET, HEAD, POST",
        methods: &[
            ("GET", Endpoint::ListServiceAccounts, Class::List),
            ("POST", Endpoint::CreateServiceAccount, Class::Change),
        ],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}/serviceAccounts/{account}",
        allow: "GET, HEAD, DELETE",
        methods: &[
            ("GET", Endpoint::GetServiceAccount, Class::Read),
            ("DELETE", Endpoint::DeleteServiceAccount, Class::Change),
        ],
    },
    get("/v1/policies", &[("GET", Endpoint::ListPlatformPolicies, Class::List)]),
    PathEntry {
        path: "/v1/policies/{policy}",
        allow: "GET, HEAD, PUT, DELETE",
        methods: &[
            ("GET", Endpoint::GetPlatformPolicy, Class::Read),
            ("PUT", Endpoint::PutPlatformPolicy, Class::Change),
            ("DELETE", Endpoint::DeletePlatformPolicy, Class::Change),
        ],
    },
    get("/v1/tenants/{tenant}/policies", &[("GET", Endpoint::ListPolicies, Class::List)]),
    PathEntry {
        path: "/v1/tenants/{tenant}/policies/{policy}",
        allow: "GET, HEAD, PUT, DELETE",
        methods: &[
            ("GET", Endpoint::GetPolicy, Class::Read),
            ("PUT", Endpoint::PutPolicy, Class::Change),
            ("DELETE", Endpoint::DeletePolicy, Class::Change),
        ],
    },
    PathEntry {
        path: "/v1/tenants/{tenant}/policies:test",
        allow: "POST",
        // It changes nothing, and is the first to be let go.
        methods: &[("POST", Endpoint::TestPolicies, Class::List)],
    },
    get("/v1/whoami", &[("GET", Endpoint::WhoAmI, Class::Read)]),
    get("/v1/tenants/{tenant}/audit", &[("GET", Endpoint::ListTenantAudit, Class::List)]),
    get("/v1/audit", &[("GET", Endpoint::ListAudit, Class::List)]),
    get("/v1/regions", &[("GET", Endpoint::ListRegions, Class::List)]),
    get("/v1/regions/{region}", &[("GET", Endpoint::GetRegion, Class::Read)]),
    get("/v1/regions/{region}/zones", &[("GET", Endpoint::ListZones, Class::List)]),
    get("/v1/adapters", &[("GET", Endpoint::ListAdapters, Class::List)]),
    get("/v1/instanceTypes", &[("GET", Endpoint::ListInstanceTypes, Class::List)]),
    get("/openapi.json", &[("GET", Endpoint::OpenApi, Class::Public)]),
    get("/healthz", &[("GET", Endpoint::Health, Class::Public)]),
    get("/readyz", &[("GET", Endpoint::Ready, Class::Public)]),
    get("/version", &[("GET", Endpoint::Version, Class::Public)]),
];

/// The dialect.
#[derive(Debug)]
pub struct Rest {
    router: matchit::Router<&'static PathEntry>,
    tokens: TokenKey,
    clock: Clock,
    health: Arc<Health>,
}

impl Rest {
    /// A dialect whose page tokens are sealed under the deployment's secret.
    #[must_use]
    pub fn new(secret: &SecretString, clock: Clock, health: Arc<Health>) -> Self {
        let mut router = matchit::Router::new();
        for entry in ROUTES {
            router.insert(entry.path, entry).expect("invariant: the paths of ROUTES are distinct and well-formed");
        }
        Self { router, tokens: TokenKey::new(secret), clock, health }
    }
}

impl Dialect for Rest {
    fn name(&self) -> &'static str {
        "rest"
    }

    fn route(&self, method: &Method, path: &str) -> Route {
        let nowhere = [(0, 0); ROUTE_PARAMS_MAX];
        let Ok(found) = self.router.at(path) else {
            return Route { template: "none", class: Class::Read, endpoint: Endpoint::NotFound, params: nowhere };
        };
        let entry = *found.value;
        let mut params = nowhere;
        for (slot, (_, value)) in params.iter_mut().zip(found.params.iter()) {
            // The router's values are slices of the path; their addresses give the range.
            let start = value.as_ptr().addr().saturating_sub(path.as_ptr().addr());
            *slot = (start, start + value.len());
        }
        let name = if *method == Method::HEAD { "GET" } else { method.as_str() };
        let row = entry.methods.iter().find(|(m, ..)| *m == name);
        let (endpoint, class) =
            row.map_or((Endpoint::MethodNotAllowed(entry.allow), Class::Read), |(_, e, c)| (*e, *c));
        Route { template: entry.path, class, endpoint, params }
    }

    fn decode<'a>(
        &'a self,
        request: Request<Incoming>,
        meta: &'a Meta,
        body: BodyLimits,
    ) -> DialectFuture<'a, Decoded> {
        Box::pin(self.read(request, meta, body))
    }

    fn encode(&self, outcome: Outcome, plan: &AnswerPlan) -> Result<Reply, Rejection> {
        self.write(outcome, plan)
    }

    fn encode_refusal(&self, rejection: &Rejection, request_id: &str, path: &str) -> Reply {
        problem::write(rejection, request_id, path)
    }
}
