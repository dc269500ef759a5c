//! The verdict: what clients were told, against what the clouds really had. Pure.
//!
//! The clouds' truth ledger is the only witness of what existed; the gateways are asked only what they said and what
//! they list at the end. Both clocks are this machine's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What a client was told about a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 201: it runs.
    Created {
        /// The instance.
        uid: String,
        /// What the cloud calls it.
        cloud_id: String,
    },
    /// 202: it is being worked on.
    Accepted,
    /// A final failure: nothing exists, nothing will.
    Failed {
        /// Error code.
        code: String,
    },
    /// Nothing was recorded; the client may try again.
    Refused {
        /// Status and error code.
        code: String,
        /// `Retry-After`, seconds.
        retry_after: Option<u64>,
    },
    /// No answer, or half of one.
    Lost,
}

impl Answer {
    /// Whether no later answer may differ.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Created { .. } | Self::Failed { .. })
    }
}

/// An answer and when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// Which gateway said it.
    pub gateway: usize,
    /// What it said.
    pub answer: Answer,
}

/// All that was said about one idempotency key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// When it was first sent, Unix milliseconds.
    pub sent_ms: i64,
    /// Answers to creates, in no order.
    pub answers: Vec<Told>,
    /// A delete was sent, answered or not.
    pub delete_sent: bool,
    /// When a delete was first answered with 202 or 204.
    pub deleted_ms: Option<i64>,
    /// What each gateway said of the key when all was calm; none when it was not final in time.
    pub at_rest: Vec<Option<Answer>>,
}

impl History {
    /// Answers of creates, those at rest included.
    fn all(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().map(|told| &told.answer).chain(self.at_rest.iter().flatten())
    }

    /// Whether a client may rely on it.
    #[must_use]
    pub fn acknowledged(&self) -> bool {
        self.answers.iter().any(|t| matches!(t.answer, Answer::Created { .. } | Answer::Accepted))
    }

    /// From the first answer that left the outcome open (or none at all) to the first final one, milliseconds.
    #[must_use]
    pub fn open_ms(&self) -> Option<i64> {
        let open = |a: &Answer| matches!(a, Answer::Accepted | Answer::Lost);
        let from = self.answers.iter().filter(|t| open(&t.answer)).map(|t| t.at_ms).min()?;
        let until = self.answers.iter().filter(|t| t.answer.is_final()).map(|t| t.at_ms).min()?;
        Some((until - from).max(0))
    }
}

/// One instance that a cloud had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The key that it carries.
    pub key: String,
    /// The cloud's name for it.
    pub cloud_id: String,
    /// When it began, Unix milliseconds.
    pub from_ms: i64,
    /// When it ended or was deleted.
    pub until_ms: Option<i64>,
}

impl Life {
    fn ends(&self) -> i64 {
        self.until_ms.unwrap_or(i64::MAX)
    }

    const fn alive(&self) -> bool {
        self.until_ms.is_none()
    }
}

/// What one gateway shows at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The cloud's ids of the instances that it lists.
    pub listed: BTreeSet<String>,
    /// The cloud's ids of its orphans.
    pub orphans: BTreeSet<String>,
    /// Instances charged; none when it did not say.
    pub used: Option<u64>,
}

/// Everything a verdict is made of.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was said of each key.
    pub keys: BTreeMap<String, History>,
    /// Every instance that ever existed.
    pub lives: Vec<Life>,
    /// What each gateway shows at rest; none when it did not answer.
    pub shown: Vec<Option<Shown>>,
    /// Most instances at once.
    pub limit: Option<u64>,
    /// The cloud's ids of instances that are not ours: nobody may touch them.
    pub foreign: BTreeSet<String>,
}

/// A kind of broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// R1: two instances of a key at one time.
    Doubled,
    /// R2: two final answers for a key.
    Contradicted,
    /// R3: something existed after a final failure was answered.
    Unclean,
    /// R5: more than the quota at one time.
    Oversold,
    /// R6: an instance that no gateway lists.
    Leaked,
    /// R7: an instance that is not ours was removed.
    WrongDelete,
    /// R8: no final answer after the calm.
    Stuck,
    /// R9: an acknowledged instance is gone.
    Lost,
    /// R10: a deleted instance is there.
    Undeleted,
    /// 2.7: charged is not what exists.
    Mischarged,
    /// A gateway does not answer at rest.
    Silent,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Doubled => "doubled (R1)",
            Self::Contradicted => "contradicted (R2)",
            Self::Unclean => "unclean failure (R3)",
            Self::Oversold => "oversold (R5)",
            Self::Leaked => "leaked (R6)",
            Self::WrongDelete => "wrong delete (R7)",
            Self::Stuck => "stuck (R8)",
            Self::Lost => "lost acknowledgement (R9)",
            Self::Undeleted => "undeleted (R10)",
            Self::Mischarged => "mischarged (2.7)",
            Self::Silent => "silent gateway",
        })
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub kind: Kind,
    /// What was seen.
    pub text: String,
}

