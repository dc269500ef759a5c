//! `[[oidc]]` and `[[spiffe]]`: whose word is taken for who is calling, and what that means here.

use std::{collections::BTreeMap, time::Duration};

use jsonwebtoken::Algorithm;
use meridian_model::{
    ids::{ProfileName, ProjectName, TenantId},
    quantity::Span,
};
use meridian_policies::access::Role;
use serde::{Serialize, Serializer};

use super::{
    Config, nearest,
    quota::missing_project,
    reader::{Report, Section},
};
use crate::identity::{
    grant::{ClaimGrant, Condition, Grant, SpiffeGrant},
    issuer::Rules,
    jwks::ALGORITHMS,
    spiffe::Pattern,
};

/// Algorithms of an issuer that names none: what issuers sign with by default, and nothing weaker.
const ALGORITHMS_DEFAULT: [&str; 3] = ["RS256", "ES256", "EdDSA"];

/// `[[oidc]]`: an issuer of tokens.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Oidc {
    /// Its short name, which stands in the names of its callers.
    pub name: ProfileName,
    /// `iss` of its tokens, to the byte; `https`, or `http` for one on this machine.
    pub issuer: String,
    /// Where its keys are; found by discovery when left out.
    pub jwks_uri: Option<String>,
    /// `aud` of tokens that are meant for this gateway.
    pub audiences: Vec<String>,
    /// Algorithms it may sign with; RS256, ES256 and EdDSA when left out.
    #[serde(serialize_with = "names")]
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may be from ours. 30 s is more than machines with NTP ever are.
    pub leeway: Span,
    /// The longest life of a token. A day: a token cannot be revoked, so its life is how long a theft lasts.
    pub token_lifetime_max: Span,
    /// The claim that names the caller.
    pub principal_claim: String,
    /// What its tokens mean; the first that fits counts.
    pub grants: Vec<TokenGrant>,
}

/// `[[oidc.grants]]`.
#[derive(Debug, Clone, Serialize)]
pub struct TokenGrant {
    /// Claims, by name or JSON pointer, and what each has to be or to contain.
    pub claims: BTreeMap<String, String>,
    /// What is granted.
    #[serde(flatten)]
    pub grant: Grant,
}

/// `[[spiffe]]`: a grant to client certificates.
#[derive(Debug, Clone, Serialize)]
pub struct Spiffe {
    /// A SPIFFE ID, or one that ends in `/*` for all below. All grants are of one trust domain, and every authority of
    /// `clientCaFile` may speak for it.
    #[serde(serialize_with = "text")]
    pub id: Pattern,
    /// What is granted.
    #[serde(flatten)]
    pub grant: Grant,
}

fn names<S: Serializer>(algorithms: &[Algorithm], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(algorithms.iter().filter_map(|a| ALGORITHMS.iter().find(|(_, known)| known == a)).map(|(n, _)| n))
}

fn text<S: Serializer>(pattern: &Pattern, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(pattern)
}

