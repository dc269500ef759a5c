//! Names, fields, entries, elements, and `has`.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr},
};

use super::{Checked, Checker, text_constant};
use crate::expr::{
    diagnostic::{Place, mean, nearest},
    node::{LOOK_UP_COST, Node, comparing},
    types::{RecordType, Type},
    value::Constant,
};

/// Words of other systems, and where the thing is here.
const ELSEWHERE: [(&str, &str); 7] = [
    ("metadata", "name, labels and annotations stand in `object` itself: `object.labels`"),
    ("status", "a request has no status; rules see what is asked for"),
    ("namespace", "a tenant is the namespace: `tenant.name`"),
    ("oldObject", "only creates are judged; there is no older object"),
    ("self", "the request's object is `object`"),
    ("variables", "variables are not supported; repeat the expression"),
    ("authorizer", "the caller's roles are in `request.roles`"),
];

impl Checker<'_> {
    pub(super) fn ident(&mut self, expr: &IdedExpr, name: &str) -> Option<Checked> {
        if let Some((slot, local)) = self.locals.iter().enumerate().rfind(|(_, l)| l.name == name) {
            let mut checked = Checked::new(Node::Local(slot), local.ty, 0);
            checked.path = Some(name.to_owned());
            return Some(checked);
        }
        if let Some((at, root)) = self.roots.iter().enumerate().find(|(_, r)| r.name == name) {
            self.looked = true;
            let mut checked = Checked::new(Node::Root(at), root.ty, 0);
            checked.path = Some(name.to_owned());
            return Some(checked);
        }
        let place = self.place(expr);
        if name == "params" {
            let hint = "name one of them: `params.NAME`";
            return self.refuse("wrong-type", place, "`params` is no value of its own".to_owned(), hint);
        }
        let locals: Vec<String> = self.locals.iter().map(|l| l.name.clone()).collect();
        let known = self.roots.iter().map(|r| r.name).chain(locals.iter().map(String::as_str)).chain(["params"]);
        let hint = ELSEWHERE.iter().find(|(word, _)| *word == name).map_or_else(
            || {
                let quoted = nearest(name, known.clone()).is_none() && !self.text.contains('(');
                if quoted {
                    format!("write \"{name}\" if it is text; {}", mean(name, known.clone()))
                } else {
                    mean(name, known)
                }
            },
            |(_, hint)| (*hint).to_owned(),
        );
        self.refuse("unknown-variable", place, format!("there is no variable `{name}`"), hint)
    }

    pub(super) fn select(&mut self, expr: &IdedExpr, operand: &IdedExpr, field: &str) -> Option<Checked> {
        if self.is_params(operand) {
            return self.param(self.after(expr, field), field);
        }
        let of = self.check(operand)?;
        let place = self.after(expr, field);
        match of.ty {
            Type::Record(record) => self.field(of, record, (field, place)),
            Type::Map(..) => self.entry(of, text_constant(field), place),
            ty => {
                let hint = match ty {
                    Type::List(..) => "a list's elements are reached with `.all(x, ...)`, `.exists(x, ...)` or `[0]`",
                    _ => "remove it, or call a function",
                };
                self.refuse("unknown-field", place, format!("a {ty} has no field `{field}`"), hint)
            }
        }
    }

    pub(super) fn is_params(&self, expr: &IdedExpr) -> bool {
        matches!(&expr.expr, Expr::Ident(name) if name == "params") && !self.locals.iter().any(|l| l.name == "params")
    }

    fn param(&mut self, place: Place, name: &str) -> Option<Checked> {
        let Some(constant) = self.params.get(name) else {
            let hint = match nearest(name, self.params.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add `{name}` under `params` of the document"),
            };
            return self.refuse("unknown-param", place, format!("the document has no param `{name}`"), hint);
        };
        match constant.type_of() {
            Ok(ty) => Some(Checked::constant(constant.clone(), ty)),
            Err(why) => self.refuse("wrong-type", place, format!("param `{name}`: {why}"), "mend the param"),
        }
    }

    /// A field that must be there.
    fn field(&mut self, of: Checked, record: &'static RecordType, (name, place): (&str, Place)) -> Option<Checked> {
        let (at, field) = self.known_field(record, name, place)?;
        let path = of.path.as_ref().map(|p| path_of(p, name));
        if field.optional {
            self.guarded(path.as_deref(), place, name)?;
        }
        let mut checked = Checked::new(Node::Field(Box::new(of.node), at), field.ty, of.cost);
        checked.path = path;
        Some(checked)
    }

    fn known_field(
        &mut self,
        record: &'static RecordType,
        name: &str,
        place: Place,
    ) -> Option<(usize, &'static super::Field)> {
        if let Some(found) = record.field(name) {
            return Some(found);
        }
        let names = record.fields.iter().map(|f| f.name);
        let hint = ELSEWHERE
            .iter()
            .find(|(word, _)| *word == name)
            .map_or_else(|| mean(name, names), |(_, hint)| (*hint).to_owned());
        self.refuse("unknown-field", place, format!("{} has no field `{name}`", record.name), hint)
    }

    /// Refuses to look at what may be absent and was not asked for.
    fn guarded(&mut self, path: Option<&str>, place: Place, name: &str) -> Option<()> {
        if path.is_some_and(|p| self.known.iter().any(|k| k == p)) {
            return Some(());
        }
        let message = format!("`{name}` may be absent, and then the rule denies");
        let hint = match path {
            Some(path) if path.ends_with(']') => {
                let (of, key) = path.rsplit_once('[').unwrap_or((path, ""));
                format!("ask first: `{} in {of} && ...`", key.trim_end_matches(']'))
            }
            Some(path) => format!("ask first: `has({path}) && ...`, or `!has({path}) || ...`"),
            None => "ask first with `has(...)`".to_owned(),
        };
        self.refuse("unguarded", place, message, hint)
    }

    /// An entry that must be there.
    pub(super) fn entry(&mut self, of: Checked, key: Checked, place: Place) -> Option<Checked> {
        let Type::Map(values, _) = of.ty else { return None };
        let path = entry_path(&of, &key);
        let name = key.constant_text().map_or_else(|| "the entry".to_owned(), str::to_owned);
        self.guarded(path.as_deref(), place, &name)?;
        let cost = of.cost + key.cost + look_up(&key);
        let mut checked = Checked::new(Node::Entry(Box::new(of.node), Box::new(key.node)), *values, cost);
        checked.path = path;
        Some(checked)
    }

    /// `of[key]`.
    pub(super) fn index(&mut self, expr: &IdedExpr, call: &CallExpr) -> Option<Checked> {
        let [of, key] = call.args.as_slice() else { return None };
        let place = self.place(expr);
        if self.is_params(of) {
            let key = self.check(key)?;
            let Some(name) = key.constant_text().map(str::to_owned) else {
                let message = "a param is named by a constant".to_owned();
                return self.refuse("wrong-type", place, message, "write `params.NAME`");
            };
            return self.param(place, &name);
        }
        let (of, key_place) = (self.check(of), self.place(key));
        let key = self.check(key);
        let (of, key) = (of?, key?);
        match of.ty {
            Type::List(element, _) if matches!(key.ty, Type::Int) => {
                let cost = of.cost + key.cost;
                Some(Checked::new(Node::Element(Box::new(of.node), Box::new(key.node)), *element, cost))
            }
            Type::Map(..) if key.ty.is_text() => self.entry(of, key, key_place),
            Type::Record(record) => {
                let Some(name) = key.constant_text().map(str::to_owned) else {
                    let message = format!("a field of {} is named by a constant", record.name);
                    return self.refuse("wrong-type", key_place, message, "write the name in quotes");
                };
                self.field(of, record, (&name, key_place))
            }
            ty => {
                let message = format!("a {ty} cannot be indexed by a {}", key.ty);
                let hint = "lists are indexed by a number, maps by a string";
                self.refuse("wrong-type", place, message, hint)
            }
        }
    }

    /// `has(of.field)`.
    pub(super) fn has(&mut self, expr: &IdedExpr, call: &CallExpr) -> Option<Checked> {
        let place = self.before(expr, "has");
        let Some(Expr::Select(select)) = call.args.first().map(|a| &a.expr).filter(|_| call.args.len() == 1) else {
            let hint = "write `has(object.spec.gpuType)`; for an entry of a map `\"key\" in map`";
            return self.refuse("wrong-arguments", place, "`has` takes one field".to_owned(), hint);
        };
        let argument = call.args.first()?;
        let field_place = self.after(argument, &select.field);
        if self.is_params(&select.operand) {
            let there = self.params.contains_key(&select.field);
            return Some(Checked::constant(Constant::Bool(there), Type::Bool));
        }
        let of = self.check(&select.operand)?;
        match of.ty {
            Type::Record(record) => self.has_field(of, record, (&select.field, field_place)),
            Type::Map(..) => Some(has_entry(of, text_constant(&select.field))),
            ty => {
                let message = format!("a {ty} has no field `{}`", select.field);
                self.refuse("unknown-field", field_place, message, "ask for a field of a record")
            }
        }
    }

    /// Whether a field is there.
    pub(super) fn has_field(
        &mut self,
        of: Checked,
        record: &'static RecordType,
        (name, place): (&str, Place),
    ) -> Option<Checked> {
        let (at, field) = self.known_field(record, name, place)?;
        if !field.optional {
            let hint = match field.ty {
                Type::List(..) | Type::Map(..) => "it may be empty: write `size(...) > 0`",
                Type::Text(_) => "it may be empty: write `... != \"\"`",
                _ => "remove the question",
            };
            return self.refuse("always-there", place, format!("`{name}` is always there"), hint);
        }
        let path = of.path.as_ref().map(|p| path_of(p, name));
        let mut checked = Checked::new(Node::Has(Box::new(of.node), at), Type::Bool, of.cost);
        checked.yes = path.into_iter().collect();
        Some(checked)
    }
}

/// Whether a map has an entry.
pub(super) fn has_entry(of: Checked, key: Checked) -> Checked {
    let path = entry_path(&of, &key);
    let cost = of.cost + key.cost + look_up(&key);
    let mut checked = Checked::new(Node::HasEntry(Box::new(of.node), Box::new(key.node)), Type::Bool, cost);
    checked.yes = path.into_iter().collect();
    checked
}

fn look_up(key: &Checked) -> u64 {
    let len = u64::from(key.ty.max());
    LOOK_UP_COST * (1 + comparing(len, len))
}

fn path_of(path: &str, field: &str) -> String {
    let plain = field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain { format!("{path}.{field}") } else { format!("{path}[\"{field}\"]") }
}

fn entry_path(of: &Checked, key: &Checked) -> Option<String> {
    let of = of.path.as_ref()?;
    match (key.constant_text(), &key.path) {
        (Some(text), _) => Some(format!("{of}[{text:?}]")),
        (None, Some(path)) => Some(format!("{of}[{path}]")),
        (None, None) => None,
    }
}