/// The numbers of a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Keys that a create was sent for.
    pub tried: u64,
    /// Keys answered with 201 or 202.
    pub acknowledged: u64,
    /// Keys that a delete was sent for.
    pub deleted: u64,
    /// Instances that ever existed.
    pub instances: u64,
    /// The longest time between an open answer and the final one, milliseconds.
    pub open_max_ms: i64,
    /// The most instances at one time.
    pub peak: u64,
    /// Orphans shown at rest: known, charged to nobody, waiting for their removal.
    pub orphans: u64,
    /// What was broken.
    pub violations: Vec<Violation>,
}

impl Verdict {
    /// How many violations of a kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.violations.iter().filter(|v| v.kind == kind).count() as u64
    }

    /// Adds another round's numbers.
    pub fn absorb(&mut self, other: Self) {
        self.tried += other.tried;
        self.acknowledged += other.acknowledged;
        self.deleted += other.deleted;
        self.instances += other.instances;
        self.orphans += other.orphans;
        self.open_max_ms = self.open_max_ms.max(other.open_max_ms);
        self.peak = self.peak.max(other.peak);
        self.violations.extend(other.violations);
    }

    fn add(&mut self, kind: Kind, text: String) {
        self.violations.push(Violation { kind, text });
    }
}

/// Judges.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let (foreign, ours): (Vec<&Life>, Vec<&Life>) =
        evidence.lives.iter().partition(|life| evidence.foreign.contains(&life.cloud_id));
    let mut verdict = Verdict {
        tried: evidence.keys.len() as u64,
        instances: ours.len() as u64,
        peak: peak(&ours),
        ..Verdict::default()
    };
    for life in foreign.iter().filter(|life| !life.alive()) {
        verdict.add(Kind::WrongDelete, format!("{}: {} was not ours", life.key, life.cloud_id));
    }
    let mut by_key: BTreeMap<&str, Vec<&Life>> = BTreeMap::new();
    for life in &ours {
        by_key.entry(&life.key).or_default().push(life);
    }
    for (key, history) in &evidence.keys {
        verdict.acknowledged += u64::from(history.acknowledged());
        verdict.deleted += u64::from(history.delete_sent);
        verdict.open_max_ms = verdict.open_max_ms.max(history.open_ms().unwrap_or(0));
        let lives = by_key.get(key.as_str()).map(Vec::as_slice).unwrap_or_default();
        answers(key, history, lives, &mut verdict);
    }
    for (key, lives) in &by_key {
        doubled(key, lives, &mut verdict);
    }
    if let Some(limit) = evidence.limit.filter(|limit| verdict.peak > *limit) {
        let peak = verdict.peak;
        verdict.add(Kind::Oversold, format!("{peak} instances at once, the limit is {limit}"));
    }
    at_rest(evidence, &ours, &mut verdict);
    verdict
}

fn doubled(key: &str, lives: &[&Life], verdict: &mut Verdict) {
    let mut lives = lives.to_vec();
    lives.sort_by_key(|life| life.from_ms);
    for pair in lives.windows(2) {
        let [first, second] = pair else { continue };
        if first.ends() > second.from_ms {
            let text = format!(
                "{key}: {} lived from {} to {:?}, {} from {}",
                first.cloud_id, first.from_ms, first.until_ms, second.cloud_id, second.from_ms
            );
            verdict.add(Kind::Doubled, text);
        }
    }
}

