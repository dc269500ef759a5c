//! The commands on keys, as Redis 7 answers them.

use std::collections::BTreeMap;

use super::{
    keyspace::{Bytes, Keyspace, Value, WrongType},
    resp::Reply,
};

/// Everything a command may refuse.
enum Refused {
    Type,
    Arity,
    Number,
    Float,
    Syntax,
}

impl From<WrongType> for Refused {
    fn from(_: WrongType) -> Self {
        Self::Type
    }
}

type Answer = Result<Reply, Refused>;
type Args<'a> = &'a [Bytes];

/// Whether a name is a command on keys.
#[must_use]
pub fn is_known(name: &str) -> bool {
    COMMANDS.iter().any(|(known, _)| *known == name)
}

/// Carries a command out. `name` is in capitals; `args` are what follows it.
pub fn run(keys: &mut Keyspace, name: &str, args: Args<'_>) -> Reply {
    let Some((_, command)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
        return Reply::err(format!("unknown command '{name}'"));
    };
    match command(keys, args) {
        Ok(reply) => reply,
        Err(Refused::Type) => {
            Reply::Error("WRONGTYPE Operation against a key holding the wrong kind of value".to_owned())
        }
        Err(Refused::Arity) => Reply::err(format!("wrong number of arguments for '{}' command", name.to_lowercase())),
        Err(Refused::Number) => Reply::err("value is not an integer or out of range"),
        Err(Refused::Float) => Reply::err("value is not a valid float"),
        Err(Refused::Syntax) => Reply::err("syntax error"),
    }
}

