//! Evaluation of a checked expression: no allocation but for messages, a unit of fuel for each step, and no answer
//! but `true` or `false` or a fault, which denies.
//!
//! `&&` and `||` are CEL's: an operand that settles the result does so whichever side it stands on and whatever the
//! other did. Fuel is the exception: when it is out, it is out.

use std::{cmp::Ordering, net::IpAddr};

use meridian_model::{
    quantity::{MemoryMib, MilliCpu, Span},
    time::Time,
};

use super::{
    civil,
    node::{
        Affix, Arithmetic, Comparison, LOOK_UP_COST, Node, Quantifier, Shown, TIME_PART_COST, comparing, matching,
        searching,
    },
    schema::RootValues,
    value::{Constant, Value},
};
use crate::image;

/// Deepest nesting of quantifiers.
pub const LOCALS_MAX: usize = 4;
/// Longest message, in bytes; the rest is cut.
pub const MESSAGE_LEN_MAX: usize = 1024;

/// Why an expression has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A number is too large.
    #[error("a number is too large")]
    Overflow,
    /// Division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// Something that may be absent is, and was not asked for.
    #[error("a value that is looked at is absent")]
    Absent,
    /// An index is past the end.
    #[error("an index is past the end of its list")]
    OutOfRange,
    /// A text that is asked for its network is no address.
    #[error("a text is no address")]
    NoAddress,
    /// The request is larger than the bounds of validation allow, or the bound of cost is wrong.
    #[error("it costs more than its bound")]
    OutOfFuel,
    /// The checked tree and the schema do not agree: a bug.
    #[error("the rule does not fit the request")]
    Mismatch,
}

/// What evaluation needs and what it leaves behind.
#[derive(Debug)]
pub struct Meter {
    /// Units left.
    pub fuel: u64,
    /// For each quantifier `all` that failed last, by nesting: the number of the element that failed it.
    pub failed_at: [Option<usize>; LOCALS_MAX],
}

impl Meter {
    /// A meter with that much fuel.
    #[must_use]
    pub fn new(fuel: u64) -> Self {
        Self { fuel, failed_at: [None; LOCALS_MAX] }
    }
}

type Answer<'a> = Result<Value<'a>, Fault>;

pub(super) struct Evaluation<'a, 'm> {
    roots: RootValues<'a>,
    locals: [Value<'a>; LOCALS_MAX],
    meter: &'m mut Meter,
}

impl<'a, 'm> Evaluation<'a, 'm> {
    pub fn new(roots: RootValues<'a>, meter: &'m mut Meter) -> Self {
        Self { roots, locals: [Value::Absent; LOCALS_MAX], meter }
    }

    fn pay(&mut self, units: u64) -> Result<(), Fault> {
        self.meter.fuel = self.meter.fuel.checked_sub(units).ok_or(Fault::OutOfFuel)?;
        Ok(())
    }

    pub fn truth(&mut self, node: &'a Node) -> Result<bool, Fault> {
        match self.value(node)? {
            Value::Bool(b) => Ok(b),
            _ => Err(Fault::Mismatch),
        }
    }

