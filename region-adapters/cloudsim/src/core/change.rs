//! What callers do to instances: delete, restart, update; and what the control API does to them.

use super::create::{CreateError, resized};
use super::machine::{Ending, event, exit_reason, schedule_reclaim, termination, waiting};
use super::program::Program;
use super::types::{Container, ContainerState, EventKind, Instance, InstanceSpec, Scope, State, Step, Timer, Vendor};
use super::world::World;

/// Why a call on an instance is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChangeError {
    /// No such instance in this scope.
    #[error("instance {id} does not exist")]
    NotFound {
        /// As asked.
        id: String,
    },
    /// Not in this state.
    #[error("not possible while {}", state.as_str())]
    WrongState {
        /// The state it is in.
        state: State,
    },
    /// The update changes nothing.
    #[error("nothing to change")]
    NothingToChange,
    /// A new size does not fit.
    #[error("the new size is refused")]
    Size(#[source] CreateError),
}

/// How containers are made to end from outside.
#[derive(Clone, Copy, Debug)]
pub struct ExitOrder<'a> {
    /// Only this one; `None`: all that run.
    pub container: Option<&'a str>,
    /// Exit code.
    pub code: i32,
    /// With a signal, as a crash has it.
    pub crash: bool,
}

impl World {
    /// Takes an instance out for a change, lets `change` work on it, and puts it back.
    fn change<T>(
        &mut self,
        scope: &Scope,
        id: &str,
        now_ms: i64,
        change: impl FnOnce(&mut Self, &mut Instance) -> Result<T, ChangeError>,
    ) -> Result<T, ChangeError> {
        self.advance(now_ms);
        if self.existing(scope, id).is_none() {
            return Err(ChangeError::NotFound { id: id.to_owned() });
        }
        let mut instance = self.instances.remove(id).ok_or_else(|| ChangeError::NotFound { id: id.to_owned() })?;
        let result = change(self, &mut instance);
        self.put_back(instance);
        result
    }

    /// Deletes an instance. With a `preStop` hook ECI passes `Terminating`; else it is gone at once.
    ///
    /// # Errors
    /// [`ChangeError::NotFound`].
    pub fn delete(&mut self, scope: &Scope, id: &str, now_ms: i64) -> Result<(), ChangeError> {
        let most_ms = self.timing.terminate_ms;
        self.change(scope, id, now_ms, |world, instance| {
            let hook = instance.containers.iter().any(|c| c.is_running() && c.spec.pre_stop.is_some());
            if instance.state == State::Terminating {
                return Ok(());
            }
            if hook && instance.scope.vendor == Vendor::AlibabaEci {
                world.set_state(instance, State::Terminating, now_ms);
                let grace_ms = instance.spec.grace_secs.unwrap_or(30).clamp(0, 86_400) * 1000;
                let at_ms = now_ms + grace_ms.min(most_ms);
                instance.timers = vec![Timer { at_ms, step: Step::Gone }];
            } else {
                world.gone(instance, now_ms);
            }
            Ok(())
        })
    }

    /// Restarts all containers: `Restarting`, then `Running` again. Only while `Pending` or `Running`.
    ///
    /// # Errors
    /// [`ChangeError::NotFound`], [`ChangeError::WrongState`].
    pub fn restart(&mut self, scope: &Scope, id: &str, now_ms: i64) -> Result<(), ChangeError> {
        let at_ms = now_ms + self.timing.restart_ms;
        self.change(scope, id, now_ms, |world, instance| {
            refuse_state(instance)?;
            for container in &mut instance.containers {
                end_for_restart(container, now_ms);
            }
            instance.timers.retain(|t| matches!(t.step, Step::Deadline | Step::SpotNotice | Step::SpotReclaim));
            instance.timers.push(Timer { at_ms, step: Step::RestartDone });
            world.set_state(instance, State::Restarting, now_ms);
            event(instance, EventKind::Normal, "Restarting", "restart asked for", now_ms);
            Ok(())
        })
    }

