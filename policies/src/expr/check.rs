//! From CEL's tree to ours: every name, type and function is settled here, and every fault is told, not only the first.
//!
//! What may be absent must be asked for before it is looked at: `has(x.y) && x.y == 1`, `!has(x.y) || x.y == 1`,
//! `has(x.y) ? x.y : z`. The checker keeps what is known to be there ([`Checked::yes`], [`Checked::no`]), so that a
//! rule that would deny every request without the field is refused when it is loaded.
//!
//! The bound of cost is the sum over the nodes, with every list, map and text as long as validation lets it be.

mod access;
mod calls;
mod operators;

use std::collections::BTreeMap;

use cel::{
    IdedExpr,
    common::ast::{Expr, ListExpr, LiteralValue},
};

use super::{
    diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Place},
    node::Node,
    parse::Parsed,
    types::{Field, Type},
    value::Constant,
};

/// What a document gives its rules as `params`.
pub type Params = BTreeMap<String, Constant>;

/// Most units one rule may cost: a loop over every variable of every container (20 times 500) with a handful of comparisons
/// fits, one more loop in it does not.
pub const COST_MAX: u64 = 250_000;

/// A checked part of an expression.
pub(super) struct Checked {
    pub node: Node,
    pub ty: Type,
    /// Most units it costs.
    pub cost: u64,
    /// How the author may write it again, if it always has the same value: `object.spec.gpuType`.
    pub path: Option<String>,
    /// What is there when it is true.
    pub yes: Vec<String>,
    /// What is there when it is false.
    pub no: Vec<String>,
}

impl Checked {
    fn new(node: Node, ty: Type, cost: u64) -> Self {
        Self { node, ty, cost: cost.saturating_add(1), path: None, yes: Vec::new(), no: Vec::new() }
    }

    fn constant(constant: Constant, ty: Type) -> Self {
        Self::new(Node::Constant(constant), ty, 0)
    }

