//! CEL's own grammar, from the crate `cel`, with the place of every node.
//!
//! The parser recurses deeply (up to 170 KiB of stack for a bracket in a debug build), and what it parses may come from
//! a tenant. So brackets and conditionals are counted before, and it runs on a thread of its own with a stack that
//! holds as many as are allowed. Macros are not expanded: `has` and `all` stay the calls they are written as, which is
//! what lets a fault in them be told in the author's words.

use cel::{
    Env, IdedExpr,
    common::ast::{EntryExpr, Expr, SourceInfo},
    parser::ParseErrors,
};

use super::diagnostic::{Diagnostic, Place};

/// Longest expression, in bytes: three screens.
pub const SOURCE_LEN_MAX: usize = 4096;
/// Most opening brackets, and most conditionals. The longest rule of the library has a fifth of it.
pub const BRACKETS_MAX: usize = 100;
/// Stack of the parser's thread: [`BRACKETS_MAX`] times what a bracket takes at most, and half of it again. Only what
/// is touched is taken from the system.
const STACK_LEN: usize = 32 * 1024 * 1024;
/// Deepest tree that is evaluated: evaluation recurses on the stack of whoever takes a request.
pub const DEPTH_MAX: usize = 64;

/// A parsed expression.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The tree.
    pub root: IdedExpr,
    /// Places of its nodes.
    info: SourceInfo,
}

impl Parsed {
    /// Where a node stands: its operator, its name or its bracket.
    pub fn place(&self, id: u64) -> Place {
        self.info.offset_for(id).map_or_else(Place::default, |(start, stop)| Place {
            start: usize::try_from(start).unwrap_or(0),
            end: usize::try_from(stop).unwrap_or(0).saturating_add(1),
        })
    }
}

/// Parses a text.
///
/// # Errors
/// The first fault of syntax; those after it are mostly its consequences.
pub(super) fn parse(text: &str) -> Result<Parsed, Diagnostic> {
    bounded(text)?;
    let parsed = std::thread::scope(|scope| {
        let parse = || {
            let parser = Env::default().parser().enable_optional_syntax(false).enable_ident_escape_syntax(true);
            parser.parse_with_source_info(text.trim_end())
        };
        let thread = std::thread::Builder::new().stack_size(STACK_LEN).spawn_scoped(scope, parse).ok()?;
        thread.join().ok()
    });
    let place = Place { start: 0, end: text.len() };
    let (root, info) = match parsed {
        Some(Ok(parsed)) => parsed,
        Some(Err(errors)) => return Err(syntax(text, &errors)),
        None => {
            let hint = "write it in a simpler way, and report it: this is a fault of the parser";
            return Err(Diagnostic::new("syntax", text, place, "the parser could not read the expression", hint));
        }
    };
    if depth(&root) > DEPTH_MAX {
        let message = format!("the expression is nested more than {DEPTH_MAX} deep");
        return Err(Diagnostic::new("too-deep", text, place, message, "split it into several rules"));
    }
    Ok(Parsed { root, info })
}

fn bounded(text: &str) -> Result<(), Diagnostic> {
    let whole = Place { start: 0, end: text.len() };
    let fault = |code, message: String, hint| Err(Diagnostic::new(code, text, whole, message, hint));
    if text.trim().is_empty() {
        return fault("syntax", "the expression is empty".to_owned(), "write a condition that must hold");
    }
    if text.len() > SOURCE_LEN_MAX {
        let message = format!("the expression has {} bytes; at most {SOURCE_LEN_MAX} are taken", text.len());
        return fault("too-long", message, "split it into several rules");
    }
    // Counted in strings too: to tell them apart is the parser's work, and it is what must be kept from deep nesting.
    for (what, signs) in [("opening brackets", &['(', '[', '{'][..]), ("question marks", &['?'][..])] {
        let count = text.matches(signs).count();
        if count > BRACKETS_MAX {
            let message = format!("the expression has {count} {what}; at most {BRACKETS_MAX} are taken");
            return fault("too-deep", message, "split it into several rules");
        }
    }
    Ok(())
}

