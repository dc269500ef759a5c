//! Functions and quantifiers.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr},
};
use meridian_model::{quantity::Span, time::Time};
use regex_lite::RegexBuilder;

use super::{COST_MAX, Checked, Checker, Local};
use crate::expr::{
    civil,
    diagnostic::{Place, nearest},
    eval::LOCALS_MAX,
    node::{
        Affix, Network, Node, Pattern, Quantifier, Shown, TIME_PART_COST, TimePart, comparing, matching, searching,
    },
    types::Type,
    value::Constant,
};

/// Longest pattern of `matches`, in bytes.
const PATTERN_LEN_MAX: usize = 512;
/// Largest compiled pattern, in bytes: a DNS name written with all its lengths (`[a-z]{1,63}` eleven times) is less, a
/// counted repetition in a counted repetition more.
const PATTERN_SIZE_MAX: usize = 64 * 1024;
/// Bytes of one state of a compiled pattern (`regex-lite`'s `State`).
const STATE_SIZE: usize = 32;

/// Bytes of the registry that is meant when an image names none.
const IMAGE_HOST_LEN_MAX: u32 = 9;

/// Every function, for suggestions.
const FUNCTIONS: [&str; 26] = [
    "has",
    "all",
    "exists",
    "exists_one",
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "quantity",
    "duration",
    "timestamp",
    "cidr",
    "containsIP",
    "isIP",
    "string",
    "join",
    "getFullYear",
    "getMonth",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "registry",
];

/// Functions that CEL or Kubernetes has and we have not, with what to write instead.
const UNSUPPORTED: [(&str, &str); 13] = [
    ("map", "write what must hold with `.all(x, ...)` or `.exists(x, ...)`; no list is made"),
    ("filter", "write the filter into the condition: `.all(x, !filter || ...)`"),
    ("int", "numbers of the request are integers; quantities compare with `quantity(...)`"),
    ("uint", "write the number without it"),
    ("double", "write the number with a point: `2.0`"),
    ("bool", "compare with `true`, or leave the comparison out"),
    ("bytes", "compare strings"),
    ("dyn", "types are known here; leave it out"),
    ("type", "types are known here; leave it out"),
    ("lowerAscii", "write a pattern: `.matches(\"(?i)...\")`"),
    ("split", "write a pattern: `.matches(...)`"),
    ("isGreaterThan", "quantities compare with `>`"),
    ("isLessThan", "quantities compare with `<`"),
];

