//! What happens to instances by themselves: placing, starting, ending, being taken back. States as in vendor-api
//! README 2.5 and 4.3. Invariants: only `set_state` changes a state, so billing and what is held keep step with it; every
//! change ends in `put_back`, so timers are indexed and the record is written.

use super::create::no_capacity_event;
use super::fault::{FaultKind, draw};
use super::program::Program;
use super::types::{
    ContainerSpec, ContainerState, Event, EventKind, Instance, InstanceSpec, RestartPolicy, State, Step, Termination,
    Timer, Vendor,
};
use super::world::{World, subject_of};

/// Events kept per instance; ECI documents 50.
pub const EVENTS_MAX: usize = 50;
/// Most steps one call works off: a world left alone for days must not block its first caller for long.
const ADVANCE_STEPS_MAX: usize = 200_000;
/// ECI deletes a `ScheduleFailed` instance after a day (vendor-api README 4.3).
const SCHEDULE_FAILED_KEPT_MS: i64 = 24 * 3_600_000;

impl World {
    /// Lets everything due up to `now_ms` happen, in order of time.
    pub fn advance(&mut self, now_ms: i64) {
        self.faults.expire(now_ms);
        for _ in 0..ADVANCE_STEPS_MAX {
            match self.due.first() {
                Some((at, _)) if *at <= now_ms => {}
                _ => return,
            }
            if let Some((at_ms, id)) = self.due.pop_first() {
                self.fire(&id, at_ms);
            }
        }
    }