fn depth(expr: &IdedExpr) -> usize {
    let deepest = |children: &mut dyn Iterator<Item = &IdedExpr>| children.map(depth).max().unwrap_or(0);
    1 + match &expr.expr {
        Expr::Call(call) => deepest(&mut call.target.as_deref().into_iter().chain(&call.args)),
        Expr::Select(select) => depth(&select.operand),
        Expr::List(list) => deepest(&mut list.elements.iter()),
        Expr::Map(map) => deepest(&mut map.entries.iter().flat_map(|e| match &e.expr {
            EntryExpr::MapEntry(entry) => [Some(&entry.key), Some(&entry.value)].into_iter().flatten(),
            EntryExpr::StructField(field) => [Some(&field.value), None].into_iter().flatten(),
        })),
        Expr::Struct(_) | Expr::Comprehension(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => 0,
    }
}

fn syntax(text: &str, errors: &ParseErrors) -> Diagnostic {
    let Some(first) = errors.errors.iter().find(|e| e.pos.0 > 0).or(errors.errors.first()) else {
        let place = Place { start: 0, end: text.len() };
        return Diagnostic::new("syntax", text, place, "this is not CEL", "see https://cel.dev for the syntax");
    };
    let at = (usize::try_from(first.pos.0).unwrap_or(1).max(1), usize::try_from(first.pos.1).unwrap_or(1).max(1));
    let (message, hint) = explained(first.msg.trim_start_matches("Syntax error: "));
    Diagnostic::at("syntax", text, at, message, hint)
}

/// The parser's words in ours, with a cure.
fn explained(raw: &str) -> (String, String) {
    let quoted = |prefix: &str| {
        let rest = raw.strip_prefix(prefix)?;
        rest.split_once('\'')
            .map(|(_, rest)| rest)
            .and_then(|r| r.split_once("' expecting").map(|(w, _)| w).or(r.strip_suffix('\'')))
    };
    if let Some(found) = quoted("token recognition error at: ") {
        let hint = match found.trim() {
            "=" => "write `==` to compare",
            "&" => "write `&&`",
            "|" => "write `||`",
            word if word.starts_with(['"', '\'']) => "close the string; a backslash in it is written twice",
            _ => "names are of letters, digits and `_`; text stands in quotes",
        };
        return (format!("`{}` cannot be read", found.trim()), hint.to_owned());
    }
    if raw.starts_with("mismatched input '<EOF>'") || raw.ends_with("at input '<EOF>'") {
        let hint = "something is missing: an operand, or a closing bracket";
        return ("the expression ends too early".to_owned(), hint.to_owned());
    }
    if let Some(sign) = raw.strip_prefix("missing '").and_then(|r| r.split_once('\'')).map(|(sign, _)| sign) {
        return (format!("`{sign}` is missing"), "close what is open".to_owned());
    }
    if let Some(word) = raw.strip_prefix("reserved identifier: ") {
        let hint = match word {
            "if" | "else" => "write `condition ? a : b`",
            "for" | "while" | "loop" => "write `list.all(x, ...)` or `list.exists(x, ...)`",
            _ => "choose another name",
        };
        return (format!("`{word}` is a reserved word"), hint.to_owned());
    }
    if raw.contains("'.?'") || raw.contains("'[?") {
        return ("optional access is not supported".to_owned(), "ask with `has(...)` first".to_owned());
    }
    let odd = quoted("extraneous input ").or_else(|| quoted("mismatched input "));
    if let Some(found) = odd {
        let hint = match found {
            "and" | "AND" => "write `&&`",
            "or" | "OR" => "write `||`",
            "not" => "write `!`",
            _ => "join conditions with `&&` or `||`, and close brackets",
        };
        return (format!("`{found}` is not expected here"), hint.to_owned());
    }
    if let Some(found) = quoted("no viable alternative at input ") {
        return (format!("`{found}` is not expected here"), "see https://cel.dev for the syntax".to_owned());
    }
    (raw.to_owned(), "see https://cel.dev for the syntax".to_owned())
}
