//! Scripts, run in a real Lua 5.1 with `redis.call` and what else of Redis' world the ledger's scripts use.
//!
//! Absent: `cjson`, `cmsgpack`, `struct`, `bit`, `redis.log`; a script that asks for one ends with an error.

use std::{cell::RefCell, collections::BTreeMap};

use mlua::{Function, IntoLuaMulti as _, Lua, MultiValue, Table, Value as LuaValue, Variadic};

use sha1::{Digest as _, Sha1};

use super::{resp::Reply, store::hex};

/// What a script may call: a command's parts, in; its reply, out.
pub type Caller<'a> = &'a mut dyn FnMut(Vec<Vec<u8>>) -> Reply;

/// A Lua with the scripts it has compiled.
pub struct Engine {
    lua: Lua,
    compiled: BTreeMap<Vec<u8>, Function>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} scripts)", self.compiled.len())
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self { lua: Lua::new(), compiled: BTreeMap::new() }
    }
}

impl Engine {
    /// Runs a script.
    pub fn run(&mut self, script: &[u8], keys: &[Vec<u8>], args: &[Vec<u8>], caller: Caller<'_>) -> Reply {
        match self.try_run(script, keys, args, caller) {
            Ok(reply) => reply,
            Err(error) => Reply::Error(raised(&error)),
        }
    }

    fn try_run(
        &mut self,
        script: &[u8],
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
        caller: Caller<'_>,
    ) -> mlua::Result<Reply> {
        let function = match self.compiled.get(script) {
            Some(known) => known.clone(),
            None => {
                let function = self.lua.load(script).set_name("@user_script").into_function()?;
                self.compiled.insert(script.to_vec(), function.clone());
                function
            }
        };
        let lua = &self.lua;
        let globals = lua.globals();
        globals.set("KEYS", strings(lua, keys)?)?;
        globals.set("ARGV", strings(lua, args)?)?;
        let caller = RefCell::new(caller);
        let call = |parts: Variadic<LuaValue>| -> mlua::Result<Reply> {
            let parts = parts.into_iter().map(|part| argument(&part)).collect::<mlua::Result<_>>()?;
            Ok((caller.borrow_mut())(parts))
        };
        let call = &call;
        lua.scope(|scope| {
            let redis = lua.create_table()?;
            redis.set(
                "call",
                scope.create_function(move |lua, parts| match call(parts)? {
                    Reply::Error(text) => Err(mlua::Error::RuntimeError(format!("{RAISED}{text}"))),
                    reply => to_lua(lua, &reply)?.into_lua_multi(lua),
                })?,
            )?;
            redis.set(
                "pcall",
                scope.create_function(move |lua, parts| to_lua(lua, &call(parts)?)?.into_lua_multi(lua))?,
            )?;
            redis.set("error_reply", lua.create_function(|lua, text: mlua::LuaString| one_field(lua, "err", text))?)?;
            redis.set("status_reply", lua.create_function(|lua, text: mlua::LuaString| one_field(lua, "ok", text))?)?;
            let sha1hex = |_: &Lua, text: mlua::LuaString| Ok(hex(&Sha1::digest(text.as_bytes())));
            redis.set("sha1hex", lua.create_function(sha1hex)?)?;
            globals.set("redis", redis)?;
            let result: MultiValue = function.call(())?;
            from_lua(result.into_iter().next().unwrap_or(LuaValue::Nil))
        })
    }
}

/// Marks an error that a command gave, so that its code reaches the client unchanged.
const RAISED: &str = "\u{1}";

fn raised(error: &mlua::Error) -> String {
    let text = error.to_string();
    match text.split_once(RAISED) {
        // What a command said comes first; a traceback may follow.
        Some((_, said)) => said.lines().next().unwrap_or_default().to_owned(),
        None => format!("ERR {}", text.lines().next().unwrap_or_default()),
    }
}

fn one_field(lua: &Lua, field: &str, text: mlua::LuaString) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set(field, text)?;
    Ok(table)
}

fn strings(lua: &Lua, all: &[Vec<u8>]) -> mlua::Result<Table> {
    lua.create_sequence_from(all.iter().map(|bytes| lua.create_string(bytes)).collect::<mlua::Result<Vec<_>>>()?)
}

/// An argument of `redis.call`: strings and numbers only.
fn argument(value: &LuaValue) -> mlua::Result<Vec<u8>> {
    match value {
        LuaValue::String(text) => Ok(text.as_bytes().to_vec()),
        LuaValue::Integer(n) => Ok(n.to_string().into_bytes()),
        LuaValue::Number(n) => Ok(number(*n)),
        _ => Err(mlua::Error::RuntimeError(format!(
            "{RAISED}ERR Lua redis lib command arguments must be strings or integers"
        ))),
    }
}

/// A number as Redis hands it to a command: `%.17g`, which for whole numbers is their digits.
#[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53, as just checked")]
fn number(n: f64) -> Vec<u8> {
    if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 {
        (n as i64).to_string().into_bytes()
    } else {
        format!("{n}").into_bytes()
    }
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<LuaValue> {
    Ok(match reply {
        Reply::Status(text) => LuaValue::Table(one_field(lua, "ok", lua.create_string(text)?)?),
        Reply::Error(text) => LuaValue::Table(one_field(lua, "err", lua.create_string(text)?)?),
        #[expect(clippy::cast_precision_loss, reason = "Lua 5.1 has no other numbers")]
        Reply::Int(n) => LuaValue::Number(*n as f64),
        Reply::Bulk(None) | Reply::NullArray => LuaValue::Boolean(false),
        Reply::Bulk(Some(bytes)) => LuaValue::String(lua.create_string(bytes)?),
        Reply::Array(all) => {
            let all = all.iter().map(|one| to_lua(lua, one)).collect::<mlua::Result<Vec<_>>>()?;
            LuaValue::Table(lua.create_sequence_from(all)?)
        }
    })
}

#[expect(clippy::cast_possible_truncation, reason = "Redis cuts a number's fraction off, too")]
fn from_lua(value: LuaValue) -> mlua::Result<Reply> {
    Ok(match value {
        LuaValue::String(text) => Reply::bulk(text.as_bytes().to_vec()),
        LuaValue::Integer(n) => Reply::Int(n),
        LuaValue::Number(n) => Reply::Int(n as i64),
        LuaValue::Boolean(true) => Reply::Int(1),
        LuaValue::Table(table) => {
            if let LuaValue::String(text) = table.raw_get::<LuaValue>("err")? {
                let text = text.to_string_lossy();
                return Ok(Reply::Error(if text.contains(' ') { text } else { format!("ERR {text}") }));
            }
            if let LuaValue::String(text) = table.raw_get::<LuaValue>("ok")? {
                return Ok(Reply::Status(text.to_string_lossy()));
            }
            let mut all = Vec::new();
            // Up to the first nil, as Redis does.
            for n in 1..=table.raw_len() {
                match table.raw_get::<LuaValue>(n)? {
                    LuaValue::Nil => break,
                    one => all.push(from_lua(one)?),
                }
            }
            Reply::Array(all)
        }
        _ => Reply::Bulk(None),
    })
}