    /// When something happens next by itself; `None` if nothing is due. For drivers of virtual time.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<i64> {
        self.due.first().map(|(at, _)| *at)
    }

    fn fire(&mut self, id: &str, at_ms: i64) {
        let Some(mut instance) = self.instances.remove(id) else {
            return;
        };
        let mut steps = Vec::new();
        instance.timers.retain(|t| {
            let due = t.at_ms <= at_ms;
            if due {
                steps.push(t.clone());
            }
            !due
        });
        steps.sort_by_key(|t| t.at_ms);
        for timer in steps {
            self.step(&mut instance, timer.step, timer.at_ms);
        }
        self.put_back(instance);
    }

    /// Every change of an instance ends here: it is indexed, due and dirty.
    pub(super) fn put_back(&mut self, instance: Instance) {
        self.due.extend(instance.timers.iter().map(|t| (t.at_ms, instance.id.clone())));
        self.dirty.instances.insert(instance.id.clone());
        self.instances.insert(instance.id.clone(), instance);
    }

    fn step(&mut self, instance: &mut Instance, step: Step, at_ms: i64) {
        if instance.state == State::Deleted {
            return;
        }
        match step {
            Step::Place => self.place(instance, at_ms),
            Step::Init { index } => self.init_done(instance, index, at_ms),
            Step::Start => self.start(instance, at_ms),
            Step::Exit { index, code, signal, reason, life } => {
                let fits = instance.containers.get(index).is_some_and(|c| c.restart_count == life && c.is_running());
                if fits {
                    self.container_ended(instance, index, at_ms, &Ending { code, signal, reason: &reason });
                }
            }
            Step::Restart { index, life } => {
                let fits = instance.containers.get(index).is_some_and(|c| c.restart_count == life && !c.is_running());
                if fits && !instance.state.is_terminal() {
                    self.start_container(instance, index, at_ms);
                }
            }
            Step::RestartDone => {
                if instance.state == State::Restarting {
                    self.start_all(instance, at_ms);
                }
            }
            Step::UpdateDone => {
                if instance.state == State::Updating {
                    self.update_done(instance, at_ms);
                }
            }
            Step::Gone => self.gone(instance, at_ms),
            Step::Deadline => {
                if !instance.state.is_terminal() {
                    event(instance, EventKind::Warning, "DeadlineExceeded", "active deadline exceeded", at_ms);
                    self.stop_all(instance, at_ms, 137, "DeadlineExceeded");
                    self.set_state(instance, State::Failed, at_ms);
                }
            }
            Step::SpotNotice => {
                if !instance.state.is_terminal() {
                    let text = "The spot instance will be released soon.";
                    event(instance, EventKind::Warning, "SpotToBeReleased", text, at_ms);
                }
            }
            Step::SpotReclaim => {
                if !instance.state.is_terminal() {
                    self.reclaim_now(instance, at_ms);
                }
            }
        }
    }

    fn place(&mut self, instance: &mut Instance, at_ms: i64) {
        if instance.state != State::Scheduling {
            return;
        }
        let subject = subject_of(instance);
        let outage = self.faults.hit(&subject, at_ms, &mut self.rng, |k| (*k == FaultKind::ZoneOutage).then_some(()));
        let key = instance.scope.region_key();
        let zone = self.regions.get_mut(&key).and_then(|r| r.zone_mut(&instance.zone));
        let takes = outage.is_none() && !instance.stuck;
        if takes && (instance.holds_stock || zone.is_some_and(|z| z.take_stock(&instance.stock_key))) {
            instance.holds_stock = true;
            instance.placed_ms = Some(at_ms);
            self.set_state(instance, State::Pending, at_ms);
            let text = format!("Successfully assigned {} to {}", instance.id, instance.zone);
            event(instance, EventKind::Normal, "Scheduled", &text, at_ms);
            let at_ms = at_ms + self.start_delay(instance);
            if instance.init_containers.is_empty() {
                instance.timers.push(Timer { at_ms, step: Step::Start });
            } else {
                begin_init(instance, 0, at_ms);
            }
            return;
        }
        let (kind, reason, text) = no_capacity_event(instance.scope.vendor, &instance.zone, &instance.stock_key);
        event(instance, kind, reason, &text, at_ms);
        match instance.scope.vendor {
            // Stays Pending; the platform keeps trying, so an instance nobody deletes may still come up.
            Vendor::TencentEksci => {
                let at_ms = at_ms + self.timing.place_retry_ms.max(1);
                instance.timers.push(Timer { at_ms, step: Step::Place });
            }
            Vendor::AlibabaEci => {
                self.set_state(instance, State::ScheduleFailed, at_ms);
                let at_ms = at_ms + SCHEDULE_FAILED_KEPT_MS;
                instance.timers.push(Timer { at_ms, step: Step::Gone });
            }
        }
    }

    fn start_delay(&mut self, instance: &Instance) -> i64 {
        let cached = self.images.values().any(|cache| {
            cache.scope == instance.scope
                && cache.deleted_ms.is_none()
                && instance.containers.iter().all(|c| cache.images.contains(&c.spec.image))
        });
        let pull = if cached { 0 } else { self.timing.image_pull_ms };
        self.timing.running_ms + pull + draw(&mut self.rng, self.timing.jitter_ms)
    }

    fn init_done(&mut self, instance: &mut Instance, index: usize, at_ms: i64) {
        if instance.state != State::Pending {
            return;
        }
        let policy = instance.spec.restart_policy;
        let Some(container) = instance.init_containers.get_mut(index) else {
            return;
        };
        let code = Program::of_init(&container.spec).exit.map_or(0, |(_, code)| code);
        let ContainerState::Running { started_ms } = container.state else {
            return;
        };
        let life = termination(started_ms, at_ms, &Ending { code, signal: None, reason: exit_reason(code) });
        if code == 0 {
            container.state = ContainerState::Terminated(life);
            if index + 1 < instance.init_containers.len() {
                begin_init(instance, index + 1, at_ms);
            } else {
                self.start(instance, at_ms);
            }
        } else if policy == RestartPolicy::Never {
            container.state = ContainerState::Terminated(life);
            self.set_state(instance, State::Failed, at_ms);
        } else {
            container.previous = Some(life);
            container.restart_count += 1;
            container.state = waiting("CrashLoopBackOff", "init container failed");
            let at_ms = at_ms + self.timing.restart_backoff_ms.max(1);
            begin_init(instance, index, at_ms);
        }
    }

    fn start(&mut self, instance: &mut Instance, at_ms: i64) {
        if instance.state == State::Pending {
            self.start_all(instance, at_ms);
        }
    }

    /// Starts every container; without images it stays `Pending`.
    fn start_all(&mut self, instance: &mut Instance, at_ms: i64) {
        let mut missing = false;
        for index in 0..instance.containers.len() {
            missing |= !self.start_container(instance, index, at_ms);
        }
        if missing {
            if instance.state != State::Pending {
                self.set_state(instance, State::Pending, at_ms);
            }
            return;
        }
        instance.running_ms.get_or_insert(at_ms);
        self.set_state(instance, State::Running, at_ms);
        self.settle_if_over(instance, at_ms);
        self.apply_spot_fault(instance, at_ms);
    }

    /// False if its image cannot be pulled.
    pub(super) fn start_container(&mut self, instance: &mut Instance, index: usize, at_ms: i64) -> bool {
        let subject = subject_of(instance);
        let forced = self.faults.hit(&subject, at_ms, &mut self.rng, |kind| {
            if let FaultKind::ContainerExit { after_ms, code, crash } = *kind {
                Some((after_ms, code, crash))
            } else {
                None
            }
        });
        let Some(container) = instance.containers.get_mut(index) else {
            return true;
        };
        let (name, image) = (container.spec.name.clone(), container.spec.image.clone());
        if is_missing(&image) {
            container.state = waiting("ImagePullBackOff", &format!("Back-off pulling image \"{image}\""));
            let text = format!("Failed to pull image \"{image}\": not found");
            event(instance, EventKind::Warning, "Failed", &text, at_ms);
            return false;
        }
        container.state = ContainerState::Running { started_ms: at_ms };
        let life = container.restart_count;
        let exit = match forced {
            Some((after, code, true)) => Some((after, code, Some(9), "Error".to_owned())),
            Some((after, code, false)) => Some((after, code, None, exit_reason(code).to_owned())),
            None => {
                Program::of(&container.spec).exit.map(|(after, code)| (after, code, None, exit_reason(code).to_owned()))
            }
        };
        if let Some((after, code, signal, reason)) = exit {
            // At least a millisecond of life: a reader must be able to see it, and loops must move in time.
            let at_ms = at_ms + after.max(1);
            instance.timers.push(Timer { at_ms, step: Step::Exit { index, code, signal, reason, life } });
        }
        for (reason, text) in [
            ("Pulling", format!("Pulling image \"{image}\"")),
            ("Pulled", format!("Successfully pulled image \"{image}\"")),
            ("Created", format!("Created container {name}")),
            ("Started", format!("Started container {name}")),
        ] {
            event(instance, EventKind::Normal, reason, &text, at_ms);
        }
        true
    }

    pub(super) fn container_ended(&mut self, instance: &mut Instance, index: usize, at_ms: i64, ending: &Ending<'_>) {
        let policy = instance.spec.restart_policy;
        let Some(container) = instance.containers.get_mut(index) else {
            return;
        };
        let ContainerState::Running { started_ms } = container.state else {
            return;
        };
        let life = termination(started_ms, at_ms, ending);
        let again = match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => ending.code != 0,
            RestartPolicy::Never => false,
        };
        if again {
            container.previous = Some(life);
            container.restart_count += 1;
            container.state = waiting("CrashLoopBackOff", "back-off restarting ended container");
            let step = Step::Restart { index, life: container.restart_count };
            let name = container.spec.name.clone();
            let at_ms = at_ms + self.timing.restart_backoff_ms.max(1);
            instance.timers.push(Timer { at_ms, step });
            event(instance, EventKind::Warning, "BackOff", &format!("Back-off restarting container {name}"), at_ms);
        } else {
            container.state = ContainerState::Terminated(life);
            self.settle_if_over(instance, at_ms);
        }
    }

    /// `Succeeded` or `Failed` when no container runs or will run again.
    fn settle_if_over(&mut self, instance: &mut Instance, at_ms: i64) {
        let codes: Option<Vec<i32>> = instance
            .containers
            .iter()
            .map(|c| match &c.state {
                ContainerState::Terminated(life) => Some(life.exit_code),
                ContainerState::Waiting { .. } | ContainerState::Running { .. } => None,
            })
            .collect();
        if let Some(codes) = codes.filter(|codes| !codes.is_empty()) {
            let ended = if codes.iter().all(|c| *c == 0) { State::Succeeded } else { State::Failed };
            self.set_state(instance, ended, at_ms);
        }
    }

    fn apply_spot_fault(&mut self, instance: &mut Instance, at_ms: i64) {
        if instance.spec.spot.is_none() {
            return;
        }
        let subject = subject_of(instance);
        let after = self.faults.hit(&subject, at_ms, &mut self.rng, |kind| {
            if let FaultKind::SpotReclaim { after_ms } = kind { Some(*after_ms) } else { None }
        });
        if let Some(after_ms) = after {
            schedule_reclaim(instance, at_ms + after_ms, self.timing.spot_notice_ms, at_ms);
        }
    }

    fn reclaim_now(&mut self, instance: &mut Instance, at_ms: i64) {
        self.stop_all(instance, at_ms, 137, "Preempted");
        self.set_state(instance, State::Expired, at_ms);
    }

    fn stop_all(&mut self, instance: &mut Instance, at_ms: i64, code: i32, reason: &str) {
        for container in instance.containers.iter_mut().chain(&mut instance.init_containers) {
            if let ContainerState::Running { started_ms } = container.state {
                let life = termination(started_ms, at_ms, &Ending { code, signal: Some(9), reason });
                container.state = ContainerState::Terminated(life);
            }
        }
        instance.timers.clear();
    }

    /// The only place that changes a state: keeps billing, times and what is held in step with it.
    pub(super) fn set_state(&mut self, instance: &mut Instance, state: State, at_ms: i64) {
        if let Some(since) = instance.billed_since_ms.take() {
            instance.billed_ms += (at_ms - since).max(0);
        }
        if state.is_billed() {
            instance.billed_since_ms = Some(at_ms);
        }
        instance.state = state;
        if state.is_terminal() {
            if state != State::Deleted || instance.ended_ms.is_none() {
                instance.ended_ms.get_or_insert(at_ms);
            }
            // A day-old ScheduleFailed still has its deletion due.
            instance.timers.retain(|t| t.step == Step::Gone);
            self.release(instance, state == State::Deleted);
        }
        if state == State::Deleted {
            instance.deleted_ms = Some(at_ms);
            instance.timers.clear();
            keep_truth_only(instance);
            if let Some(live) = self.live.get_mut(&instance.scope) {
                live.remove(&instance.seq);
            }
        }
    }

    /// An ended instance gives back stock and quota, a deleted one also its address.
    fn release(&mut self, instance: &mut Instance, address: bool) {
        if std::mem::take(&mut instance.holds_quota)
            && let Some(quota) = self.quotas.get_mut(&instance.scope)
        {
            quota.used_instances = quota.used_instances.saturating_sub(1);
            quota.used_vcpu = (quota.used_vcpu - instance.cpu).max(0.0);
        }
        let region = self.regions.get_mut(&instance.scope.region_key());
        let Some(zone) = region.and_then(|r| r.zone_mut(&instance.zone)) else {
            return;
        };
        if std::mem::take(&mut instance.holds_stock) {
            zone.return_stock(&instance.stock_key);
        }
        if address && std::mem::take(&mut instance.holds_ip) {
            zone.return_ip(&instance.private_ip);
        }
    }

    pub(super) fn gone(&mut self, instance: &mut Instance, at_ms: i64) {
        self.stop_all(instance, at_ms, 137, "Deleted");
        self.set_state(instance, State::Deleted, at_ms);
    }
}

