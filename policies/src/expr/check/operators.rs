//! Operators.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, operators as sign},
};

use super::{Checked, Checker, access::has_entry, intersection, text_constant, union};
use crate::expr::{
    diagnostic::{Place, mean},
    node::{Arithmetic, Comparison, Node, comparing},
    types::Type,
    value::Constant,
};

impl Checker<'_> {
    /// An operator, or `None` for what is a function.
    pub(super) fn operator(&mut self, expr: &IdedExpr, call: &CallExpr) -> Option<Option<Checked>> {
        let comparison = match call.func_name.as_str() {
            sign::EQUALS => Some(Comparison::Equal),
            sign::NOT_EQUALS => Some(Comparison::NotEqual),
            sign::LESS => Some(Comparison::Less),
            sign::LESS_EQUALS => Some(Comparison::LessOrEqual),
            sign::GREATER => Some(Comparison::Greater),
            sign::GREATER_EQUALS => Some(Comparison::GreaterOrEqual),
            _ => None,
        };
        let arithmetic = match call.func_name.as_str() {
            sign::ADD => Some(Arithmetic::Add),
            sign::SUBSTRACT => Some(Arithmetic::Subtract),
            sign::MULTIPLY => Some(Arithmetic::Multiply),
            sign::DIVIDE => Some(Arithmetic::Divide),
            sign::MODULO => Some(Arithmetic::Remainder),
            _ => None,
        };
        let args = call.args.as_slice();
        Some(match (call.func_name.as_str(), args) {
            (sign::LOGICAL_NOT, [of]) => self.not(of),
            (sign::LOGICAL_AND, [a, b]) => self.both((a, b), true),
            (sign::LOGICAL_OR, [a, b]) => self.both((a, b), false),
            (sign::CONDITIONAL, [condition, then, otherwise]) => self.conditional(expr, [condition, then, otherwise]),
            (sign::NEGATE, [of]) => self.negate(expr, of),
            (sign::INDEX, [_, _]) => self.index(expr, call),
            (sign::IN, [item, list]) => self.is_in(expr, item, list),
            (_, [a, b]) if comparison.is_some() => self.compare(expr, comparison?, (a, b)),
            (_, [a, b]) if arithmetic.is_some() => self.arithmetic(expr, arithmetic?, (a, b)),
            _ => return None,
        })
    }

    fn truth(&mut self, expr: &IdedExpr, checked: Option<Checked>) -> Option<Checked> {
        let checked = checked?;
        if matches!(checked.ty, Type::Bool) {
            return Some(checked);
        }
        let message = format!("a condition is wanted here, but this is a {}", checked.ty);
        self.refuse("wrong-type", self.place(expr), message, "compare it with something: `== ...`")
    }

    fn not(&mut self, of: &IdedExpr) -> Option<Checked> {
        let checked = self.check(of);
        let of = self.truth(of, checked)?;
        let mut checked = Checked::new(Node::Not(Box::new(of.node)), Type::Bool, of.cost);
        (checked.yes, checked.no) = (of.no, of.yes);
        Some(checked)
    }

    fn both(&mut self, (a, b): (&IdedExpr, &IdedExpr), and: bool) -> Option<Checked> {
        let first = self.check(a);
        let first = self.truth(a, first);
        let known = first.as_ref().map(|f| if and { f.yes.clone() } else { f.no.clone() });
        let second = self.check_knowing(b, &known.unwrap_or_default());
        let second = self.truth(b, second);
        let (a, b) = (first?, second?);
        let (left, right) = (Box::new(a.node), Box::new(b.node));
        let node = if and { Node::And(left, right) } else { Node::Or(left, right) };
        let mut checked = Checked::new(node, Type::Bool, a.cost + b.cost);
        if and {
            checked.yes = union(a.yes, &b.yes);
            checked.no = intersection(&a.no, &b.no);
        } else {
            checked.yes = intersection(&a.yes, &b.yes);
            checked.no = union(a.no, &b.no);
        }
        Some(checked)
    }

    fn conditional(&mut self, expr: &IdedExpr, [condition, then, otherwise]: [&IdedExpr; 3]) -> Option<Checked> {
        let checked = self.check(condition);
        let condition = self.truth(condition, checked);
        let (yes, no) = condition.as_ref().map(|c| (c.yes.clone(), c.no.clone())).unwrap_or_default();
        let a = self.check_knowing(then, &yes);
        let b = self.check_knowing(otherwise, &no);
        let (condition, a, b) = (condition?, a?, b?);
        if !a.ty.same(b.ty) {
            let message = format!("one branch is a {}, the other a {}", a.ty, b.ty);
            return self.refuse("wrong-type", self.place(expr), message, "both must be of one type");
        }
        let ty = match (a.ty, b.ty) {
            (a, b) if a.is_text() => Type::Text(a.max().max(b.max())),
            (Type::List(of, x), Type::List(_, y)) => Type::List(of, x.max(y)),
            (Type::Map(of, x), Type::Map(_, y)) => Type::Map(of, x.max(y)),
            (ty, _) => ty,
        };
        let cost = condition.cost + a.cost.max(b.cost);
        Some(Checked::new(Node::If(Box::new([condition.node, a.node, b.node])), ty, cost))
    }

    fn negate(&mut self, expr: &IdedExpr, of: &IdedExpr) -> Option<Checked> {
        let of = self.check(of)?;
        if !matches!(of.ty, Type::Int | Type::Double | Type::Span) {
            let message = format!("`-` stands before a number, but this is a {}", of.ty);
            return self.refuse("wrong-type", self.place(expr), message, "for a condition write `!`");
        }
        Some(Checked::new(Node::Negate(Box::new(of.node)), of.ty, of.cost))
    }

    fn is_in(&mut self, expr: &IdedExpr, item: &IdedExpr, list: &IdedExpr) -> Option<Checked> {
        let place = self.place(expr);
        let item_place = self.place(item);
        let item = self.check(item);
        let list = self.check(list);
        let (item, list) = (item?, list?);
        match list.ty {
            Type::List(element, max) if element.same(item.ty) => {
                self.words_in(item.ty, &list.node, place)?;
                if let (Type::Word(words), Some(text)) = (*element, item.constant_text()) {
                    self.word(words, text, item_place)?;
                }
                let each = 1 + comparing(u64::from(element.max()), u64::from(item.ty.max()));
                let cost = item.cost + list.cost + each.saturating_mul(u64::from(max));
                Some(Checked::new(Node::Member(Box::new(item.node), Box::new(list.node)), Type::Bool, cost))
            }
            Type::Map(..) if item.ty.is_text() => Some(has_entry(list, item)),
            Type::Record(record) if item.constant_text().is_some() => {
                let name = item.constant_text()?.to_owned();
                self.has_field(list, record, (&name, item_place))
            }
            Type::List(element, _) => {
                let message = format!("a {} cannot be in a list of {element}", item.ty);
                let hint = unlike(item.ty, *element);
                self.refuse("wrong-type", place, message, hint)
            }
            ty => {
                let message = format!("`in` asks a list or a map, but this is a {ty}");
                let hint = if ty.is_text() { "for part of a text write `.contains(...)`" } else { "write `==`" };
                self.refuse("wrong-type", place, message, hint)
            }
        }
    }

    /// Constants that a word is looked for among must be words that there are.
    fn words_in(&mut self, item: Type, list: &Node, place: Place) -> Option<()> {
        if let (Type::Word(words), Node::Constant(Constant::List(constants))) = (item, list) {
            for constant in constants {
                if let Constant::Text(text) = constant {
                    self.word(words, text, place)?;
                }
            }
        }
        Some(())
    }

    fn word(&mut self, words: &'static [&'static str], text: &str, place: Place) -> Option<()> {
        if words.contains(&text) {
            return Some(());
        }
        let hint = mean(text, words.iter().copied());
        self.refuse("unknown-word", place, format!("it is never {text:?}"), hint)
    }

    fn compare(&mut self, expr: &IdedExpr, how: Comparison, (a, b): (&IdedExpr, &IdedExpr)) -> Option<Checked> {
        let place = self.place(expr);
        let places = (self.place(a), self.place(b));
        let (a, b) = (self.check(a), self.check(b));
        let (a, b) = self.same_quantity((a?, b?), place)?;
        if !a.ty.same(b.ty) {
            let message = format!("a {} is compared with a {}", a.ty, b.ty);
            return self.refuse("wrong-type", place, message, unlike(a.ty, b.ty));
        }
        if matches!(a.ty, Type::List(..) | Type::Map(..) | Type::Record(_)) {
            let message = format!("a {} cannot be compared as a whole", a.ty);
            let hint = "compare what is in it: `.all(x, x in ...)`, or field by field";
            return self.refuse("not-supported", place, message, hint);
        }
        let ordered = !matches!(how, Comparison::Equal | Comparison::NotEqual);
        if ordered && !(a.ty.has_order() && b.ty.has_order()) {
            let message = format!("a {} has no order", a.ty);
            return self.refuse("wrong-type", place, message, "write `==` or `!=`");
        }
        for (word, text, at) in [(&a, &b, places.1), (&b, &a, places.0)] {
            if let (Type::Word(words), Some(text)) = (word.ty, text.constant_text()) {
                self.word(words, text, at)?;
            }
        }
        let weight = if a.ty.is_text() { comparing(u64::from(a.ty.max()), u64::from(b.ty.max())) } else { 0 };
        let cost = a.cost + b.cost + weight;
        Some(Checked::new(Node::Compare(how, Box::new(a.node), Box::new(b.node)), Type::Bool, cost))
    }

    /// Gives a quantity in text the unit of what it stands beside.
    fn same_quantity(&mut self, (a, b): (Checked, Checked), place: Place) -> Option<(Checked, Checked)> {
        match (a.ty, b.ty) {
            (Type::Quantity, Type::Quantity) => {
                let message = "two quantities that are known are compared".to_owned();
                self.refuse("wrong-type", place, message, "compare a field with a quantity")
            }
            (Type::Quantity, unit @ (Type::Cpu | Type::Memory)) => Some((self.in_unit(a, unit, place)?, b)),
            (unit @ (Type::Cpu | Type::Memory), Type::Quantity) => {
                let b = self.in_unit(b, unit, place)?;
                Some((a, b))
            }
            _ => Some((a, b)),
        }
    }

    fn in_unit(&mut self, quantity: Checked, unit: Type, place: Place) -> Option<Checked> {
        let Some(text) = quantity.constant_text() else {
            let message = "a quantity must be compared where it is written".to_owned();
            return self.refuse("not-supported", place, message, "write `cpu <= quantity(\"2\")`");
        };
        let parsed = match unit {
            Type::Cpu => text.parse::<meridian_model::quantity::MilliCpu>().map(|c| c.0),
            _ => text.parse::<meridian_model::quantity::MemoryMib>().map(|m| m.0),
        };
        match parsed {
            Ok(n) => Some(Checked::constant(Constant::Int(i64::try_from(n).unwrap_or(i64::MAX)), unit)),
            Err(why) => {
                let hint = format!("write {}", why.example);
                let message = format!("{text:?} is no {}", why.what);
                self.refuse("wrong-value", place, message, hint)
            }
        }
    }

    fn arithmetic(&mut self, expr: &IdedExpr, how: Arithmetic, (a, b): (&IdedExpr, &IdedExpr)) -> Option<Checked> {
        let place = self.place(expr);
        let (a, b) = (self.check(a), self.check(b));
        let (a, b) = (a?, b?);
        if how == Arithmetic::Add && a.ty.is_text() && b.ty.is_text() {
            return self.concat(a, b, place);
        }
        let (a, b) = self.same_quantity((a, b), place)?;
        let ty = match (how, a.ty, b.ty) {
            (_, Type::Int, Type::Int) => Some(Type::Int),
            (
                Arithmetic::Add | Arithmetic::Subtract | Arithmetic::Multiply | Arithmetic::Divide,
                Type::Double,
                Type::Double,
            ) => Some(Type::Double),
            (Arithmetic::Add | Arithmetic::Subtract, x @ (Type::Cpu | Type::Memory | Type::Span), y) if x.same(y) => {
                Some(x)
            }
            (Arithmetic::Multiply | Arithmetic::Divide, x @ (Type::Cpu | Type::Memory | Type::Span), Type::Int) => {
                Some(x)
            }
            (Arithmetic::Multiply, Type::Int, x @ (Type::Cpu | Type::Memory | Type::Span)) => Some(x),
            (Arithmetic::Subtract, Type::Time, Type::Time) => Some(Type::Span),
            (Arithmetic::Add | Arithmetic::Subtract, Type::Time, Type::Span)
            | (Arithmetic::Add, Type::Span, Type::Time) => Some(Type::Time),
            _ => None,
        };
        let Some(ty) = ty else {
            let sign = match how {
                Arithmetic::Add => "+",
                Arithmetic::Subtract => "-",
                Arithmetic::Multiply => "*",
                Arithmetic::Divide => "/",
                Arithmetic::Remainder => "%",
            };
            let message = format!("`{sign}` does not go with a {} and a {}", a.ty, b.ty);
            return self.refuse("wrong-type", place, message, unlike(a.ty, b.ty));
        };
        let cost = a.cost + b.cost;
        Some(Checked::new(Node::Arithmetic(how, Box::new(a.node), Box::new(b.node)), ty, cost))
    }

    fn concat(&mut self, a: Checked, b: Checked, place: Place) -> Option<Checked> {
        if let (Some(a), Some(b)) = (a.constant_text(), b.constant_text()) {
            return Some(text_constant(&format!("{a}{b}")));
        }
        if !self.message {
            let message = "texts are put together only in messages".to_owned();
            let hint = "compare the parts: `.startsWith(...) && .endsWith(...)`";
            return self.refuse("not-supported", place, message, hint);
        }
        let ty = Type::Text(a.ty.max().saturating_add(b.ty.max()));
        let cost = a.cost + b.cost;
        Some(Checked::new(Node::Concat(Box::new(a.node), Box::new(b.node)), ty, cost))
    }
}