impl Checker<'_> {
    pub(super) fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Option<Checked> {
        if let Some(checked) = self.operator(expr, call) {
            return checked;
        }
        let name = call.func_name.as_str();
        match (&call.target, name) {
            (None, "has") => return self.has(expr, call),
            (None, "quantity" | "duration" | "timestamp") => return self.literal_call(expr, call),
            (Some(target), "all" | "exists" | "exists_one" | "existsOne") => {
                return self.quantified(expr, call, target);
            }
            (Some(target), "containsIP") => return self.in_network(expr, call, target),
            _ => {}
        }
        if let Some((_, hint)) = UNSUPPORTED.iter().find(|(n, _)| *n == name) {
            let place = self.before(expr, name);
            return self.refuse("not-supported", place, format!("`{name}` is not supported"), *hint);
        }
        let place = self.before(expr, name);
        if !FUNCTIONS.contains(&name) {
            let hint = match nearest(name, FUNCTIONS.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "there are has, size, startsWith, endsWith, contains, matches, all, exists, exists_one, \
                         quantity, duration, timestamp, registry, cidr and the get functions of times"
                    .to_owned(),
            };
            return self.refuse("unknown-function", place, format!("there is no function `{name}`"), hint);
        }
        let arguments: Vec<Option<Checked>> =
            call.target.as_deref().into_iter().chain(&call.args).map(|a| self.check(a)).collect();
        let arguments: Vec<Checked> = arguments.into_iter().collect::<Option<_>>()?;
        self.function((name, place), call.target.is_some(), arguments)
    }

    fn function(&mut self, (name, place): (&str, Place), member: bool, mut args: Vec<Checked>) -> Option<Checked> {
        let second = if args.len() == 2 { args.pop() } else { None };
        let first = if args.len() == 1 { args.pop() } else { None };
        let (Some(first), true) = (first, args.is_empty()) else { return self.wrong_arguments(name, place) };
        match (name, member, second) {
            ("size", _, None) => self.size(first, place),
            ("startsWith", true, Some(part)) => self.affix(Affix::Start, (first, part), (name, place)),
            ("endsWith", true, Some(part)) => self.affix(Affix::End, (first, part), (name, place)),
            ("contains", true, Some(part)) => self.affix(Affix::Anywhere, (first, part), (name, place)),
            ("matches", _, Some(pattern)) => self.matches((first, pattern), place),
            ("isIP", false, None) if first.ty.is_text() => {
                Some(Checked::new(Node::IsAddress(Box::new(first.node)), Type::Bool, first.cost))
            }
            ("registry", false, None) if first.ty.is_text() => {
                let ty = Type::Text(first.ty.max().max(IMAGE_HOST_LEN_MAX));
                Some(Checked::new(Node::Registry(Box::new(first.node)), ty, first.cost))
            }
            ("string", false, None) => self.shown(first, place),
            ("join", true, between) => self.join(first, between, place),
            (_, true, zone) if name.starts_with("get") => self.part(first, zone, (name, place)),
            _ => self.wrong_arguments(name, place),
        }
    }

    fn wrong_arguments<T>(&mut self, name: &str, place: Place) -> Option<T> {
        let form = match name {
            "size" => "size(list)",
            "startsWith" | "endsWith" | "contains" => {
                return self.refuse(
                    "wrong-arguments",
                    place,
                    format!("`{name}` is not called like this"),
                    format!("write `text.{name}(\"...\")`"),
                );
            }
            "matches" => "text.matches(\"pattern\")",
            "isIP" => "isIP(text)",
            "registry" => "registry(container.image)",
            "cidr" | "containsIP" => "cidr(\"10.0.0.0/8\").containsIP(text)",
            "string" => "string(value)",
            "join" => "list.join(\", \")",
            _ => "request.time.getHours(\"+08:00\")",
        };
        let message = format!("`{name}` is not called like this");
        self.refuse("wrong-arguments", place, message, format!("write `{form}`"))
    }

    fn size(&mut self, of: Checked, place: Place) -> Option<Checked> {
        let extra = match of.ty {
            Type::List(..) | Type::Map(..) => 0,
            ty if ty.is_text() => searching(u64::from(ty.max())),
            ty => {
                let message = format!("a {ty} has no size");
                return self.refuse("wrong-type", place, message, "it is for lists, maps and strings");
            }
        };
        Some(Checked::new(Node::Size(Box::new(of.node)), Type::Int, of.cost + extra))
    }

    fn affix(&mut self, how: Affix, (text, part): (Checked, Checked), (name, place): (&str, Place)) -> Option<Checked> {
        if !(text.ty.is_text() && part.ty.is_text()) {
            let message = format!("`{name}` is for strings, not for a {} and a {}", text.ty, part.ty);
            let hint = match text.ty {
                Type::List(..) => "for an element of a list write `x in list`, or `.exists(x, ...)`",
                _ => "numbers and quantities are compared",
            };
            return self.refuse("wrong-type", place, message, hint);
        }
        let (len, part_len) = (u64::from(text.ty.max()), u64::from(part.ty.max()));
        let extra = if how == Affix::Anywhere { searching(len) } else { comparing(len, part_len) };
        let cost = text.cost + part.cost + extra;
        Some(Checked::new(Node::Affix(how, Box::new(text.node), Box::new(part.node)), Type::Bool, cost))
    }

    fn matches(&mut self, (text, pattern): (Checked, Checked), place: Place) -> Option<Checked> {
        if !(text.ty.is_text() && pattern.ty.is_text()) {
            let message = format!("`matches` is for strings, not for a {} and a {}", text.ty, pattern.ty);
            return self.refuse("wrong-type", place, message, "write `text.matches(\"pattern\")`");
        }
        let Some(source) = pattern.constant_text() else {
            let hint = "write it as a string, or take it from `params`";
            return self.refuse("not-constant", place, "a pattern must be known when it is loaded".to_owned(), hint);
        };
        if source.len() > PATTERN_LEN_MAX {
            let message = format!("the pattern is longer than {PATTERN_LEN_MAX} bytes");
            return self.refuse("wrong-value", place, message, "use several patterns");
        }
        match RegexBuilder::new(source).size_limit(PATTERN_SIZE_MAX).build() {
            Ok(regex) => {
                let states = states(source);
                let cost = text.cost + matching(u64::from(text.ty.max()), states);
                let pattern = Box::new(Pattern { regex, states });
                Some(Checked::new(Node::Matches(Box::new(text.node), pattern), Type::Bool, cost))
            }
            Err(why) => {
                let hint = "patterns are RE2's without Unicode classes: no look-around, no back references";
                self.refuse("wrong-value", place, format!("the pattern cannot be read: {why}"), hint)
            }
        }
    }

    /// `quantity("2")`, `duration("8h")`, `timestamp("...")`: known when loaded.
    fn literal_call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Option<Checked> {
        let name = call.func_name.as_str();
        let place = self.before(expr, name);
        let [argument] = call.args.as_slice() else {
            return self.refuse("wrong-arguments", place, format!("`{name}` takes one string"), example(name));
        };
        let checked = self.check(argument)?;
        let Some(text) = checked.constant_text() else {
            let message = format!("`{name}` takes a string that is known when it is loaded");
            let hint = format!("{}; it may be a param", example(name));
            return self.refuse("not-constant", place, message, hint);
        };
        let parsed = match name {
            "quantity" => return Some(Checked { ty: Type::Quantity, ..checked }),
            "duration" => (text.parse::<Span>().ok())
                .and_then(|s| i64::try_from(s.0.as_millis()).ok())
                .map(|ms| Checked::constant(Constant::Int(ms), Type::Span)),
            _ => Time::parse(text).ok().map(|t| Checked::constant(Constant::Int(t.unix_ms()), Type::Time)),
        };
        let message = format!("{text:?} is no {name}");
        parsed.or_else(|| self.refuse("wrong-value", place, message, example(name)))
    }

    fn part(&mut self, time: Checked, zone: Option<Checked>, (name, place): (&str, Place)) -> Option<Checked> {
        let part = match name {
            "getFullYear" => TimePart::Year,
            "getMonth" => TimePart::Month,
            "getDayOfMonth" => TimePart::DayOfMonth,
            "getDate" => TimePart::Date,
            "getDayOfWeek" => TimePart::DayOfWeek,
            "getHours" => TimePart::Hours,
            "getMinutes" => TimePart::Minutes,
            _ => TimePart::Seconds,
        };
        if !matches!(time.ty, Type::Time) {
            let message = format!("`{name}` is for times, not for a {}", time.ty);
            return self.refuse("wrong-type", place, message, "write `request.time` before it");
        }
        let offset = match &zone {
            None => Some(0),
            Some(zone) => zone.constant_text().and_then(civil::offset),
        };
        let Some(offset) = offset else {
            let message = "a zone is a fixed offset that is known when it is loaded".to_owned();
            let hint = "write \"+08:00\" or \"UTC\"; the rules of named zones change";
            return self.refuse("wrong-value", place, message, hint);
        };
        let cost = time.cost + TIME_PART_COST;
        Some(Checked::new(Node::Part(part, Box::new(time.node), offset), Type::Int, cost))
    }

    fn in_network(&mut self, expr: &IdedExpr, call: &CallExpr, target: &IdedExpr) -> Option<Checked> {
        let place = self.before(expr, "containsIP");
        let (Expr::Call(cidr), [address]) = (&target.expr, call.args.as_slice()) else {
            return self.wrong_arguments("containsIP", place);
        };
        let [network] = cidr.args.as_slice() else { return self.wrong_arguments("cidr", place) };
        if cidr.func_name != "cidr" {
            return self.wrong_arguments("containsIP", place);
        }
        let network_place = self.place(network);
        let (network, address) = (self.check(network), self.check(address));
        let (network, address) = (network?, address?);
        if !address.ty.is_text() {
            return self.wrong_arguments("containsIP", place);
        }
        let Some(parsed) = network.constant_text().and_then(Network::parse) else {
            let hint = "write it as \"10.0.0.0/8\" or \"fd00::/8\"";
            return self.refuse("wrong-value", network_place, "this is no network".to_owned(), hint);
        };
        Some(Checked::new(Node::InNetwork(Box::new(parsed), Box::new(address.node)), Type::Bool, address.cost))
    }

    fn shown(&mut self, of: Checked, place: Place) -> Option<Checked> {
        if !self.message {
            let hint = "compare the value itself";
            return self.refuse("not-supported", place, "`string` is for messages only".to_owned(), hint);
        }
        let shown = match of.ty {
            Type::Cpu => Shown::Cpu,
            Type::Memory => Shown::Memory,
            Type::Span => Shown::Span,
            Type::Time => Shown::Time,
            Type::Bool | Type::Int | Type::Double | Type::Text(_) | Type::Word(_) => Shown::Plain,
            ty => {
                let message = format!("a {ty} cannot be shown");
                return self.refuse("wrong-type", place, message, "show one of its parts; a list has `.join(\", \")`");
            }
        };
        Some(Checked::new(Node::Show(Box::new(of.node), shown), Type::Text(of.ty.max().max(64)), of.cost))
    }

    fn join(&mut self, of: Checked, between: Option<Checked>, place: Place) -> Option<Checked> {
        let between = between.as_ref().map_or(Some(""), |b| b.constant_text());
        match (of.ty, between) {
            (Type::List(element, max), Some(between)) if element.is_text() && self.message => {
                let cost = of.cost + u64::from(max);
                let node = Node::Join(Box::new(of.node), between.into());
                Some(Checked::new(node, Type::Text(element.max().saturating_mul(max)), cost))
            }
            _ if !self.message => {
                let hint = "say what must hold of the elements: `.all(x, ...)`";
                self.refuse("not-supported", place, "`join` is for messages only".to_owned(), hint)
            }
            _ => self.wrong_arguments("join", place),
        }
    }

    fn quantified(&mut self, expr: &IdedExpr, call: &CallExpr, target: &IdedExpr) -> Option<Checked> {
        let name = call.func_name.as_str();
        let place = self.before(expr, name);
        let kind = match name {
            "all" => Quantifier::All,
            "exists" => Quantifier::Exists,
            _ => Quantifier::One,
        };
        let range = self.check(target);
        let [IdedExpr { expr: Expr::Ident(variable), .. }, body] = call.args.as_slice() else {
            let hint = format!("write `list.{name}(x, condition on x)`");
            return self.refuse("wrong-arguments", place, format!("`{name}` takes a name and a condition"), hint);
        };
        let range = range?;
        let (element, max) = match range.ty {
            Type::List(element, max) => (*element, max),
            Type::Map(_, max) => (super::super::schema::NAME, max),
            ty => {
                let message = format!("`{name}` goes over a list or the keys of a map, not over a {ty}");
                return self.refuse("wrong-type", place, message, "name a list");
            }
        };
        self.free(variable, place)?;
        let slot = self.locals.len();
        if slot >= LOCALS_MAX {
            let message = format!("loops are nested more than {LOCALS_MAX} deep");
            return self.refuse("too-costly", place, message, "split the rule");
        }
        self.locals.push(Local { name: variable.clone(), ty: element });
        let checked = self.check(body);
        self.locals.pop();
        let checked = checked?;
        if !matches!(checked.ty, Type::Bool) {
            let message = format!("`{name}` wants a condition, but this is a {}", checked.ty);
            return self.refuse("wrong-type", self.place(body), message, "compare it with something: `== ...`");
        }
        let cost = range.cost.saturating_add(checked.cost.saturating_add(1).saturating_mul(u64::from(max)));
        if cost > COST_MAX && !self.costly {
            self.too_costly(place, cost);
        }
        let node = Node::Quantified { kind, range: Box::new(range.node), slot, body: Box::new(checked.node) };
        Some(Checked::new(node, Type::Bool, cost))
    }

    /// A variable must have a name that nothing else has, so that what is known of a name is known of one thing.
    fn free(&mut self, variable: &str, place: Place) -> Option<()> {
        let taken = self.locals.iter().any(|l| l.name == variable)
            || self.roots.iter().any(|r| r.name == variable)
            || variable == "params";
        if taken {
            return self.refuse(
                "name-taken",
                place,
                format!("`{variable}` is already a variable"),
                "choose another name",
            );
        }
        Some(())
    }
}

/// States of a pattern that compiles within [`PATTERN_SIZE_MAX`], which alone the compiler tells: the least size that it
/// compiles in, found by halves.
fn states(source: &str) -> u64 {
    let (mut too_small, mut enough) = (0, PATTERN_SIZE_MAX);
    while enough - too_small > STATE_SIZE {
        let size = too_small + (enough - too_small) / 2;
        match RegexBuilder::new(source).size_limit(size).build() {
            Ok(_) => enough = size,
            Err(_) => too_small = size,
        }
    }
    u64::try_from(enough.div_ceil(STATE_SIZE)).unwrap_or(u64::MAX)
}

fn example(name: &str) -> &'static str {
    match name {
        "quantity" => "write `quantity(\"500m\")` or `quantity(\"2Gi\")`",
        "duration" => "write `duration(\"30s\")` or `duration(\"8h\")`",
        _ => "write `timestamp(\"2026-01-31T00:00:00Z\")`",
    }
}