    fn text(&mut self, node: &'a Node) -> Result<&'a str, Fault> {
        match self.value(node)? {
            Value::Text(text) => Ok(text),
            _ => Err(Fault::Mismatch),
        }
    }

    fn int(&mut self, node: &'a Node) -> Result<i64, Fault> {
        match self.value(node)? {
            Value::Int(n) => Ok(n),
            _ => Err(Fault::Mismatch),
        }
    }

    pub fn value(&mut self, node: &'a Node) -> Answer<'a> {
        self.pay(1)?;
        match node {
            Node::Constant(constant) => Ok(constant.value()),
            Node::Root(at) => self.roots.get(*at).copied().ok_or(Fault::Mismatch),
            Node::Local(at) => self.locals.get(*at).copied().ok_or(Fault::Mismatch),
            Node::Field(of, at) => match self.field(of, *at)? {
                Value::Absent => Err(Fault::Absent),
                value => Ok(value),
            },
            Node::Has(of, at) => Ok(Value::Bool(!matches!(self.field(of, *at)?, Value::Absent))),
            Node::Entry(of, key) => self.entry(of, key)?.ok_or(Fault::Absent),
            Node::HasEntry(of, key) => Ok(Value::Bool(self.entry(of, key)?.is_some())),
            Node::Element(of, at) => self.element(of, at),
            Node::Member(item, list) => self.member(item, list),
            Node::Not(of) => Ok(Value::Bool(!self.truth(of)?)),
            Node::And(a, b) => self.both(a, b, false),
            Node::Or(a, b) => self.both(a, b, true),
            Node::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                if self.truth(condition)? { self.value(then) } else { self.value(otherwise) }
            }
            Node::Compare(how, a, b) => self.compare(*how, a, b),
            Node::Arithmetic(how, a, b) => self.arithmetic(*how, a, b),
            Node::Negate(of) => match self.value(of)? {
                Value::Int(n) => n.checked_neg().map(Value::Int).ok_or(Fault::Overflow),
                Value::Double(d) => Ok(Value::Double(-d)),
                _ => Err(Fault::Mismatch),
            },
            Node::Quantified { kind, range, slot, body } => self.quantified(*kind, range, *slot, body),
            Node::Size(of) => self.size(of),
            Node::Affix(how, text, part) => self.affix(*how, text, part),
            Node::Matches(text, pattern) => {
                let text = self.text(text)?;
                self.pay(matching(len(text), pattern.states))?;
                Ok(Value::Bool(pattern.regex.is_match(text)))
            }
            Node::Part(part, time, offset) => {
                let at = self.int(time)?;
                self.pay(TIME_PART_COST)?;
                Ok(Value::Int(civil::part(*part, at.saturating_add(*offset))))
            }
            Node::InNetwork(network, address) => {
                let address = self.text(address)?.parse().map_err(|_| Fault::NoAddress)?;
                Ok(Value::Bool(network.contains(address)))
            }
            Node::Registry(text) => Ok(Value::Text(image::registry(self.text(text)?))),
            Node::IsAddress(text) => Ok(Value::Bool(self.text(text)?.parse::<IpAddr>().is_ok())),
            Node::Concat(..) | Node::Show(..) | Node::Join(..) => Err(Fault::Mismatch),
        }
    }

    fn field(&mut self, of: &'a Node, at: usize) -> Answer<'a> {
        match self.value(of)? {
            Value::Record(record) => Ok(record.field(at)),
            _ => Err(Fault::Mismatch),
        }
    }

    fn entry(&mut self, of: &'a Node, key: &'a Node) -> Result<Option<Value<'a>>, Fault> {
        let map = self.value(of)?;
        let key = self.text(key)?;
        self.pay(LOOK_UP_COST.saturating_mul(1 + comparing(len(key), len(key))))?;
        match map {
            Value::Labels(labels) => Ok(labels.get(key).map(|v| Value::Text(v))),
            Value::ConstantMap(map) => Ok(map.get(key).map(Constant::value)),
            _ => Err(Fault::Mismatch),
        }
    }

    fn element(&mut self, of: &'a Node, at: &'a Node) -> Answer<'a> {
        let list = self.value(of)?;
        let at = usize::try_from(self.int(at)?).map_err(|_| Fault::OutOfRange)?;
        match list {
            Value::List(list) if at < list.len() => Ok(list.at(at)),
            Value::Constants(list) => list.get(at).map(Constant::value).ok_or(Fault::OutOfRange),
            Value::List(_) => Err(Fault::OutOfRange),
            _ => Err(Fault::Mismatch),
        }
    }

    fn member(&mut self, item: &'a Node, list: &'a Node) -> Answer<'a> {
        let item = self.value(item)?;
        let list = self.value(list)?;
        let mut at = 0;
        while let Some(element) = nth(list, at)? {
            self.pay(1 + weight(item, element))?;
            if order(item, element) == Some(Ordering::Equal) {
                return Ok(Value::Bool(true));
            }
            at += 1;
        }
        Ok(Value::Bool(false))
    }