    /// The text, if it is known.
    fn constant_text(&self) -> Option<&str> {
        match &self.node {
            Node::Constant(Constant::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// A variable of a quantifier.
struct Local {
    name: String,
    ty: Type,
}

pub(super) struct Checker<'e> {
    text: &'e str,
    parsed: &'e Parsed,
    roots: &'static [Field],
    params: &'e Params,
    locals: Vec<Local>,
    /// Paths known to be there.
    known: Vec<String>,
    faults: Vec<Diagnostic>,
    /// Something of the request was looked at.
    looked: bool,
    /// Texts may be put together.
    message: bool,
    /// A quantifier was refused for its cost; those around it need not be.
    costly: bool,
}

impl<'e> Checker<'e> {
    pub fn new(
        text: &'e str,
        parsed: &'e Parsed,
        (roots, params): (&'static [Field], &'e Params),
        message: bool,
    ) -> Self {
        Self {
            text,
            parsed,
            roots,
            params,
            locals: Vec::new(),
            known: Vec::new(),
            faults: Vec::new(),
            looked: false,
            message,
            costly: false,
        }
    }

    /// Checks a condition.
    pub fn condition(mut self) -> Result<(Node, u64), Vec<Diagnostic>> {
        let checked = self.check(&self.parsed.root);
        if let Some(checked) = &checked {
            if !matches!(checked.ty, Type::Bool) {
                let hint = match checked.ty {
                    Type::List(..) => "say what must hold of its elements: `.all(x, ...)` or `.exists(x, ...)`",
                    Type::Map(..) => "say what must hold: `\"key\" in map`, or `.all(key, ...)`",
                    Type::Record(_) => "name one of its fields",
                    _ => "compare it with something: `== ...`",
                };
                let message = format!("a rule is true or false, but this is a {}", checked.ty);
                self.fault("not-boolean", self.whole(), message, hint);
            } else if !self.looked && self.faults.is_empty() {
                let hint = "use `object`, `shape`, `request` or `tenant`, or delete the rule";
                self.fault("constant", self.whole(), "the rule is the same for every request".to_owned(), hint);
            }
        }
        self.settled(checked)
    }

    /// Checks the text of a message.
    pub fn message(mut self) -> Result<(Node, u64), Vec<Diagnostic>> {
        let checked = self.check(&self.parsed.root);
        if let Some(checked) = &checked
            && !checked.ty.is_text()
        {
            let message = format!("a message is a string, but this is a {}", checked.ty);
            self.fault("not-text", self.whole(), message, "write `string(...)` around it");
        }
        self.settled(checked)
    }

    fn settled(mut self, checked: Option<Checked>) -> Result<(Node, u64), Vec<Diagnostic>> {
        if let Some(checked) = &checked
            && checked.cost > COST_MAX
            && !self.costly
        {
            self.too_costly(self.whole(), checked.cost);
        }
        self.faults.sort_by_key(|f| (f.line, f.column));
        match checked {
            Some(checked) if self.faults.is_empty() => Ok((checked.node, checked.cost)),
            _ => Err(self.faults),
        }
    }

    fn too_costly(&mut self, place: Place, cost: u64) {
        self.costly = true;
        let message = format!("this may cost {cost} units; a rule may cost {COST_MAX}");
        let hint = "use fewer loops in loops and shorter patterns, or split the rule";
        self.fault("too-costly", place, message, hint);
    }

    fn whole(&self) -> Place {
        Place { start: self.text.len() - self.text.trim_start().len(), end: self.text.trim_end().len() }
    }

    fn place(&self, expr: &IdedExpr) -> Place {
        self.parsed.place(expr.id)
    }

    /// Where a word stands that begins at or after a node's sign: the field after the dot.
    fn after(&self, expr: &IdedExpr, word: &str) -> Place {
        let sign = self.place(expr);
        let rest = self.text.get(sign.end..).unwrap_or_default();
        let skipped = rest.find(word).unwrap_or(0);
        Place { start: sign.end + skipped, end: sign.end + skipped + word.len() }
    }

    /// Where a word stands that ends at a node's sign: the function before the bracket.
    fn before(&self, expr: &IdedExpr, word: &str) -> Place {
        let sign = self.place(expr);
        let start = self.text.get(..sign.start).and_then(|t| t.rfind(word)).unwrap_or(sign.start);
        Place { start, end: start + word.len() }
    }

    fn fault(&mut self, code: &'static str, place: Place, message: String, hint: impl Into<String>) {
        if self.faults.len() < DIAGNOSTICS_MAX {
            self.faults.push(Diagnostic::new(code, self.text, place, message, hint));
        }
    }

    /// The same, as the end of a check.
    fn refuse<T>(&mut self, code: &'static str, place: Place, message: String, hint: impl Into<String>) -> Option<T> {
        self.fault(code, place, message, hint);
        None
    }

    fn check(&mut self, expr: &IdedExpr) -> Option<Checked> {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal),
            Expr::Ident(name) => self.ident(expr, name),
            Expr::Select(select) => self.select(expr, &select.operand, &select.field),
            Expr::List(list) => self.list(expr, list),
            Expr::Call(call) => self.call(expr, call),
            Expr::Map(_) => {
                let hint = "put it under `params` of the document and write `params.NAME`";
                self.refuse("not-supported", self.place(expr), "maps cannot be written in a rule".to_owned(), hint)
            }
            Expr::Struct(_) => {
                let hint = "compare field by field";
                self.refuse("not-supported", self.place(expr), "messages cannot be made in a rule".to_owned(), hint)
            }
            Expr::Comprehension(_) | Expr::Unspecified => {
                let hint = "see https://cel.dev for the syntax";
                self.refuse("syntax", self.place(expr), "this cannot be read".to_owned(), hint)
            }
        }
    }

    /// Checks with more known to be there.
    fn check_knowing(&mut self, expr: &IdedExpr, more: &[String]) -> Option<Checked> {
        let before = self.known.len();
        self.known.extend_from_slice(more);
        let checked = self.check(expr);
        self.known.truncate(before);
        checked
    }

    fn literal(&mut self, expr: &IdedExpr, literal: &LiteralValue) -> Option<Checked> {
        let place = self.place(expr);
        Some(match literal {
            LiteralValue::Boolean(b) => Checked::constant(Constant::Bool(*b.inner()), Type::Bool),
            LiteralValue::Int(i) => Checked::constant(Constant::Int(*i.inner()), Type::Int),
            LiteralValue::Double(d) => Checked::constant(Constant::Double(*d.inner()), Type::Double),
            LiteralValue::String(s) => text_constant(s.inner()),
            LiteralValue::UInt(u) => {
                let message = "unsigned numbers are not supported".to_owned();
                return self.refuse("not-supported", place, message, format!("write `{}`", u.inner()));
            }
            LiteralValue::Bytes(_) => {
                let message = "bytes are not supported".to_owned();
                return self.refuse("not-supported", place, message, "write a string without the `b`");
            }
            LiteralValue::Null => {
                let message = "nothing in a request is null".to_owned();
                return self.refuse("not-supported", place, message, "ask with `has(...)` whether a field is there");
            }
        })
    }

    /// A list of constants: any other would have to be made anew for each request.
    fn list(&mut self, expr: &IdedExpr, list: &ListExpr) -> Option<Checked> {
        let checked: Vec<Option<Checked>> = list.elements.iter().map(|e| self.check(e)).collect();
        let mut constants = Vec::with_capacity(checked.len());
        let mut first: Option<Type> = None;
        for (element, checked) in list.elements.iter().zip(checked) {
            let checked = checked?;
            let place = self.place(element);
            let Node::Constant(constant) = checked.node else {
                let hint = "write `x == a || x == b`";
                let message = "a list in a rule holds only what is known when it is loaded".to_owned();
                return self.refuse("not-supported", place, message, hint);
            };
            match first {
                Some(ty) if !ty.same(checked.ty) => {
                    let message = format!("the list holds a {ty} and a {}", checked.ty);
                    return self.refuse("wrong-type", place, message, "write all elements in one type");
                }
                _ => first = Some(checked.ty),
            }
            constants.push(constant);
        }
        let count = u32::try_from(constants.len()).unwrap_or(u32::MAX);
        let constant = Constant::List(constants);
        match (first, constant.type_of()) {
            // Numbers of a kind that a document cannot give: the element's own type is kept.
            (Some(ty @ (Type::Cpu | Type::Memory | Type::Time | Type::Span)), _) => {
                Some(Checked::constant(constant, Type::List(scalar(ty), count)))
            }
            (Some(Type::Quantity), _) => {
                let message = "quantities in a list are not supported".to_owned();
                self.refuse("not-supported", self.place(expr), message, "compare with each of them")
            }
            (_, Ok(ty)) => Some(Checked::constant(constant, ty)),
            (_, Err(why)) => self.refuse("not-supported", self.place(expr), why, "write a flat list"),
        }
    }
}

/// The static form of a type of numbers.
fn scalar(ty: Type) -> &'static Type {
    match ty {
        Type::Cpu => &Type::Cpu,
        Type::Memory => &Type::Memory,
        Type::Time => &Type::Time,
        _ => &Type::Span,
    }
}

fn text_constant(text: &str) -> Checked {
    let max = u32::try_from(text.len()).unwrap_or(u32::MAX);
    Checked::constant(Constant::Text(text.into()), Type::Text(max))
}

fn union(mut a: Vec<String>, b: &[String]) -> Vec<String> {
    for path in b {
        if !a.contains(path) {
            a.push(path.clone());
        }
    }
    a
}

fn intersection(a: &[String], b: &[String]) -> Vec<String> {
    a.iter().filter(|p| b.contains(p)).cloned().collect()
}