    /// Takes over a new spec: `Updating`, then the changed containers run anew. Only while `Pending` or `Running`.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub fn update(&mut self, scope: &Scope, id: &str, spec: InstanceSpec, now_ms: i64) -> Result<(), ChangeError> {
        let at_ms = now_ms + self.timing.update_ms;
        self.change(scope, id, now_ms, |world, instance| {
            refuse_state(instance)?;
            if spec == instance.spec {
                return Err(ChangeError::NothingToChange);
            }
            world.resize(instance, &spec)?;
            instance.next_spec = Some(Box::new(spec));
            // A start that was still due comes with the end of the update.
            instance.timers.retain(|t| !matches!(t.step, Step::Start | Step::Init { .. }));
            instance.timers.push(Timer { at_ms, step: Step::UpdateDone });
            world.set_state(instance, State::Updating, now_ms);
            Ok(())
        })
    }

    fn resize(&mut self, instance: &mut Instance, spec: &InstanceSpec) -> Result<(), ChangeError> {
        let same = spec.cpu == instance.spec.cpu
            && spec.memory_gib == instance.spec.memory_gib
            && spec.instance_types == instance.spec.instance_types;
        if same {
            return Ok(());
        }
        let (cpu, memory_gib, key) = resized(instance.scope.vendor, spec).map_err(ChangeError::Size)?;
        if key == instance.stock_key {
            return Ok(());
        }
        let quota = self.quotas.get_mut(&instance.scope);
        let region = self.regions.get_mut(&instance.scope.region_key());
        let (Some(quota), Some(zone)) = (quota, region.and_then(|r| r.zone_mut(&instance.zone))) else {
            return Err(ChangeError::Size(CreateError::UnknownRegion));
        };
        let used = quota.used_vcpu - instance.cpu + cpu;
        if used > quota.max_vcpu {
            let (limit, used) = (quota.max_vcpu, quota.used_vcpu);
            let error = CreateError::QuotaExceeded { what: "vcpu", limit, used, asked: cpu - instance.cpu };
            return Err(ChangeError::Size(error));
        }
        if !zone.take_stock(&key) {
            return Err(ChangeError::Size(CreateError::NoStock { zone: instance.zone.clone(), spec: key }));
        }
        zone.return_stock(&instance.stock_key);
        quota.used_vcpu = used;
        instance.price_hour = zone.price_hour(cpu, memory_gib, instance.gpu_count);
        (instance.cpu, instance.memory_gib, instance.stock_key) = (cpu, memory_gib, key);
        Ok(())
    }

    pub(super) fn update_done(&mut self, instance: &mut Instance, at_ms: i64) {
        let Some(spec) = instance.next_spec.take() else {
            return;
        };
        let mut old: Vec<Container> = std::mem::take(&mut instance.containers);
        instance.containers = spec
            .containers
            .iter()
            .map(|wanted| match old.iter().position(|c| c.spec == *wanted) {
                Some(same) => old.swap_remove(same),
                None => {
                    let mut fresh = Container::waiting(wanted.clone());
                    if let Some(before) = old.iter().find(|c| c.spec.name == wanted.name) {
                        fresh.previous.clone_from(&before.previous);
                        fresh.restart_count = before.restart_count + 1;
                    }
                    fresh
                }
            })
            .collect();
        instance.init_containers = spec
            .init_containers
            .iter()
            .map(|wanted| {
                let same = instance.init_containers.iter().find(|c| c.spec == *wanted);
                same.cloned().unwrap_or_else(|| Container::waiting(wanted.clone()))
            })
            .collect();
        instance.spec = *spec;
        // Indices moved: exits and restarts of kept containers are set again from their programs.
        instance.timers.retain(|t| !matches!(t.step, Step::Exit { .. } | Step::Restart { .. }));
        let mut missing = false;
        for index in 0..instance.containers.len() {
            if instance.containers.get(index).is_some_and(Container::is_running) {
                keep_running(instance, index, at_ms);
            } else {
                missing |= !self.start_container(instance, index, at_ms);
            }
        }
        if missing {
            self.set_state(instance, State::Pending, at_ms);
        } else {
            instance.running_ms.get_or_insert(at_ms);
            self.set_state(instance, State::Running, at_ms);
        }
    }

    /// Ends one container of a running instance, or all: the policy decides what follows. For the control API.
    ///
    /// # Errors
    /// [`ChangeError::NotFound`], [`ChangeError::WrongState`] if none of them runs.
    pub fn exit_containers(&mut self, id: &str, order: &ExitOrder<'_>, now_ms: i64) -> Result<(), ChangeError> {
        let ExitOrder { container, code, crash } = *order;
        let scope = self.scope_of(id)?;
        self.change(&scope, id, now_ms, |world, instance| {
            let running: Vec<usize> = instance
                .containers
                .iter()
                .enumerate()
                .filter(|(_, c)| c.is_running() && container.is_none_or(|name| c.spec.name == name))
                .map(|(index, _)| index)
                .collect();
            if running.is_empty() {
                return Err(ChangeError::WrongState { state: instance.state });
            }
            let ending =
                Ending { code, signal: crash.then_some(9), reason: if crash { "Error" } else { exit_reason(code) } };
            for index in running {
                world.container_ended(instance, index, now_ms, &ending);
            }
            Ok(())
        })
    }

    /// Takes an instance back as if it were spot: warning first, then `Expired` (EKSCI: `Failed`).
    ///
    /// # Errors
    /// [`ChangeError::NotFound`], [`ChangeError::WrongState`] if it has ended.
    pub fn reclaim(&mut self, id: &str, after_ms: i64, now_ms: i64) -> Result<(), ChangeError> {
        let scope = self.scope_of(id)?;
        let notice_ms = self.timing.spot_notice_ms;
        self.change(&scope, id, now_ms, |_, instance| {
            if instance.state.is_terminal() {
                return Err(ChangeError::WrongState { state: instance.state });
            }
            schedule_reclaim(instance, now_ms + after_ms, notice_ms, now_ms);
            Ok(())
        })
    }

    fn scope_of(&self, id: &str) -> Result<Scope, ChangeError> {
        let known = self.any_instance(id).ok_or_else(|| ChangeError::NotFound { id: id.to_owned() })?;
        Ok(known.scope.clone())
    }
}

