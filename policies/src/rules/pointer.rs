//! Pointers of rules: checked against the schema when loaded, settled when a rule fails.

use crate::expr::{
    Diagnostic, LOCALS_MAX, Place,
    schema::OBJECT,
    types::{RecordType, Type},
};

/// Checks a pointer: each part is a field of the request, a number or `*` for a list's element, or a map's key.
///
/// # Errors
/// The first part that leads nowhere.
pub(super) fn check(pointer: &str) -> Result<(), Diagnostic> {
    let fault = |start: usize, len: usize, message: String, hint: String| {
        Err(Diagnostic::new("unknown-pointer", pointer, Place { start, end: start + len }, message, hint))
    };
    if pointer.is_empty() {
        return Ok(());
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        let hint = format!("write `/{pointer}`");
        return fault(0, pointer.len(), "a pointer begins with `/`".to_owned(), hint);
    };
    let mut ty = Type::Record(&OBJECT);
    let mut stars = 0;
    let mut start = 1;
    for part in rest.split('/') {
        ty = match ty {
            Type::Record(record) => match record.field(&unescaped(part)) {
                Some((_, field)) => field.ty,
                None => {
                    return fault(
                        start,
                        part.len(),
                        format!("{} has no field `{part}`", record.name),
                        mean(record, part),
                    );
                }
            },
            Type::List(element, _) => {
                stars += usize::from(part == "*");
                if (part != "*" && part.parse::<u32>().is_err()) || stars > LOCALS_MAX {
                    let hint = "write `*` for the element that fails, or its number from 0".to_owned();
                    return fault(start, part.len(), "an element of a list is wanted here".to_owned(), hint);
                }
                *element
            }
            Type::Map(of, _) => *of,
            _ => return fault(start, part.len(), format!("there is nothing below a {ty}"), "end it before".to_owned()),
        };
        start += part.len() + 1;
    }
    Ok(())
}

fn mean(record: &'static RecordType, part: &str) -> String {
    crate::expr::mean(part, record.fields.iter().map(|f| f.name))
}

fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// The pointer with each `*` replaced by the number of the element that failed; cut before the first that is not known.
pub(super) fn settled(pointer: &str, failed_at: &[Option<usize>; LOCALS_MAX]) -> String {
    let mut known = failed_at.iter();
    let mut out = String::with_capacity(pointer.len() + 2);
    for part in pointer.split('/').skip(1) {
        out.push('/');
        if part != "*" {
            out.push_str(part);
            continue;
        }
        match known.next().copied().flatten() {
            Some(at) => out.push_str(&at.to_string()),
            None => {
                out.pop();
                break;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers() {
        for good in
            ["", "/spec/containers/*/image", "/labels/team", "/spec/containers/0/resources/limits/nvidia.com~1gpu"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, column) in [("spec", 1), ("/spec/container", 7), ("/spec/containers/x", 18), ("/name/x", 7)] {
            assert_eq!(check(bad).unwrap_err().column, column, "{bad}");
        }
        let at = [Some(2), None, None, None];
        assert_eq!(settled("/spec/containers/*/image", &at), "/spec/containers/2/image");
        assert_eq!(settled("/spec/containers/*/env/*/name", &at), "/spec/containers/2/env");
        assert_eq!(settled("", &at), "");
    }
}