    /// `settles` is the operand that settles the result: `false` for and, `true` for or.
    fn both(&mut self, a: &'a Node, b: &'a Node, settles: bool) -> Answer<'a> {
        let first = self.truth(a);
        match first {
            Ok(b) if b == settles => return Ok(Value::Bool(settles)),
            Err(Fault::OutOfFuel) => return Err(Fault::OutOfFuel),
            _ => {}
        }
        let second = self.truth(b)?;
        if second == settles { Ok(Value::Bool(settles)) } else { first.map(|_| Value::Bool(!settles)) }
    }

    fn compare(&mut self, how: Comparison, a: &'a Node, b: &'a Node) -> Answer<'a> {
        let a = self.value(a)?;
        let b = self.value(b)?;
        self.pay(weight(a, b))?;
        let order = order(a, b);
        // Only floats have no order, when one of them is not a number; then nothing but `!=` holds.
        Ok(Value::Bool(match how {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::NotEqual => order != Some(Ordering::Equal),
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }))
    }

    fn arithmetic(&mut self, how: Arithmetic, a: &'a Node, b: &'a Node) -> Answer<'a> {
        match (self.value(a)?, self.value(b)?) {
            (Value::Int(a), Value::Int(b)) => {
                if b == 0 && matches!(how, Arithmetic::Divide | Arithmetic::Remainder) {
                    return Err(Fault::DivisionByZero);
                }
                let result = match how {
                    Arithmetic::Add => a.checked_add(b),
                    Arithmetic::Subtract => a.checked_sub(b),
                    Arithmetic::Multiply => a.checked_mul(b),
                    Arithmetic::Divide => a.checked_div(b),
                    Arithmetic::Remainder => a.checked_rem(b),
                };
                result.map(Value::Int).ok_or(Fault::Overflow)
            }
            (Value::Double(a), Value::Double(b)) => Ok(Value::Double(match how {
                Arithmetic::Add => a + b,
                Arithmetic::Subtract => a - b,
                Arithmetic::Multiply => a * b,
                Arithmetic::Divide => a / b,
                Arithmetic::Remainder => return Err(Fault::Mismatch),
            })),
            _ => Err(Fault::Mismatch),
        }
    }

    fn quantified(&mut self, kind: Quantifier, range: &'a Node, slot: usize, body: &'a Node) -> Answer<'a> {
        match self.value(range)? {
            Value::Labels(labels) => self.over(kind, slot, body, &mut labels.keys().map(|k| Value::Text(k))),
            Value::ConstantMap(map) => self.over(kind, slot, body, &mut map.keys().map(|k| Value::Text(k))),
            Value::List(list) => self.over(kind, slot, body, &mut (0..list.len()).map(|i| list.at(i))),
            Value::Constants(list) => self.over(kind, slot, body, &mut list.iter().map(Constant::value)),
            _ => Err(Fault::Mismatch),
        }
    }

    fn over(
        &mut self,
        kind: Quantifier,
        slot: usize,
        body: &'a Node,
        items: &mut dyn Iterator<Item = Value<'a>>,
    ) -> Answer<'a> {
        let mut held = 0_u32;
        let mut fault = None;
        for (at, item) in items.enumerate() {
            self.pay(1)?;
            *self.locals.get_mut(slot).ok_or(Fault::Mismatch)? = item;
            match (kind, self.truth(body)) {
                (_, Err(Fault::OutOfFuel)) => return Err(Fault::OutOfFuel),
                (Quantifier::All, Ok(false)) => {
                    if let Some(failed) = self.meter.failed_at.get_mut(slot) {
                        *failed = Some(at);
                    }
                    return Ok(Value::Bool(false));
                }
                (Quantifier::Exists, Ok(true)) => return Ok(Value::Bool(true)),
                (_, Ok(held_here)) => held += u32::from(held_here),
                // One is a count, and a count with an unknown summand is unknown.
                (Quantifier::One, Err(why)) => return Err(why),
                (_, Err(why)) => fault = fault.or(Some(why)),
            }
        }
        match (fault, kind) {
            (Some(why), _) => Err(why),
            (None, Quantifier::All) => Ok(Value::Bool(true)),
            (None, Quantifier::Exists) => Ok(Value::Bool(false)),
            (None, Quantifier::One) => Ok(Value::Bool(held == 1)),
        }
    }

    fn size(&mut self, of: &'a Node) -> Answer<'a> {
        let size = match self.value(of)? {
            Value::Text(text) => {
                self.pay(searching(len(text)))?;
                text.chars().count()
            }
            Value::List(list) => list.len(),
            Value::Labels(labels) => labels.len(),
            Value::Constants(list) => list.len(),
            Value::ConstantMap(map) => map.len(),
            _ => return Err(Fault::Mismatch),
        };
        i64::try_from(size).map(Value::Int).map_err(|_| Fault::Overflow)
    }

    fn affix(&mut self, how: Affix, text: &'a Node, part: &'a Node) -> Answer<'a> {
        let text = self.text(text)?;
        let part = self.text(part)?;
        self.pay(match how {
            Affix::Start | Affix::End => comparing(len(text), len(part)),
            Affix::Anywhere => searching(len(text)),
        })?;
        Ok(Value::Bool(match how {
            Affix::Start => text.starts_with(part),
            Affix::End => text.ends_with(part),
            Affix::Anywhere => text.contains(part),
        }))
    }

    /// Writes the text of a message; what passes [`MESSAGE_LEN_MAX`] is left out.
    pub fn write(&mut self, node: &'a Node, out: &mut String) -> Result<(), Fault> {
        match node {
            Node::Concat(a, b) => {
                self.write(a, out)?;
                self.write(b, out)
            }
            Node::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                if self.truth(condition)? { self.write(then, out) } else { self.write(otherwise, out) }
            }
            Node::Show(of, shown) => {
                let value = self.value(of)?;
                push(out, &text_of(value, *shown)?);
                Ok(())
            }
            Node::Join(list, between) => {
                let list = self.value(list)?;
                let mut at = 0;
                while let Some(Value::Text(text)) = nth(list, at)? {
                    self.pay(1)?;
                    if at > 0 {
                        push(out, between);
                    }
                    push(out, text);
                    at += 1;
                }
                Ok(())
            }
            _ => {
                let text = self.text(node)?;
                push(out, text);
                Ok(())
            }
        }
    }
}