fn end_for_restart(container: &mut Container, at_ms: i64) {
    if let ContainerState::Running { started_ms } = container.state {
        // SIGTERM, as a container runtime stops one.
        let ending = Ending { code: 143, signal: Some(15), reason: "Error" };
        container.previous = Some(termination(started_ms, at_ms, &ending));
    }
    container.restart_count += 1;
    container.state = waiting("ContainerCreating", "");
}

/// Sets the exit of a container that went on running through an update.
fn keep_running(instance: &mut Instance, index: usize, at_ms: i64) {
    let Some(container) = instance.containers.get(index) else {
        return;
    };
    let ContainerState::Running { started_ms } = container.state else {
        return;
    };
    if let Some((after, code)) = Program::of(&container.spec).exit {
        let life = container.restart_count;
        let step = Step::Exit { index, code, signal: None, reason: exit_reason(code).to_owned(), life };
        instance.timers.push(Timer { at_ms: (started_ms + after).max(at_ms + 1), step });
    }
}

fn refuse_state(instance: &Instance) -> Result<(), ChangeError> {
    // EKSCI shows a Scheduling instance as Pending, but there is nothing to restart or update yet.
    if matches!(instance.state, State::Pending | State::Running) {
        Ok(())
    } else {
        Err(ChangeError::WrongState { state: instance.state })
    }
}