type Command = fn(&mut Keyspace, Args<'_>) -> Answer;

const COMMANDS: &[(&str, Command)] = &[
    ("GET", get),
    ("SET", set),
    ("INCR", |k, a| incr(k, one(a)?, 1)),
    ("INCRBY", |k, a| incr(k, at(a, 0)?, int(at(a, 1)?)?)),
    ("DEL", |k, a| Ok(count(a.iter().filter(|key| k.remove(key)).count()))),
    ("UNLINK", |k, a| Ok(count(a.iter().filter(|key| k.remove(key)).count()))),
    ("EXISTS", |k, a| Ok(count(a.iter().filter(|key| k.value(key).is_some()).count()))),
    ("PEXPIRE", |k, a| expire(k, a, 1)),
    ("EXPIRE", |k, a| expire(k, a, 1_000)),
    ("PTTL", pttl),
    ("PERSIST", persist),
    ("KEYS", keys_like),
    ("DBSIZE", |k, _| Ok(count(k.keys().count()))),
    ("FLUSHALL", flush),
    ("FLUSHDB", flush),
    ("HGET", hget),
    ("HMGET", hmget),
    ("HSET", hset),
    ("HSETNX", hsetnx),
    ("HDEL", hdel),
    ("HGETALL", hgetall),
    ("HKEYS", |k, a| Ok(Reply::bulks(k.hash(one(a)?)?.into_iter().flat_map(BTreeMap::keys).cloned()))),
    ("HVALS", |k, a| Ok(Reply::bulks(k.hash(one(a)?)?.into_iter().flat_map(BTreeMap::values).cloned()))),
    ("HLEN", |k, a| Ok(count(k.hash(one(a)?)?.map_or(0, BTreeMap::len)))),
    ("HEXISTS", |k, a| Ok(flag(k.hash(at(a, 0)?)?.is_some_and(|h| a.get(1).is_some_and(|f| h.contains_key(f)))))),
    ("HINCRBY", hincrby),
    ("SADD", sadd),
    ("SREM", srem),
    ("SMEMBERS", |k, a| Ok(Reply::bulks(k.set(one(a)?)?.into_iter().flatten().cloned()))),
    ("SISMEMBER", |k, a| Ok(flag(k.set(at(a, 0)?)?.is_some_and(|s| a.get(1).is_some_and(|m| s.contains(m)))))),
    ("SCARD", |k, a| Ok(count(k.set(one(a)?)?.map_or(0, std::collections::BTreeSet::len)))),
    ("ZADD", zadd),
    ("ZREM", zrem),
    ("ZCARD", |k, a| Ok(count(k.sorted(one(a)?)?.map_or(0, BTreeMap::len)))),
    ("ZSCORE", zscore),
    ("ZRANGE", zrange),
    ("ZRANGEBYSCORE", zrangebyscore),
    ("ZRANGEBYLEX", zrangebylex),
    ("ZREMRANGEBYSCORE", zremrangebyscore),
    ("ZCOUNT", zcount),
];

fn at(args: Args<'_>, index: usize) -> Result<&Bytes, Refused> {
    args.get(index).ok_or(Refused::Arity)
}

fn one(args: Args<'_>) -> Result<&Bytes, Refused> {
    if args.len() == 1 { at(args, 0) } else { Err(Refused::Arity) }
}

fn count(n: usize) -> Reply {
    Reply::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn flag(yes: bool) -> Reply {
    Reply::Int(i64::from(yes))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("")
}

fn word(bytes: &[u8]) -> String {
    text(bytes).to_ascii_uppercase()
}

fn int(bytes: &[u8]) -> Result<i64, Refused> {
    text(bytes).parse().map_err(|_| Refused::Number)
}

fn float(bytes: &[u8]) -> Result<f64, Refused> {
    text(bytes).parse::<f64>().ok().filter(|f| !f.is_nan()).ok_or(Refused::Float)
}

/// A score as Redis writes it.
fn score(value: f64) -> Bytes {
    format!("{value}").into_bytes()
}

fn flush(keys: &mut Keyspace, _: Args<'_>) -> Answer {
    keys.clear();
    Ok(Reply::ok())
}

fn get(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    Ok(Reply::Bulk(keys.string(one(args)?)?.cloned()))
}

fn set(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, value) = (at(args, 0)?, at(args, 1)?);
    let (mut only_new, mut only_old, mut until) = (false, false, None);
    let mut rest = args.iter().skip(2);
    while let Some(option) = rest.next() {
        match word(option).as_str() {
            "NX" => only_new = true,
            "XX" => only_old = true,
            unit @ ("PX" | "EX") => {
                let span = int(rest.next().ok_or(Refused::Syntax)?)?;
                until = Some(keys.now_ms + span * if unit == "EX" { 1_000 } else { 1 });
            }
            _ => return Err(Refused::Syntax),
        }
    }
    let there = keys.value(key).is_some();
    if (only_new && there) || (only_old && !there) {
        return Ok(Reply::Bulk(None));
    }
    keys.remove(key);
    *keys.string_mut(key)? = value.clone();
    keys.expire(key, until);
    Ok(Reply::ok())
}

fn incr(keys: &mut Keyspace, key: &[u8], by: i64) -> Answer {
    let old = keys.string(key)?.map_or(Ok(0), |text| int(text))?;
    let new = old.checked_add(by).ok_or(Refused::Number)?;
    *keys.string_mut(key)? = new.to_string().into_bytes();
    Ok(Reply::Int(new))
}

fn expire(keys: &mut Keyspace, args: Args<'_>, unit: i64) -> Answer {
    let span = int(at(args, 1)?)?.saturating_mul(unit);
    let until = keys.now_ms.saturating_add(span);
    if span <= 0 {
        return Ok(flag(keys.remove(at(args, 0)?)));
    }
    Ok(flag(keys.expire(at(args, 0)?, Some(until))))
}

fn pttl(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    Ok(Reply::Int(match keys.until(one(args)?) {
        None => -2,
        Some(None) => -1,
        Some(Some(until)) => until - keys.now_ms,
    }))
}

fn persist(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let key = one(args)?;
    let had = matches!(keys.until(key), Some(Some(_)));
    if had {
        keys.expire(key, None);
    }
    Ok(flag(had))
}

fn keys_like(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let pattern = text(one(args)?).to_owned();
    let fits = |key: &Bytes| match pattern.strip_suffix('*') {
        Some(prefix) => text(key).starts_with(prefix),
        None => text(key) == pattern,
    };
    Ok(Reply::bulks(keys.keys().filter(|k| fits(k)).cloned()))
}

fn hget(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, field) = (at(args, 0)?, at(args, 1)?);
    Ok(Reply::Bulk(keys.hash(key)?.and_then(|h| h.get(field)).cloned()))
}

fn hmget(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, fields) = args.split_first().ok_or(Refused::Arity)?;
    if fields.is_empty() {
        return Err(Refused::Arity);
    }
    let hash = keys.hash(key)?;
    Ok(Reply::Array(fields.iter().map(|f| Reply::Bulk(hash.and_then(|h| h.get(f)).cloned())).collect()))
}

fn hset(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, rest) = args.split_first().ok_or(Refused::Arity)?;
    if rest.is_empty() || !rest.len().is_multiple_of(2) {
        return Err(Refused::Arity);
    }
    let hash = keys.hash_mut(key)?;
    let mut new = 0;
    for pair in rest.chunks(2) {
        if let [field, value] = pair {
            new += usize::from(hash.insert(field.clone(), value.clone()).is_none());
        }
    }
    Ok(count(new))
}