fn answers(key: &str, history: &History, lives: &[&Life], verdict: &mut Verdict) {
    let created: BTreeSet<(&str, &str)> = history
        .all()
        .filter_map(|a| match a {
            Answer::Created { uid, cloud_id } => Some((uid.as_str(), cloud_id.as_str())),
            _ => None,
        })
        .collect();
    let failed: BTreeSet<&str> = history
        .all()
        .filter_map(|a| match a {
            Answer::Failed { code } => Some(code.as_str()),
            _ => None,
        })
        .collect();
    // The uid is the instance. What a cloud calls it may be missing from a repeated answer, but never another.
    let uids: BTreeSet<&str> = created.iter().map(|(uid, _)| *uid).collect();
    let ids: BTreeSet<&str> = created.iter().map(|(_, id)| *id).filter(|id| !id.is_empty()).collect();
    if uids.len() + failed.len() > 1 || ids.len() > 1 {
        verdict.add(Kind::Contradicted, format!("{key}: answered {created:?} and {failed:?}"));
    }
    let failed_at = history.answers.iter().filter(|t| matches!(t.answer, Answer::Failed { .. })).map(|t| t.at_ms).min();
    if let Some(at) = failed_at
        && let Some(life) = lives.iter().find(|life| life.ends() > at)
    {
        verdict.add(
            Kind::Unclean,
            format!("{key}: failed at {at}, but {} lived until {:?}", life.cloud_id, life.until_ms),
        );
    }
    if !history.delete_sent {
        for cloud_id in ids {
            if !lives.iter().any(|life| life.cloud_id == cloud_id && life.alive()) {
                verdict.add(Kind::Lost, format!("{key}: {cloud_id} was answered and is not there"));
            }
        }
    }
    if history.deleted_ms.is_some()
        && let Some(life) = lives.iter().find(|life| life.alive())
    {
        verdict.add(Kind::Undeleted, format!("{key}: deleted, but {} is there", life.cloud_id));
    }
    for (gateway, answer) in history.at_rest.iter().enumerate() {
        if answer.is_none() {
            let last = history.answers.iter().max_by_key(|t| t.at_ms).map(|t| &t.answer);
            verdict
                .add(Kind::Stuck, format!("{key}: gateway {gateway} gives no final answer; the last one was {last:?}"));
        }
    }
}

fn at_rest(evidence: &Evidence, ours: &[&Life], verdict: &mut Verdict) {
    let alive: BTreeMap<&str, &str> =
        ours.iter().filter(|l| l.alive()).map(|l| (l.cloud_id.as_str(), l.key.as_str())).collect();
    for (gateway, shown) in evidence.shown.iter().enumerate() {
        let Some(shown) = shown else {
            verdict.add(Kind::Silent, format!("gateway {gateway} does not list its instances at rest"));
            continue;
        };
        verdict.orphans = verdict.orphans.max(shown.orphans.len() as u64);
        for (cloud_id, key) in &alive {
            if !shown.listed.contains(*cloud_id) && !shown.orphans.contains(*cloud_id) {
                verdict.add(Kind::Leaked, format!("{key}: {cloud_id} lives and gateway {gateway} does not know it"));
            }
        }
        let known = alive.keys().filter(|id| shown.listed.contains(**id)).count() as u64;
        if let Some(used) = shown.used.filter(|used| *used != known) {
            verdict
                .add(Kind::Mischarged, format!("gateway {gateway} says {used} instances are charged; {known} exist"));
        }
    }
}