/// Nobody can describe a deleted instance: what the truth ledger does not show is dropped, because the ledger itself
/// is kept for ever.
fn keep_truth_only(instance: &mut Instance) {
    let env = instance.spec.containers.first().map(|c| c.env.clone()).unwrap_or_default();
    instance.spec = InstanceSpec {
        name: std::mem::take(&mut instance.spec.name),
        tags: std::mem::take(&mut instance.spec.tags),
        client_token: instance.spec.client_token.take(),
        containers: vec![ContainerSpec { env, ..ContainerSpec::default() }],
        ..InstanceSpec::default()
    };
    instance.containers = Vec::new();
    instance.init_containers = Vec::new();
    instance.events = Vec::new();
    instance.next_spec = None;
}

/// How a container's life ends.
pub(super) struct Ending<'a> {
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
    pub(super) reason: &'a str,
}

pub(super) fn termination(started_ms: i64, finished_ms: i64, ending: &Ending<'_>) -> Termination {
    Termination {
        started_ms,
        finished_ms,
        exit_code: ending.code,
        signal: ending.signal,
        reason: ending.reason.to_owned(),
        message: String::new(),
    }
}

pub(super) fn exit_reason(code: i32) -> &'static str {
    if code == 0 { "Completed" } else { "Error" }
}

