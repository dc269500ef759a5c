//! A process that steps is killed at a random moment; what it had been told is durable must be there.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use meridian_ledger::{Ledger, conformance::*};
use meridian_model::operation::Charge;
use proptest::{prelude::Rng, test_runner::TestRunner};

use crate::open_clean;

/// Set for the process that is to be killed: the database.
const VICTIM: &str = "MERIDIAN_LEDGER_VICTIM";
/// Set with it: makes the operations of each round differ.
const ROUND: &str = "MERIDIAN_LEDGER_ROUND";
const ROUNDS: usize = 10;
/// Tasks of the victim; together they fill transactions.
const TASKS: usize = 8;
/// Steps of one operation before its task goes on to the next.
const STEPS: u64 = 5;
/// The kill comes after so many acknowledgements, at most.
const ACKS_MAX: u32 = 400;

/// No test of its own: the body of the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let (Ok(path), Ok(round)) = (std::env::var(VICTIM), std::env::var(ROUND)) else { return };
    let ledger = Arc::new(open_clean(Path::new(&path)));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (ledger, round) = (Arc::clone(&ledger), round.clone());
        tasks.spawn(async move {
            for n in 0.. {
                let op = format!("r{round}t{task}n{n}");
                let mut record = claim_new(&*ledger, sample_claim("acme", &op, &op)).await;
                acknowledge(&op, record.rev, 0);
                for cpu in 1..=STEPS {
                    record.charge = one_instance(cpu);
                    record = write(&*ledger, record).await;
                    acknowledge(&op, record.rev, cpu);
                }
            }
        });
    }
    tasks.join_all().await;
}

/// One line, written by one call, past the test runner's capture of output.
fn acknowledge(op: &str, rev: u64, cpu: u64) {
    let line = format!("ack {op} {rev} {cpu}\n");
    // The parent may be gone already; then nobody asks.
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
}

fn start_victim(path: &Path, round: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::victim", "--nocapture", "--test-threads=1"])
        .env(VICTIM, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Last acknowledged revision and charge by operation, from the whole lines of the victim's output.
fn acknowledged(line: &str) -> Option<(String, (u64, u64))> {
    let mut words = line.strip_suffix('\n')?.split(' ').skip_while(|w| *w != "ack").skip(1);
    let (op, rev, cpu) = (words.next()?, words.next()?, words.next()?);
    Some((op.to_owned(), (rev.parse().ok()?, cpu.parse().ok()?)))
}

#[tokio::test]
async fn acknowledged_steps_survive_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let mut rng = TestRunner::default().new_rng();
    let mut acks = BTreeMap::<String, (u64, u64)>::new();
    let mut recoveries = 0;
    for round in 0..ROUNDS {
        let kill_after = 1 + rng.next_u32() % ACKS_MAX;
        let mut child = start_victim(&path, round);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut line, mut count) = (String::new(), 0);
        while output.read_line(&mut line).unwrap() > 0 {
            if let Some((op, ack)) = acknowledged(&line) {
                acks.insert(op, ack);
                count += 1;
                if count == kill_after {
                    child.kill().unwrap();
                }
            }
            line.clear();
        }
        child.wait().unwrap();
        assert!(count >= kill_after, "the victim of round {round} ended early, after {count}");
        recoveries += usize::from(check(&path, &acks).await);
    }
    assert_eq!(recoveries, ROUNDS, "a kill leaves the store open");
}

/// Everything acknowledged is there, usage is the sum of charges; says whether the store had to recover.
async fn check(path: &Path, acks: &BTreeMap<String, (u64, u64)>) -> bool {
    let ledger = open_clean(path);
    let mut sum = Charge::default();
    let (mut from, mut found) = (None, BTreeMap::new());
    loop {
        let page = ledger.records(from, 500).await.unwrap();
        for record in page.records {
            sum.instances += record.charge.instances;
            sum.cpu.0 += record.charge.cpu.0;
            sum.memory.0 += record.charge.memory.0;
            found.insert(record.op_id.as_str().to_owned(), (record.rev, record.charge.cpu.0));
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    for (op, (rev, cpu)) in acks {
        let (rev_now, cpu_now) = found.get(op).unwrap_or_else(|| panic!("{op} was acknowledged and is lost"));
        // At most the one step under way may be further than what was acknowledged.
        assert!((*rev..=rev + 1).contains(rev_now) && (*cpu..=cpu + 1).contains(cpu_now), "{op}");
    }
    assert_eq!(ledger.usage(&id("acme")).await.unwrap().used, sum);
    ledger.open_report().recovered
}