/// The most lives at one moment. One that ends at a moment makes room for one that begins at it.
#[must_use]
pub fn peak(lives: &[&Life]) -> u64 {
    let mut steps: Vec<(i64, i64)> = lives.iter().flat_map(|l| [(l.from_ms, 1), (l.ends(), -1)]).collect();
    steps.sort_unstable();
    let (mut now, mut most) = (0_i64, 0_i64);
    for (_, step) in steps {
        now += step;
        most = most.max(now);
    }
    u64::try_from(most).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(key: &str, id: &str, from_ms: i64, until_ms: Option<i64>) -> Life {
        Life { key: key.to_owned(), cloud_id: id.to_owned(), from_ms, until_ms }
    }

    fn told(at_ms: i64, answer: Answer) -> Told {
        Told { at_ms, gateway: 0, answer }
    }

    fn created(id: &str) -> Answer {
        Answer::Created { uid: format!("uid-{id}"), cloud_id: id.to_owned() }
    }

    fn failed() -> Answer {
        Answer::Failed { code: "no-capacity".to_owned() }
    }

    /// A world in which all is well: `a` runs, `b` failed, `c` was deleted.
    fn well() -> Evidence {
        let a = History {
            answers: vec![told(20, Answer::Lost), told(90, created("i-a"))],
            at_rest: vec![Some(created("i-a")); 2],
            ..History::default()
        };
        let b = History { answers: vec![told(60, failed())], at_rest: vec![Some(failed()); 2], ..History::default() };
        let c = History {
            answers: vec![told(30, created("i-c"))],
            delete_sent: true,
            deleted_ms: Some(50),
            at_rest: vec![Some(created("i-c")); 2],
            ..History::default()
        };
        let shown = Shown { listed: BTreeSet::from(["i-a".to_owned()]), orphans: BTreeSet::new(), used: Some(1) };
        Evidence {
            keys: BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b), ("c".to_owned(), c)]),
            lives: vec![
                life("a", "i-a", 10, None),
                life("b", "i-b", 40, Some(55)),
                life("c", "i-c1", 5, Some(20)),
                life("c", "i-c", 20, Some(52)),
            ],
            shown: vec![Some(shown.clone()), Some(shown)],
            limit: Some(3),
            foreign: BTreeSet::new(),
        }
    }

    fn kinds(evidence: &Evidence) -> Vec<Kind> {
        judge(evidence).violations.into_iter().map(|v| v.kind).collect()
    }

    fn key<'e>(evidence: &'e mut Evidence, key: &str) -> &'e mut History {
        evidence.keys.get_mut(key).unwrap()
    }

    #[test]
    fn a_world_in_which_all_is_well_breaks_nothing() {
        let verdict = judge(&well());
        assert_eq!(verdict.violations, []);
        assert_eq!((verdict.tried, verdict.acknowledged, verdict.deleted), (3, 2, 1));
        assert_eq!((verdict.instances, verdict.peak, verdict.open_max_ms), (4, 3, 70));
    }

    #[test]
    fn two_lives_of_a_key_at_one_moment_are_a_double() {
        let mut world = well();
        world.lives[3].from_ms = 19;
        assert_eq!(kinds(&world), [Kind::Doubled]);
    }

    #[test]
    fn more_than_the_limit_at_one_moment_is_oversold() {
        let mut world = well();
        world.limit = Some(2);
        assert_eq!(kinds(&world), [Kind::Oversold]);
        assert_eq!(peak(&[&life("a", "1", 0, Some(5)), &life("b", "2", 5, None)]), 1);
    }

    #[test]
    fn what_no_gateway_knows_is_leaked_and_an_orphan_is_not() {
        let mut world = well();
        world.lives.push(life("ghost", "i-x", 0, None));
        world.limit = None;
        assert_eq!(kinds(&world), [Kind::Leaked, Kind::Leaked]);
        for shown in world.shown.iter_mut().flatten() {
            shown.orphans.insert("i-x".to_owned());
        }
        assert_eq!(kinds(&world), []);
    }

    #[test]
    fn an_answered_instance_must_be_there_unless_it_was_deleted() {
        let mut world = well();
        world.lives[0].until_ms = Some(95);
        for shown in world.shown.iter_mut().flatten() {
            *shown = Shown { used: Some(0), ..Shown::default() };
        }
        assert_eq!(kinds(&world), [Kind::Lost]);
        key(&mut world, "a").delete_sent = true;
        assert_eq!(kinds(&world), []);
    }

    #[test]
    fn a_deleted_instance_must_be_gone() {
        let mut world = well();
        world.lives[3].until_ms = None;
        for shown in world.shown.iter_mut().flatten() {
            shown.listed.insert("i-c".to_owned());
            shown.used = Some(2);
        }
        assert_eq!(kinds(&world), [Kind::Undeleted]);
    }

    #[test]
    fn after_a_final_failure_nothing_may_live() {
        let mut world = well();
        world.lives[1].until_ms = Some(61);
        assert_eq!(kinds(&world), [Kind::Unclean]);
    }

    #[test]
    fn final_answers_must_agree_over_gateways_and_time() {
        let mut world = well();
        key(&mut world, "b").at_rest[1] = Some(created("i-b"));
        key(&mut world, "b").delete_sent = true;
        assert_eq!(kinds(&world), [Kind::Contradicted]);
        let mut world = well();
        key(&mut world, "a").at_rest[1] = None;
        assert_eq!(kinds(&world), [Kind::Stuck]);
    }

    #[test]
    fn what_is_not_ours_must_stay() {
        let mut world = well();
        world.lives.push(life("theirs", "i-t", 0, None));
        world.foreign.insert("i-t".to_owned());
        assert_eq!(kinds(&world), []);
        world.lives[4].until_ms = Some(80);
        assert_eq!(kinds(&world), [Kind::WrongDelete]);
    }

    #[test]
    fn the_charge_is_what_exists() {
        let mut world = well();
        world.shown[1].as_mut().unwrap().used = Some(2);
        assert_eq!(kinds(&world), [Kind::Mischarged]);
        world.shown[1] = None;
        assert_eq!(kinds(&world), [Kind::Silent]);
    }
}