fn hsetnx(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, field, value) = (at(args, 0)?, at(args, 1)?, at(args, 2)?);
    if keys.hash(key)?.is_some_and(|h| h.contains_key(field)) {
        return Ok(Reply::Int(0));
    }
    keys.hash_mut(key)?.insert(field.clone(), value.clone());
    Ok(Reply::Int(1))
}

fn hdel(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, fields) = args.split_first().ok_or(Refused::Arity)?;
    if keys.hash(key)?.is_none() {
        return Ok(Reply::Int(0));
    }
    let hash = keys.hash_mut(key)?;
    let gone = fields.iter().filter(|f| hash.remove(*f).is_some()).count();
    keys.prune(key);
    Ok(count(gone))
}

fn hgetall(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let all = keys.hash(one(args)?)?;
    Ok(Reply::bulks(all.into_iter().flatten().flat_map(|(field, value)| [field.clone(), value.clone()])))
}

fn hincrby(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, field, by) = (at(args, 0)?, at(args, 1)?, int(at(args, 2)?)?);
    let old = keys.hash(key)?.and_then(|h| h.get(field)).map_or(Ok(0), |text| int(text));
    let Ok(old) = old else { return Ok(Reply::err("hash value is not an integer")) };
    let new = old.checked_add(by).ok_or(Refused::Number)?;
    keys.hash_mut(key)?.insert(field.clone(), new.to_string().into_bytes());
    Ok(Reply::Int(new))
}

fn sadd(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, members) = args.split_first().ok_or(Refused::Arity)?;
    let set = keys.set_mut(key)?;
    Ok(count(members.iter().filter(|m| set.insert((*m).clone())).count()))
}

fn srem(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, members) = args.split_first().ok_or(Refused::Arity)?;
    if keys.set(key)?.is_none() {
        return Ok(Reply::Int(0));
    }
    let set = keys.set_mut(key)?;
    let gone = members.iter().filter(|m| set.remove(*m)).count();
    keys.prune(key);
    Ok(count(gone))
}

fn zadd(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, mut rest) = args.split_first().ok_or(Refused::Arity)?;
    let mut only_greater = false;
    let mut only_new = false;
    while let Some((option, after)) = rest.split_first() {
        match word(option).as_str() {
            "GT" => only_greater = true,
            "NX" => only_new = true,
            _ => break,
        }
        rest = after;
    }
    if rest.is_empty() || !rest.len().is_multiple_of(2) {
        return Err(Refused::Syntax);
    }
    let mut pairs = Vec::new();
    for pair in rest.chunks(2) {
        if let [value, member] = pair {
            pairs.push((float(value)?, member.clone()));
        }
    }
    let sorted = keys.sorted_mut(key)?;
    let mut new = 0;
    for (value, member) in pairs {
        match sorted.get(&member) {
            Some(_) if only_new => {}
            Some(old) if only_greater && *old >= value => {}
            known => {
                new += usize::from(known.is_none());
                sorted.insert(member, value);
            }
        }
    }
    Ok(count(new))
}

fn zrem(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, members) = args.split_first().ok_or(Refused::Arity)?;
    if keys.sorted(key)?.is_none() {
        return Ok(Reply::Int(0));
    }
    let sorted = keys.sorted_mut(key)?;
    let gone = members.iter().filter(|m| sorted.remove(*m).is_some()).count();
    keys.prune(key);
    Ok(count(gone))
}

fn zscore(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, member) = (at(args, 0)?, at(args, 1)?);
    Ok(Reply::Bulk(keys.sorted(key)?.and_then(|z| z.get(member)).map(|value| score(*value))))
}

/// Members in Redis' order: by score, then by bytes.
fn ranked(keys: &Keyspace, key: &[u8]) -> Result<Vec<(Bytes, f64)>, Refused> {
    let mut all: Vec<(Bytes, f64)> =
        keys.sorted(key)?.into_iter().flatten().map(|(member, value)| (member.clone(), *value)).collect();
    all.sort_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
    Ok(all)
}

fn shown(all: impl Iterator<Item = (Bytes, f64)>, scores: bool) -> Reply {
    let one = |(member, value): (Bytes, f64)| {
        let value = scores.then(|| Reply::bulk(score(value)));
        std::iter::once(Reply::bulk(member)).chain(value)
    };
    Reply::Array(all.flat_map(one).collect())
}