impl Oidc {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let name = s.required("name", "\"corp\"");
        let issuer = s.required::<String>("issuer", "\"https://issuer.example\"");
        let jwks_uri = s.value::<String>("jwksUri");
        for (key, uri) in [("issuer", &issuer), ("jwksUri", &jwks_uri)] {
            if let Some(uri) = uri {
                check_uri(&s, key, uri);
            }
        }
        let audiences = s.required::<Vec<String>>("audiences", "[\"meridian\"]");
        if audiences.as_ref().is_some_and(Vec::is_empty) {
            let mend = "name the audience that the issuer puts into tokens for this gateway";
            s.report.mistake(&s.at("audiences"), "there is none, so no token could be meant for this gateway", mend);
        }
        let algorithms = algorithms(&mut s);
        let leeway = s.within("leeway", Span(Duration::from_secs(30)), spans(0, 300));
        let token_lifetime_max =
            s.within("tokenLifetimeMax", Span(Duration::from_secs(86_400)), spans(60, 30 * 86_400));
        let principal_claim = s.value("principalClaim").unwrap_or_else(|| "sub".to_owned());
        let sections = s.sections("grants");
        if sections.is_empty() {
            let mend = "add [[oidc.grants]] with claims, tenant and role";
            s.report.mistake(&s.path, "no grant, so none of its tokens could do anything", mend);
        }
        let grants: Vec<_> = sections.into_iter().map(TokenGrant::read).collect();
        s.finish();
        Some(Self {
            name: name?,
            issuer: issuer?,
            jwks_uri,
            audiences: audiences?,
            algorithms,
            leeway,
            token_lifetime_max,
            principal_claim,
            grants: grants.into_iter().collect::<Option<_>>()?,
        })
    }

    /// The same as the identity module wants it.
    fn rules(&self) -> Rules {
        let of = |grant: &TokenGrant| ClaimGrant {
            conditions: grant
                .claims
                .iter()
                .map(|(claim, value)| Condition { claim: claim.clone(), value: value.clone() })
                .collect(),
            grant: grant.grant.clone(),
        };
        Rules {
            name: self.name.to_string(),
            issuer: self.issuer.clone(),
            jwks_uri: self.jwks_uri.clone(),
            audiences: self.audiences.clone(),
            algorithms: self.algorithms.clone(),
            leeway: self.leeway.0,
            lifetime_max: self.token_lifetime_max.0,
            principal_claim: self.principal_claim.clone(),
            grants: self.grants.iter().map(of).collect(),
        }
    }
}

fn spans(least: u64, most: u64) -> (Span, Span) {
    (Span(Duration::from_secs(least)), Span(Duration::from_secs(most)))
}

/// Keys that come over an open line are anybody's, unless the line does not leave this machine.
fn check_uri(s: &Section<'_, '_>, key: &'static str, uri: &str) {
    let Ok(parsed) = uri.parse::<http::Uri>() else {
        return s.report.mistake(&s.at(key), format!("`{uri}` is not a URL"), "write it as https://HOST/PATH");
    };
    let host = parsed.host().unwrap_or("");
    let local = matches!(host, "localhost" | "[::1]") || host.starts_with("127.");
    match parsed.scheme_str() {
        Some("https") => {}
        Some("http") if local => {}
        Some("http") => s.report.mistake(&s.at(key), "plain http to another machine", "use https"),
        _ => s.report.mistake(&s.at(key), format!("`{uri}` is not a URL"), "write it as https://HOST/PATH"),
    }
}

fn algorithms(s: &mut Section<'_, '_>) -> Vec<Algorithm> {
    let asked: Option<Vec<String>> = s.value("algorithms");
    let asked = asked.unwrap_or_else(|| ALGORITHMS_DEFAULT.map(str::to_owned).to_vec());
    if asked.is_empty() {
        s.report.mistake(&s.at("algorithms"), "there is none", "leave it out, or name at least one");
    }
    let known = || ALGORITHMS.iter().map(|(name, _)| *name);
    let mut found = Vec::new();
    for (i, name) in asked.iter().enumerate() {
        match ALGORITHMS.iter().find(|(known, _)| known == name) {
            Some((_, algorithm)) => found.push(*algorithm),
            None => {
                let mend = nearest(name, known()).map_or_else(
                    || format!("use some of: {}", known().collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                s.report.mistake(&format!("{}[{i}]", s.at("algorithms")), format!("`{name}` cannot be allowed"), mend);
            }
        }
    }
    found
}

impl TokenGrant {
    fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let claims = s.required::<BTreeMap<String, String>>("claims", "{ groups = \"acme-ops\" }");
        if claims.as_ref().is_some_and(BTreeMap::is_empty) {
            let mend = "name a claim and the value that it has to have";
            s.report.mistake(&s.at("claims"), "no condition, so every token of the issuer would do", mend);
        }
        let grant = grant(&mut s);
        s.finish();
        Some(Self { claims: claims?, grant: grant? })
    }
}

impl Spiffe {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let id = s.required::<String>("id", "\"spiffe://acme.example/ci/*\"").and_then(|id| {
            let parsed = Pattern::parse(&id).ok();
            if parsed.is_none() {
                let mend = "write spiffe://TRUST-DOMAIN/PATH, with /* at its end for all below";
                s.report.mistake(&s.at("id"), format!("`{id}` is not a SPIFFE ID"), mend);
            }
            parsed
        });
        let grant = grant(&mut s);
        s.finish();
        Some(Self { id: id?, grant: grant? })
    }

    /// The same as the identity module wants it.
    fn rules(&self) -> SpiffeGrant {
        SpiffeGrant { id: self.id.clone(), grant: self.grant.clone() }
    }
}