pub(super) fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState::Waiting { reason: reason.to_owned(), message: message.to_owned() }
}

/// Images tagged `missing` cannot be pulled.
pub(super) fn is_missing(image: &str) -> bool {
    image.ends_with(":missing")
}

fn begin_init(instance: &mut Instance, index: usize, at_ms: i64) {
    let Some(container) = instance.init_containers.get_mut(index) else {
        return;
    };
    let after = Program::of_init(&container.spec).exit.map_or(0, |(after, _)| after);
    container.state = ContainerState::Running { started_ms: at_ms };
    instance.timers.push(Timer { at_ms: at_ms + after.max(1), step: Step::Init { index } });
}

pub(super) fn schedule_reclaim(instance: &mut Instance, at_ms: i64, notice_ms: i64, now_ms: i64) {
    instance.timers.push(Timer { at_ms: (at_ms - notice_ms).max(now_ms), step: Step::SpotNotice });
    instance.timers.push(Timer { at_ms: at_ms.max(now_ms + 1), step: Step::SpotReclaim });
}

/// Adds an event, or counts an equal one up.
pub(super) fn event(instance: &mut Instance, kind: EventKind, reason: &str, message: &str, at_ms: i64) {
    let same = instance.events.iter_mut().find(|e| e.reason == reason && e.message == message);
    if let Some(same) = same {
        same.count += 1;
        same.last_ms = at_ms;
        return;
    }
    if instance.events.len() >= EVENTS_MAX {
        instance.events.remove(0);
    }
    instance.events.push(Event {
        kind,
        reason: reason.to_owned(),
        message: message.to_owned(),
        count: 1,
        first_ms: at_ms,
        last_ms: at_ms,
    });
}