fn zrange(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (key, from, to) = (at(args, 0)?, int(at(args, 1)?)?, int(at(args, 2)?)?);
    let scores = args.get(3).is_some_and(|o| word(o) == "WITHSCORES");
    if args.len() > 3 && !scores {
        return Err(Refused::Syntax);
    }
    let all = ranked(keys, key)?;
    let len = i64::try_from(all.len()).unwrap_or(i64::MAX);
    let place = |n: i64| if n < 0 { n + len } else { n };
    let (from, to) = (place(from).max(0), place(to));
    let some = all.into_iter().zip(0_i64..).filter(|(_, n)| (from..=to).contains(n)).map(|(pair, _)| pair);
    Ok(shown(some, scores))
}

/// One end of a range of scores.
fn bound(bytes: &[u8]) -> Result<(f64, bool), Refused> {
    let (open, rest) = match bytes.split_first() {
        Some((b'(', rest)) => (true, rest),
        _ => (false, bytes),
    };
    match word(rest).as_str() {
        "-INF" => Ok((f64::NEG_INFINITY, open)),
        "+INF" | "INF" => Ok((f64::INFINITY, open)),
        _ => Ok((float(rest)?, open)),
    }
}

fn within(keys: &Keyspace, args: Args<'_>) -> Result<Vec<(Bytes, f64)>, Refused> {
    let (low, low_open) = bound(at(args, 1)?)?;
    let (high, high_open) = bound(at(args, 2)?)?;
    let fits = |v: f64| (if low_open { v > low } else { v >= low }) && (if high_open { v < high } else { v <= high });
    Ok(ranked(keys, at(args, 0)?)?.into_iter().filter(|(_, value)| fits(*value)).collect())
}

/// `LIMIT offset count` and `WITHSCORES` after the third argument.
fn options(args: Args<'_>) -> Result<(usize, usize, bool), Refused> {
    let (mut skip, mut take, mut scores) = (0, usize::MAX, false);
    let mut rest = args.iter().skip(3);
    while let Some(option) = rest.next() {
        match word(option).as_str() {
            "WITHSCORES" => scores = true,
            "LIMIT" => {
                skip = usize::try_from(int(rest.next().ok_or(Refused::Syntax)?)?).unwrap_or(usize::MAX);
                take = usize::try_from(int(rest.next().ok_or(Refused::Syntax)?)?).unwrap_or(usize::MAX);
            }
            _ => return Err(Refused::Syntax),
        }
    }
    Ok((skip, take, scores))
}

fn zrangebyscore(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (skip, take, scores) = options(args)?;
    Ok(shown(within(keys, args)?.into_iter().skip(skip).take(take), scores))
}

fn zcount(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    Ok(count(within(keys, args)?.len()))
}

fn zremrangebyscore(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let gone = within(keys, args)?;
    let key = at(args, 0)?;
    if gone.is_empty() {
        return Ok(Reply::Int(0));
    }
    let sorted = keys.sorted_mut(key)?;
    for (member, _) in &gone {
        sorted.remove(member);
    }
    keys.prune(key);
    Ok(count(gone.len()))
}

fn zrangebylex(keys: &mut Keyspace, args: Args<'_>) -> Answer {
    let (skip, take, _) = options(args)?;
    let above = |member: &Bytes, low: &Bytes| match low.split_first() {
        Some((b'-', [])) => Ok(true),
        Some((b'[', low)) => Ok(member.as_slice() >= low),
        Some((b'(', low)) => Ok(member.as_slice() > low),
        _ => Err(Refused::Syntax),
    };
    let below = |member: &Bytes, high: &Bytes| match high.split_first() {
        Some((b'+', [])) => Ok(true),
        Some((b'[', high)) => Ok(member.as_slice() <= high),
        Some((b'(', high)) => Ok(member.as_slice() < high),
        _ => Err(Refused::Syntax),
    };
    let (low, high) = (at(args, 1)?, at(args, 2)?);
    let mut found = Vec::new();
    for (member, _) in ranked(keys, at(args, 0)?)? {
        if above(&member, low)? && below(&member, high)? {
            found.push(member);
        }
    }
    Ok(Reply::bulks(found.into_iter().skip(skip).take(take)))
}

/// The type of a value, as `TYPE` names it.
#[must_use]
pub fn type_name(value: Option<&Value>) -> &'static str {
    match value {
        None => "none",
        Some(Value::Str(_)) => "string",
        Some(Value::Hash(_)) => "hash",
        Some(Value::Set(_)) => "set",
        Some(Value::Sorted(_)) => "zset",
    }
}
