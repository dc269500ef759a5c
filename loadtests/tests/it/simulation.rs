//! The simulation's own truth: one seed is one history, and its Redis answers as a real one does.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use meridian_cloudsim::core::Rng;
use meridian_ledger::conformance::redis_server::RedisServer;
use meridian_loadtests::simulation::redis::{resp::Reply, store::Store};

/// Only with `RUSTFLAGS="--cfg tokio_unstable"`: without it tokio's own random choices are not seeded.
#[cfg(tokio_unstable)]
mod determinism {
    fn digest(seed: &str) -> String {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_meridian-loadtests"))
            .args(["simulate", "--history", seed])
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a verdict");
        assert!(verdict["made"].as_u64().unwrap() > 0, "seed {seed} made nothing");
        verdict["digest"].to_string()
    }

    #[test]
    fn two_processes_of_a_seed_are_one_history() {
        let first = digest("3");
        assert_eq!(first, digest("3"));
        assert_ne!(first, digest("4"));
    }
}

/// A connection to a real server.
struct Real(TcpStream, Vec<u8>);

impl Real {
    fn ask(&mut self, request: &[Vec<u8>]) -> Reply {
        let mut bytes = Vec::new();
        Reply::bulks(request.iter().cloned()).write(&mut bytes);
        self.0.write_all(&bytes).unwrap();
        self.reply()
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.1.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.1.drain(..end + 2).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            self.fill();
        }
    }

    fn fill(&mut self) {
        let mut chunk = [0; 4096];
        let n = self.0.read(&mut chunk).unwrap();
        assert!(n > 0, "the server closed the connection");
        self.1.extend_from_slice(&chunk[..n]);
    }

    fn reply(&mut self) -> Reply {
        let line = self.line();
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(rest.parse().unwrap()),
            "$" if rest == "-1" => Reply::Bulk(None),
            "$" => {
                let len: usize = rest.parse().unwrap();
                while self.1.len() < len + 2 {
                    self.fill();
                }
                let bytes: Vec<u8> = self.1.drain(..len + 2).take(len).collect();
                Reply::bulk(bytes)
            }
            "*" if rest == "-1" => Reply::NullArray,
            "*" => Reply::Array((0..rest.parse().unwrap()).map(|_| self.reply()).collect()),
            other => panic!("{other}"),
        }
    }
}

/// Sets and hashes have no order; errors are compared by their code.
fn comparable(name: &str, reply: Reply) -> Reply {
    match reply {
        Reply::Error(text) => Reply::Error(text.split(' ').next().unwrap_or("").to_owned()),
        Reply::Array(mut all) if matches!(name, "SMEMBERS" | "HKEYS" | "HVALS") => {
            all.sort_by_key(|r| format!("{r:?}"));
            Reply::Array(all)
        }
        Reply::Array(all) if name == "HGETALL" => {
            let mut pairs: Vec<_> = all.chunks(2).map(|pair| pair.to_vec()).collect();
            pairs.sort_by_key(|r| format!("{r:?}"));
            Reply::Array(pairs.concat())
        }
        other => other,
    }
}

const SCRIPTS: [&str; 9] = [
    "return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])",
    "return {1, 'two', false, 3}",
    "return {1, 2.9, 'x', nil, 4}",
    "return redis.call('HMGET', KEYS[1], ARGV[1], ARGV[2])",
    "return redis.error_reply('RECOVERING not the one')",
    "return redis.status_reply('GOOD')",
    "return redis.call('INCR', KEYS[1])",
    "local r = redis.pcall('INCR', KEYS[1]) if type(r) == 'table' then return 'caught' end return r",
    "redis.call('ZADD', KEYS[1], 1, ARGV[1]) return redis.call('ZRANGE', KEYS[1], 0, tonumber('2') - 1)",
];

fn command(rng: &mut Rng) -> Vec<String> {
    let key = |rng: &mut Rng| format!("k{}", rng.below(5));
    let field = |rng: &mut Rng| format!("f{}", rng.below(4));
    let number = |rng: &mut Rng| (i64::try_from(rng.below(20)).unwrap() - 10).to_string();
    let k = key(rng);
    let (f, g, n, m) = (field(rng), field(rng), number(rng), number(rng));
    let words: Vec<&str> = match rng.below(36) {
        0 => vec!["SET", &k, &n],
        1 => vec!["GET", &k],
        2 => vec!["INCR", &k],
        3 => vec!["DEL", &k],
        4 => vec!["EXISTS", &k, "k1"],
        5 | 6 => vec!["HSET", &k, &f, &n, &g, &m],
        7 => vec!["HGET", &k, &f],
        8 => vec!["HMGET", &k, &f, &g, "none"],
        9 => vec!["HDEL", &k, &f],
        10 => vec!["HGETALL", &k],
        11 => vec!["HKEYS", &k],
        12 => vec!["HLEN", &k],
        13 => vec!["HINCRBY", &k, &f, &n],
        14 => vec!["SADD", &k, &f, &g],
        15 => vec!["SREM", &k, &f],
        16 => vec!["SMEMBERS", &k],
        17 | 18 => vec!["ZADD", &k, &n, &f, &m, &g],
        19 => vec!["ZREM", &k, &f],
        20 => vec!["ZRANGE", &k, "0", "-1", "WITHSCORES"],
        21 => vec!["ZRANGE", &k, &n, &m],
        22 => vec!["ZRANGEBYSCORE", &k, "-inf", &n, "WITHSCORES", "LIMIT", "0", "2"],
        23 => vec!["ZRANGEBYSCORE", &k, "(0", "+inf"],
        // Its answer is defined for equal scores only.
        24 => vec!["ZRANGEBYLEX", "lex", "[f1", "+", "LIMIT", "0", "2"],
        31 => vec!["ZADD", "lex", "0", &f],
        25 => vec!["ZCARD", &k],
        26 => vec!["ZREMRANGEBYSCORE", &k, "-inf", &n],
        27 => vec!["SET", &k, &n, "NX", "PX", "100000"],
        28 => vec!["HSETNX", &k, &f, &n],
        29 => vec!["SISMEMBER", &k, &f],
        30 => vec!["TYPE", &k],
        _ => {
            let at = usize::try_from(rng.below(9)).unwrap();
            vec!["EVAL", SCRIPTS[at], "1", &k, &f, &n]
        }
    };
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_redis_of_the_simulation_answers_as_a_real_one() {
    let server = RedisServer::start(&[]);
    let mut real = Real(TcpStream::connect(("127.0.0.1", server.port())).unwrap(), Vec::new());
    let mut model = Store::new(1, false);
    let mut rng = Rng::new(20_261_121);
    for n in 0..6_000 {
        let words = command(&mut rng);
        let request: Vec<Vec<u8>> = words.iter().map(|w| w.as_bytes().to_vec()).collect();
        let (answer, _) = model.execute(&request, 1_767_225_600_000);
        let name = words[0].as_str();
        assert_eq!(comparable(name, answer), comparable(name, real.ask(&request)), "{n}: {words:?}");
    }
}
