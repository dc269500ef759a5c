//! Query strings and Kubernetes' selector syntax.

use std::borrow::Cow;

use meridian_model::error::{ErrorCode, FieldError, Problem};
use percent_encoding::percent_decode_str;

use crate::{
    config::nearest,
    operation::{FieldPath, Requirement},
    refusal::Rejection,
};

/// Longest selector; Kubernetes' own requests stay far below.
const SELECTOR_LEN_MAX: usize = 4096;
/// Most requirements of one selector.
const REQUIREMENTS_MAX: usize = 64;
/// Longest name or value part of a label (Kubernetes, "Labels and Selectors").
const LABEL_PART_LEN_MAX: usize = 63;
/// Longest prefix of a label key.
const LABEL_PREFIX_LEN_MAX: usize = 253;

/// The parameters of a query string, each known and given once.
#[derive(Debug)]
pub struct Query<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

fn fault(parameter: &str, code: &str, detail: String, hint: Option<String>) -> FieldError {
    FieldError { pointer: format!("?{parameter}"), code: code.to_owned(), detail, hint, ..FieldError::default() }
}

fn refusal(errors: Vec<FieldError>) -> Rejection {
    let detail = errors.iter().map(|e| e.detail.as_str()).collect::<Vec<_>>().join("; ");
    Problem::new(ErrorCode::InvalidArgument, detail).with_errors(errors).into()
}

fn bad(parameter: &str, detail: String) -> Rejection {
    refusal(vec![fault(parameter, "invalid", detail, None)])
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode_str(&spaced).decode_utf8().ok().map(|t| Cow::Owned(t.into_owned()));
    }
    percent_decode_str(text).decode_utf8().ok()
}

impl<'q> Query<'q> {
    /// Parses a query string of which these parameters are known.
    ///
    /// # Errors
    /// `invalid-argument` for parameters that are unknown, repeated or not UTF-8; all of them.
    pub fn parse(query: Option<&'q str>, known: &[&str]) -> Result<Self, Rejection> {
        let mut pairs: Vec<(Cow<'q, str>, Cow<'q, str>)> = Vec::new();
        let mut faults = Vec::new();
        for pair in query.unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                faults.push(fault("", "invalid", "a query parameter is not UTF-8".to_owned(), None));
                continue;
            };
            if !known.contains(&name.as_ref()) {
                let hint = nearest(&name, known.iter().copied()).map(|near| format!("did you mean {near}?"));
                let detail = format!("unknown query parameter {name:?}");
                faults.push(fault(&name, "unknown-parameter", detail, hint));
            } else if pairs.iter().any(|(n, _)| *n == name) {
                faults.push(fault(&name, "repeated", format!("query parameter {name} is given twice"), None));
            } else {
                pairs.push((name, value));
            }
        }
        if faults.is_empty() { Ok(Self(pairs)) } else { Err(refusal(faults)) }
    }

    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_ref())
    }

    /// A flag: `true` or `false`, false when absent.
    ///
    /// # Errors
    /// Any other value.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Rejection> {
        match self.get(name) {
            None => Ok(default),
            Some("true" | "") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(bad(name, format!("{name} is {other:?}; use true or false"))),
        }
    }

    /// A non-negative number.
    ///
    /// # Errors
    /// Anything else.
    pub fn number(&self, name: &str) -> Result<Option<usize>, Rejection> {
        let parse = |v: &str| v.parse().map_err(|_| bad(name, format!("{name} is {v:?}; use a non-negative number")));
        self.get(name).map(parse).transpose()
    }

    /// A Kubernetes label selector.
    ///
    /// # Errors
    /// `invalid-argument` with the fault.
    pub fn labels(&self, name: &str) -> Result<Vec<Requirement>, Rejection> {
        self.get(name).map_or(Ok(Vec::new()), |text| label_selector(text).map_err(|detail| bad(name, detail)))
    }

    /// A Kubernetes field selector.
    ///
    /// # Errors
    /// `invalid-argument` with the fault.
    pub fn fields(&self, name: &str) -> Result<Vec<(FieldPath, bool, String)>, Rejection> {
        self.get(name).map_or(Ok(Vec::new()), |text| field_selector(text).map_err(|detail| bad(name, detail)))
    }
}

/// Parses `a=b,c!=d,e in (x,y),f notin (z),g,!h`.
///
/// # Errors
/// What is wrong, for people.
pub fn label_selector(text: &str) -> Result<Vec<Requirement>, String> {
    if text.len() > SELECTOR_LEN_MAX {
        return Err(format!("the selector is longer than {SELECTOR_LEN_MAX} bytes"));
    }
    let parts = split_outside_parentheses(text)?;
    if parts.len() > REQUIREMENTS_MAX {
        return Err(format!("the selector has more than {REQUIREMENTS_MAX} requirements"));
    }
    parts.into_iter().map(requirement).collect()
}

fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut open) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match (c, open) {
            ('(', false) => open = true,
            (')', true) => open = false,
            ('(', true) | (')', false) => return Err(format!("unexpected {c:?} at position {at}")),
            (',', false) => {
                parts.push(text.get(start..at).unwrap_or("").trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if open {
        return Err("a parenthesis is not closed".to_owned());
    }
    let last = text.get(start..).unwrap_or("").trim();
    if !(last.is_empty() && parts.is_empty()) {
        parts.push(last);
    }
    Ok(parts)
}

fn requirement(text: &str) -> Result<Requirement, String> {
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Missing(label_key(key.trim())?));
    }
    if let Some((left, values)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let (key, operator) = left.trim_end().rsplit_once(char::is_whitespace).unwrap_or((left, ""));
        let key = label_key(key.trim())?;
        let values = values.split(',').map(|v| label_value(v.trim())).collect::<Result<Vec<_>, _>>()?;
        return match operator {
            "in" => Ok(Requirement::In(key, values)),
            "notin" => Ok(Requirement::NotIn(key, values)),
            _ => Err(format!("{text:?}: use `key in (a,b)` or `key notin (a,b)`")),
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(label_key(key.trim())?, vec![label_value(value.trim())?]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(label_key(key.trim())?, vec![label_value(value.trim())?]));
    }
    label_key(text).map(Requirement::Exists)
}

fn is_label_part(part: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    part.len() <= LABEL_PART_LEN_MAX
        && edge(part.bytes().next())
        && edge(part.bytes().next_back())
        && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

fn label_key(key: &str) -> Result<String, String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let is_prefix = |p: &str| {
        (1..=LABEL_PREFIX_LEN_MAX).contains(&p.len())
            && p.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c))
    };
    if is_label_part(name) && prefix.is_none_or(is_prefix) {
        Ok(key.to_owned())
    } else {
        Err(format!("{key:?} is not a label key"))
    }
}

fn label_value(value: &str) -> Result<String, String> {
    if value.is_empty() || is_label_part(value) {
        Ok(value.to_owned())
    } else {
        Err(format!("{value:?} is not a label value"))
    }
}

/// The selectable fields by name.
const FIELDS: [(&str, FieldPath); 7] = [
    ("metadata.name", FieldPath::Name),
    ("metadata.project", FieldPath::Project),
    ("status.phase", FieldPath::Phase),
    ("status.region", FieldPath::Region),
    ("status.zone", FieldPath::Zone),
    ("status.backend", FieldPath::Backend),
    ("status.adapter", FieldPath::Adapter),
];

/// Parses `status.phase=Running,metadata.name!=web`; the flag is true for equality.
///
/// # Errors
/// What is wrong, for people.
pub fn field_selector(text: &str) -> Result<Vec<(FieldPath, bool, String)>, String> {
    if text.len() > SELECTOR_LEN_MAX {
        return Err(format!("the selector is longer than {SELECTOR_LEN_MAX} bytes"));
    }
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
    if parts.len() > REQUIREMENTS_MAX {
        return Err(format!("the selector has more than {REQUIREMENTS_MAX} requirements"));
    }
    parts
        .into_iter()
        .map(|part| {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, true, value)
            } else {
                return Err(format!("{part:?}: use field=value or field!=value"));
            };
            let path = path.trim();
            let field = FIELDS.iter().find(|(name, _)| *name == path || name.strip_prefix("metadata.") == Some(path));
            let known = || FIELDS.map(|(name, _)| name).join(", ");
            let field = field.ok_or_else(|| format!("{path:?} cannot be selected by; use one of {}", known()))?;
            Ok((field.1, equal, value.trim().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = label_selector(&text);
            let _ = field_selector(&text);
            let _ = Query::parse(Some(&text), &["a"]);
        }
    }

    fn one(s: &str) -> String {
        s.to_owned()
    }

    #[test]
    fn label_selectors_follow_kubernetes() {
        use Requirement::{Exists, In, Missing, NotIn};
        for (text, expected) in [
            ("", vec![]),
            ("a=b", vec![In(one("a"), vec![one("b")])]),
            ("a==b,c!=d", vec![In(one("a"), vec![one("b")]), NotIn(one("c"), vec![one("d")])]),
            ("x in (p,q), y notin (r)", vec![In(one("x"), vec![one("p"), one("q")]), NotIn(one("y"), vec![one("r")])]),
            ("app.k8s.io/name,!gone", vec![Exists(one("app.k8s.io/name")), Missing(one("gone"))]),
            ("a=", vec![In(one("a"), vec![one("")])]),
        ] {
            assert_eq!(label_selector(text).as_ref(), Ok(&expected), "{text}");
        }
        for bad in ["a b", "a=b c", "=x", "a in (b", "a)", "a on (b)", "-a", "a=b,,c", ",", "é=1", "a/b/c=d"] {
            assert!(label_selector(bad).is_err(), "{bad}");
        }
        assert!(label_selector(&"a,".repeat(3000)).is_err());
    }

    #[test]
    fn field_selectors() {
        let expected = vec![(FieldPath::Phase, true, one("Running")), (FieldPath::Name, false, one("web"))];
        assert_eq!(field_selector("status.phase=Running,name!=web"), Ok(expected));
        assert!(field_selector("spec.nodeName=x").is_err());
        assert!(field_selector("status.phase").is_err());
    }
}
