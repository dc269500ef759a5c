//! Image references: which registry, and another one instead.

/// Registry of a reference that names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// The registry of a reference: its first part if that looks like a host (a point, a port, an upper-case letter, which
/// no repository has, or `localhost`), else [`DEFAULT_REGISTRY`], as the OCI clients read it (distribution/reference,
/// `splitDockerDomain`, read 2026-11-30).
#[must_use]
pub fn registry(image: &str) -> &str {
    split(image).0
}

/// Registry and the rest.
fn split(image: &str) -> (&str, &str) {
    match image.split_once('/') {
        Some((host, rest))
            if host.contains(['.', ':']) || host == "localhost" || host.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (host, rest)
        }
        _ => (DEFAULT_REGISTRY, image),
    }
}

/// The reference with the prefix `from` replaced by `to`, both a registry or a registry and a path; `None` when it
/// does not begin with it. A prefix ends where a part ends. A short name of the default registry is read in full
/// (`nginx` is `docker.io/library/nginx`).
#[must_use]
pub fn rewritten(image: &str, from: &str, to: &str) -> Option<String> {
    let (host, path) = split(image);
    let full = match (host, path.contains('/')) {
        (DEFAULT_REGISTRY, false) => format!("{host}/library/{path}"),
        _ => format!("{host}/{path}"),
    };
    let rest = full.strip_prefix(from.trim_end_matches('/'))?.strip_prefix('/')?;
    Some(format!("{}/{rest}", to.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries() {
        for (image, expected) in [
            ("nginx", "docker.io"),
            ("library/nginx:1.27", "docker.io"),
            ("ghcr.io/a/b@sha256:0", "ghcr.io"),
            ("localhost/a", "localhost"),
            ("host:5000/a", "host:5000"),
            ("MIRROR/x", "MIRROR"),
            ("mirror/X", "docker.io"),
            ("registry.acme.example.evil.example/x", "registry.acme.example.evil.example"),
        ] {
            assert_eq!(registry(image), expected, "{image}");
        }
    }

    #[test]
    fn prefixes_are_replaced_at_the_end_of_a_part() {
        let to_mirror = |image| rewritten(image, "docker.io", "mirror.example/hub/");
        assert_eq!(to_mirror("nginx:1").as_deref(), Some("mirror.example/hub/library/nginx:1"));
        assert_eq!(to_mirror("a/b").as_deref(), Some("mirror.example/hub/a/b"));
        assert_eq!(to_mirror("docker.io/a/b").as_deref(), Some("mirror.example/hub/a/b"));
        assert_eq!(to_mirror("docker.io.evil.example/a"), None);
        assert_eq!(to_mirror("MIRROR/a"), None);
        assert_eq!(rewritten("ghcr.io/org/x:1", "ghcr.io/org/", "m.example").as_deref(), Some("m.example/x:1"));
        assert_eq!(rewritten("ghcr.io/organ/x:1", "ghcr.io/org/", "m.example"), None);
    }
}
