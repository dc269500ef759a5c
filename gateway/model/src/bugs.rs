//! Planted bugs: places where the simulation may break the product on purpose, to prove that it would notice.
//!
//! Without the feature `sim-bugs` [`planted`] is `false` at compile time and nothing of this is in a binary. With it,
//! nothing is broken before a process asks for one bug by name with `plant`, once.

/// Sends a create before its attempt is journalled.
pub const NO_WRITE_AHEAD: &str = "no-write-ahead";
/// Repeats a create without a look-up at a backend that honours no tokens.
pub const RESEND_BLIND: &str = "resend-blind";
/// Frees the charge of an attempt when its owner is taken over from.
pub const CHARGE_FREED: &str = "charge-freed";
/// Takes an unknown outcome for a refusal, and tries the next candidate.
pub const FAILOVER_ON_TIMEOUT: &str = "failover-on-timeout";
/// Sends however long ago the attempt was journalled, under a signature of now. Either fence alone covers for the other:
/// without the check a late request bears the old signature, and the vendor refuses it.
pub const NO_SEND_FENCE: &str = "no-send-fence";
/// Believes a look-up that shows nothing at once, whatever clock is asked: either clock alone waits the bound out.
pub const SILENCE_BELIEVED: &str = "silence-believed";
/// Forgets removals that were accepted and not carried out: in the rebuild of a ledger, and where who accepted one looks
/// whether the rebuild kept it.
pub const REMOVAL_FORGOTTEN: &str = "removal-forgotten";
/// Believes silence where all that is known has gone silent: in sweeps, and in look-ups beside it. Either alone makes up
/// for the other.
pub const EMPTY_BELIEVED: &str = "empty-believed";
/// Believes a refusal of the whole account to be one of what was asked under a token, however little the backend shows:
/// what is known to be there and not shown makes up for the first.
pub const REFUSAL_BELIEVED: &str = "refusal-believed";
/// Confirms a ledger that lost writes as whole.
pub const LOSS_CONFIRMED: &str = "loss-confirmed";
/// Uses nothing of what a gateway remembers when a ledger is rebuilt, nor of what it noted that it answered: either alone
/// makes up for the other.
pub const NOTHING_REMEMBERED: &str = "nothing-remembered";
/// Drives on as if no removal had been asked for.
pub const REMOVAL_IGNORED: &str = "removal-ignored";

/// Lends what a project's lending limit keeps, wherever quota trees are reckoned with.
pub const LENDING_FORGOTTEN: &str = "lending-forgotten";
/// Charges the tenant itself for what is asked for by a project.
pub const PROJECT_FORGOTTEN: &str = "project-forgotten";

#[cfg(feature = "sim-bugs")]
static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Plants a bug in this process, for good. A second one is ignored.
#[cfg(feature = "sim-bugs")]
pub fn plant(name: &str) {
    let _ = PLANTED.set(name.to_owned());
}

/// Whether a bug is planted in this process.
#[cfg(feature = "sim-bugs")]
#[must_use]
pub fn planted(name: &str) -> bool {
    PLANTED.get().is_some_and(|planted| planted == name)
}

/// Whether a bug is planted in this process: never, in this build.
#[cfg(not(feature = "sim-bugs"))]
#[must_use]
pub const fn planted(_: &str) -> bool {
    false
}