/// How to mend that two types do not go together.
fn unlike(a: Type, b: Type) -> &'static str {
    match (a, b) {
        (Type::Cpu, Type::Memory) | (Type::Memory, Type::Cpu) => "processor time and memory have no common unit",
        (Type::Cpu, _) | (_, Type::Cpu) => "write the amount as `quantity(\"500m\")` or `quantity(\"2\")`",
        (Type::Memory, _) | (_, Type::Memory) => "write the amount as `quantity(\"512Mi\")` or `quantity(\"2Gi\")`",
        (Type::Time, _) | (_, Type::Time) => "write the time as `timestamp(\"2026-01-31T00:00:00Z\")`",
        (Type::Span, _) | (_, Type::Span) => "write the time as `duration(\"30s\")`",
        (Type::Int, Type::Double) | (Type::Double, Type::Int) => "write both with a point (`2.0`) or both without",
        (Type::Bool, Type::Text(_)) | (Type::Text(_), Type::Bool) => "write `true` and `false` without quotes",
        (Type::Int, x) | (x, Type::Int) if x.is_text() => "numbers stand without quotes, text with them",
        (Type::Int, Type::List(..)) | (Type::List(..), Type::Int) => "for the length of a list write `size(...)`",
        _ => "both must be of one type",
    }
}