fn push(out: &mut String, text: &str) {
    let mut room = MESSAGE_LEN_MAX.saturating_sub(out.len()).min(text.len());
    while !text.is_char_boundary(room) {
        room -= 1;
    }
    out.push_str(text.get(..room).unwrap_or_default());
}

fn text_of(value: Value<'_>, shown: Shown) -> Result<String, Fault> {
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(match (value, shown) {
        (Value::Text(text), _) => text.to_owned(),
        (Value::Bool(b), _) => b.to_string(),
        (Value::Double(d), _) => d.to_string(),
        (Value::Int(n), Shown::Plain) => n.to_string(),
        (Value::Int(n), Shown::Cpu) => MilliCpu(unsigned(n)).to_string(),
        (Value::Int(n), Shown::Memory) => MemoryMib(unsigned(n)).to_string(),
        (Value::Int(n), Shown::Span) => Span(std::time::Duration::from_millis(unsigned(n))).to_string(),
        (Value::Int(n), Shown::Time) => Time::from_unix_ms(n).to_string(),
        _ => return Err(Fault::Mismatch),
    })
}

fn nth(list: Value<'_>, at: usize) -> Result<Option<Value<'_>>, Fault> {
    match list {
        Value::List(list) => Ok((at < list.len()).then(|| list.at(at))),
        Value::Constants(list) => Ok(list.get(at).map(Constant::value)),
        _ => Err(Fault::Mismatch),
    }
}

fn len(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// Cost of comparing two values, beside the operands.
fn weight(a: Value<'_>, b: Value<'_>) -> u64 {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => comparing(len(a), len(b)),
        _ => 0,
    }
}

fn order(a: Value<'_>, b: Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(&b)),
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(&b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(&b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}