/// `tenant`, `role` and `project` of a section.
fn grant(s: &mut Section<'_, '_>) -> Option<Grant> {
    let (tenant, project) = (s.value::<TenantId>("tenant"), s.value::<ProjectName>("project"));
    let role = s.required::<Role>("role", "\"operator\"")?;
    if role.is_platform() && (tenant.is_some() || project.is_some()) {
        let mend = "remove `tenant` and `project`, or choose a role of a tenant";
        s.report.mistake(&s.at("role"), format!("`{role}` belongs to no tenant"), mend);
    }
    if !role.is_platform() && tenant.is_none() && !s.has("tenant") {
        s.report.mistake(&s.path, format!("`{role}` is a role of a tenant"), "add `tenant = \"NAME\"`");
    }
    Some(Grant { tenant, role, project })
}

impl Config {
    /// Issuers with their rules, and grants to certificates.
    #[must_use]
    pub fn identity_rules(&self) -> (Vec<Rules>, Vec<SpiffeGrant>) {
        (self.oidc.iter().map(Oidc::rules).collect(), self.spiffe.iter().map(Spiffe::rules).collect())
    }
}

/// Checks what more than one section has to say. Whether a tenant is there is not asked: tenants come and go. Of one that
/// is here, the project must be too.
pub(super) fn references(config: &Config, report: &Report<'_>) {
    for (i, issuer) in config.oidc.iter().enumerate() {
        let earlier = config.oidc.iter().take(i);
        if earlier.clone().any(|other| other.issuer == issuer.issuer || other.name == issuer.name) {
            let mend = "put the grants of an issuer into one [[oidc]]";
            report.mistake(&format!("oidc[{i}]"), "an issuer of this name or `issuer` is declared before", mend);
        }
    }
    let of_issuers = config.oidc.iter().enumerate().flat_map(|(i, issuer)| {
        issuer.grants.iter().enumerate().map(move |(k, of)| (format!("oidc[{i}].grants[{k}].project"), &of.grant))
    });
    let of_certificates = config.spiffe.iter().enumerate().map(|(i, of)| (format!("spiffe[{i}].project"), &of.grant));
    for (path, Grant { tenant, project, .. }) in of_issuers.chain(of_certificates) {
        let declared = config.tenants.iter().find(|declared| Some(&declared.name) == tenant.as_ref());
        let Some((declared, project)) = declared.zip(project.as_ref()) else { continue };
        if let Some(mend) = missing_project(&declared.projects, project) {
            report.mistake(&path, format!("tenant `{}` has no project `{project}`", declared.name), mend);
        }
    }
    if !config.spiffe.is_empty() && config.server.tls.as_ref().is_none_or(|tls| tls.client_ca_file.is_none()) {
        let mend = "add [server.tls] with clientCaFile, the authorities of the trust domain";
        report.mistake("spiffe", "no client certificate can be verified", mend);
    }
    // Any authority of the bundle can sign any ID, so all of them have to be those of the one domain that is believed.
    let Some(first) = config.spiffe.first().map(|grant| grant.id.trust_domain()) else { return };
    for (i, grant) in config.spiffe.iter().enumerate().filter(|(_, grant)| grant.id.trust_domain() != first) {
        let other = grant.id.trust_domain();
        let what = format!("trust domain `{other}`, where the first grant has `{first}`: clientCaFile is of one");
        let mend = "give the other domain's workloads a gateway of their own, or an issuer of tokens ([[oidc]])";
        report.mistake(&format!("spiffe[{i}].id"), what, mend);
    }
}
