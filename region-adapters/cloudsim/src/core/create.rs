//! Create: where it goes, whether it fits, what it costs.

use super::fault::{FaultKind, Subject, draw};
use super::specs::{ALIBABA_DEFAULT, instance_type, round_spec, spec_key};
use super::types::{Container, Eip, EipRequest, EventKind, Instance, InstanceSpec, Scope, State, Step, Timer, Vendor};
use super::world::World;
use crate::scenario::NoStock;

/// Why a create is refused. Nothing was made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CreateError {
    /// No such region, or the account may not call it.
    #[error("no such region")]
    UnknownRegion,
    /// No such subnet in this region.
    #[error("subnet {id} does not exist")]
    UnknownSubnet {
        /// As asked.
        id: String,
    },
    /// The VPC given is not the subnet's.
    #[error("vpc {id} is not that of the subnet")]
    WrongVpc {
        /// As asked.
        id: String,
    },
    /// No such security group in this region's VPC.
    #[error("security group {id} does not exist")]
    UnknownSecurityGroup {
        /// As asked.
        id: String,
    },
    /// The zone given and the subnets do not meet.
    #[error("no subnet lies in zone {zone}")]
    ZoneMismatch {
        /// As asked.
        zone: String,
    },
    /// No size in the vendor's table is big enough.
    #[error("no size fits {cpu} vCPU and {memory_gib} GiB")]
    NoSuchSize {
        /// As asked.
        cpu: f64,
        /// As asked.
        memory_gib: f64,
    },
    /// No such instance type.
    #[error("instance type {name} is not known")]
    UnknownInstanceType {
        /// As asked.
        name: String,
    },
    /// Account quota.
    #[error("quota of {what} exceeded: {used} of {limit} used, {asked} asked")]
    QuotaExceeded {
        /// `instances` or `vcpu`.
        what: &'static str,
        /// Limit.
        limit: f64,
        /// In use.
        used: f64,
        /// Asked for.
        asked: f64,
    },
    /// None of the subnets has a free address.
    #[error("no free address in subnet {subnet}")]
    NoFreeIp {
        /// The last one tried.
        subnet: String,
    },
    /// No stock in any zone tried.
    #[error("no stock of {spec} in {zone}")]
    NoStock {
        /// The last zone tried.
        zone: String,
        /// The last size tried.
        spec: String,
    },
    /// The price limit is below the spot price everywhere.
    #[error("spot price {price} is above the limit {limit}")]
    SpotPriceTooLow {
        /// Asked.
        limit: f64,
        /// Lowest found.
        price: f64,
    },
}

/// What stays the same for every zone and size tried.
struct Attempt<'a> {
    scope: &'a Scope,
    spec: &'a InstanceSpec,
    after_create: bool,
    now_ms: i64,
}

/// A size to try.
#[derive(Clone, Debug, PartialEq)]
struct Size {
    cpu: f64,
    memory_gib: f64,
    gpu_type: Option<String>,
    gpu_count: u32,
    instance_type: Option<String>,
    key: String,
}

/// Where and how an instance would be made. From [`World::plan`].
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Zone name.
    pub zone: String,
    /// Subnet id.
    pub subnet_id: String,
    /// Price per hour, after any spot discount.
    pub price_hour: f64,
    /// vCPU after rounding.
    pub cpu: f64,
    /// GiB after rounding.
    pub memory_gib: f64,
    size: Size,
    /// Take stock in the create call; else when placing.
    stock_now: bool,
    stuck: bool,
}

impl World {
    /// Makes an instance and returns its id. It is `Scheduling`; the rest happens with time.
    ///
    /// # Errors
    /// [`CreateError`]; nothing is made or held then.
    pub fn create(&mut self, scope: &Scope, spec: InstanceSpec, now_ms: i64) -> Result<String, CreateError> {
        let placement = self.plan(scope, &spec, now_ms)?;
        self.commit(scope, spec, placement, now_ms)
    }

    /// Checks a create without making anything: validation, quota, addresses, stock. For dry runs.
    ///
    /// # Errors
    /// As [`World::create`].
    pub fn plan(&mut self, scope: &Scope, spec: &InstanceSpec, now_ms: i64) -> Result<Placement, CreateError> {
        self.advance(now_ms);
        let candidates = self.candidate_zones(scope, spec)?;
        let sizes = sizes_of(scope.vendor, spec)?;
        let least = sizes.iter().map(|s| s.cpu).fold(f64::INFINITY, f64::min);
        self.check_quota(scope, least)?;
        let after_create = match scope.vendor {
            Vendor::TencentEksci => self.rules.eksci_no_stock == NoStock::AfterCreate,
            Vendor::AlibabaEci => self.rules.eci_no_stock == NoStock::AfterCreate,
        };
        let attempt = Attempt { scope, spec, after_create, now_ms };
        let mut refusal = None;
        for zone in candidates {
            for size in &sizes {
                match self.try_zone(&attempt, &zone, size) {
                    Ok(placement) => return Ok(placement),
                    // No stock is the more telling answer than no address.
                    Err(error) => match (&refusal, &error) {
                        (Some(CreateError::NoStock { .. }), CreateError::NoFreeIp { .. }) => {}
                        _ => refusal = Some(error),
                    },
                }
            }
        }
        Err(refusal.unwrap_or(CreateError::UnknownRegion))
    }

    /// Zone names of the subnets in the order they are tried.
    fn candidate_zones(&mut self, scope: &Scope, spec: &InstanceSpec) -> Result<Vec<String>, CreateError> {
        if !self.quotas.contains_key(scope) {
            return Err(CreateError::UnknownRegion);
        }
        let region = self.regions.get(&scope.region_key()).ok_or(CreateError::UnknownRegion)?;
        let mut zones = Vec::new();
        for id in &spec.subnet_ids {
            let zone = region.zone_of_subnet(id).ok_or_else(|| CreateError::UnknownSubnet { id: id.clone() })?;
            zones.push(zone.config().zone.clone());
        }
        if let Some(vpc) = spec.vpc_id.as_ref().filter(|vpc| **vpc != region.config.vpc_id) {
            return Err(CreateError::WrongVpc { id: vpc.clone() });
        }
        if let Some(group) = spec.security_group_ids.iter().find(|g| **g != region.config.security_group_id) {
            return Err(CreateError::UnknownSecurityGroup { id: group.clone() });
        }
        // ECI may be called without a vSwitch: it takes the defaults of the region.
        if zones.is_empty() {
            zones = region.zones.iter().map(|z| z.config().zone.clone()).collect();
        }
        if let Some(wanted) = &spec.zone {
            zones.retain(|z| z == wanted);
            if zones.is_empty() {
                return Err(CreateError::ZoneMismatch { zone: wanted.clone() });
            }
        }
        if spec.subnets_random {
            for i in (1..zones.len()).rev() {
                let j = usize::try_from(self.rng.below(i as u64 + 1)).unwrap_or(0);
                zones.swap(i, j);
            }
        }
        Ok(zones)
    }

    fn check_quota(&self, scope: &Scope, cpu: f64) -> Result<(), CreateError> {
        let quota = self.quota(scope).ok_or(CreateError::UnknownRegion)?;
        if quota.used_instances >= quota.max_instances {
            return Err(CreateError::QuotaExceeded {
                what: "instances",
                limit: f64::from(quota.max_instances),
                used: f64::from(quota.used_instances),
                asked: 1.0,
            });
        }
        if quota.used_vcpu + cpu > quota.max_vcpu {
            let (limit, used) = (quota.max_vcpu, quota.used_vcpu);
            return Err(CreateError::QuotaExceeded { what: "vcpu", limit, used, asked: cpu });
        }
        Ok(())
    }

    fn try_zone(&mut self, attempt: &Attempt<'_>, zone_name: &str, size: &Size) -> Result<Placement, CreateError> {
        let Attempt { scope, spec, after_create, now_ms } = *attempt;
        self.check_quota(scope, size.cpu)?;
        let region = self.regions.get(&scope.region_key()).ok_or(CreateError::UnknownRegion)?;
        let zone = region.zone(zone_name).ok_or(CreateError::UnknownRegion)?;
        let (subnet_id, free_ips) = (zone.config().subnet_id.clone(), zone.free_ips());
        let full = zone.price_hour(size.cpu, size.memory_gib, size.gpu_count);
        let spot = zone.spot_price_hour(size.cpu, size.memory_gib, size.gpu_count);
        let has_stock = zone.has_stock(&size.key);
        if free_ips == 0 {
            return Err(CreateError::NoFreeIp { subnet: subnet_id });
        }
        if let Some(limit) = spec.spot.as_ref().and_then(|s| s.price_limit)
            && limit < spot
        {
            return Err(CreateError::SpotPriceTooLow { limit, price: spot });
        }
        let subject = Subject {
            vendor: scope.vendor,
            region: &scope.region,
            zone: Some(zone_name),
            action: None,
            spec: Some(&size.key),
            name: Some(&spec.name),
        };
        let no_stock = || CreateError::NoStock { zone: zone_name.to_owned(), spec: size.key.clone() };
        let sold_out = self.faults.hit(&subject, now_ms, &mut self.rng, |kind| {
            if let FaultKind::SoldOut { at_create } = kind {
                Some(*at_create)
            } else {
                (*kind == FaultKind::ZoneOutage).then_some(!after_create)
            }
        });
        if sold_out == Some(true) || (!after_create && !has_stock && sold_out.is_none()) {
            return Err(no_stock());
        }
        let stuck = sold_out.is_some();
        Ok(Placement {
            zone: zone_name.to_owned(),
            subnet_id,
            price_hour: if spec.spot.is_some() { spot } else { full },
            cpu: size.cpu,
            memory_gib: size.memory_gib,
            size: size.clone(),
            stock_now: !after_create && !stuck,
            stuck,
        })
    }

    /// Makes what [`World::plan`] found, in the same instant.
    fn commit(
        &mut self,
        scope: &Scope,
        spec: InstanceSpec,
        placement: Placement,
        now_ms: i64,
    ) -> Result<String, CreateError> {
        let id = self.new_id(scope.vendor);
        let eip = self.make_eip(spec.eip.as_ref());
        let lag = self.list_lag(scope, &spec, &placement, now_ms);
        let region = self.regions.get_mut(&scope.region_key()).ok_or(CreateError::UnknownRegion)?;
        let vpc_id = region.config.vpc_id.clone();
        let zone = region.zone_mut(&placement.zone).ok_or(CreateError::UnknownRegion)?;
        let size = placement.size;
        let Some(private_ip) = zone.take_ip() else {
            return Err(CreateError::NoFreeIp { subnet: placement.subnet_id });
        };
        if placement.stock_now {
            zone.hold_stock(&size.key);
        }
        if let Some(quota) = self.quotas.get_mut(scope) {
            quota.used_instances += 1;
            quota.used_vcpu += size.cpu;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let placed_ms = now_ms + self.timing.placed_ms + draw(&mut self.rng, self.timing.jitter_ms / 4);
        let mut timers = vec![Timer { at_ms: placed_ms, step: Step::Place }];
        if let Some(secs) = spec.active_deadline_secs.filter(|s| *s > 0) {
            timers.push(Timer { at_ms: now_ms.saturating_add(secs.saturating_mul(1000)), step: Step::Deadline });
        }
        let instance = Instance {
            id: id.clone(),
            seq,
            scope: scope.clone(),
            vpc_id,
            subnet_id: placement.subnet_id,
            zone: placement.zone,
            cpu: size.cpu,
            memory_gib: size.memory_gib,
            gpu_type: size.gpu_type,
            gpu_count: size.gpu_count,
            instance_type: size.instance_type,
            stock_key: size.key,
            price_hour: placement.price_hour,
            private_ip,
            eip,
            state: State::Scheduling,
            created_ms: now_ms,
            visible_from_ms: now_ms + lag,
            placed_ms: None,
            running_ms: None,
            ended_ms: None,
            deleted_ms: None,
            billed_ms: 0,
            billed_since_ms: None,
            containers: spec.containers.iter().cloned().map(Container::waiting).collect(),
            init_containers: spec.init_containers.iter().cloned().map(Container::waiting).collect(),
            events: Vec::new(),
            stuck: placement.stuck,
            holds_stock: placement.stock_now,
            holds_ip: true,
            holds_quota: true,
            next_spec: None,
            timers,
            spec,
        };
        self.due.extend(instance.timers.iter().map(|t| (t.at_ms, id.clone())));
        self.live.entry(scope.clone()).or_default().insert(seq, id.clone());
        self.instances.insert(id.clone(), instance);
        self.dirty.instances.insert(id.clone());
        Ok(id)
    }

    fn list_lag(&mut self, scope: &Scope, spec: &InstanceSpec, placement: &Placement, now_ms: i64) -> i64 {
        let subject = Subject {
            vendor: scope.vendor,
            region: &scope.region,
            zone: Some(&placement.zone),
            action: None,
            spec: Some(&placement.size.key),
            name: Some(&spec.name),
        };
        let fault = self.faults.hit(&subject, now_ms, &mut self.rng, |kind| {
            if let FaultKind::ListLag { ms } = kind { Some(*ms) } else { None }
        });
        fault.unwrap_or(self.rules.list_lag_ms)
    }

    /// Ids are never given twice, also not after a restart with the same seed.
    fn new_id(&mut self, vendor: Vendor) -> String {
        loop {
            let id = match vendor {
                Vendor::TencentEksci => format!("eksci-{}", self.rng.id_text(8)),
                Vendor::AlibabaEci => format!("eci-{}", self.rng.id_text(20)),
            };
            // Ends: 36^8 ids against at most what memory holds.
            if !self.instances.contains_key(&id) {
                return id;
            }
        }
    }

    fn make_eip(&mut self, request: Option<&EipRequest>) -> Option<Eip> {
        let request = request?;
        // TEST-NET-3 of RFC 5737: can never be a real address.
        let address = format!("203.0.113.{}", self.rng.below(254) + 1);
        Some(match request {
            EipRequest::Existing { id } => Eip { id: id.clone(), address, auto_created: false, keep_on_delete: true },
            EipRequest::Create { keep_on_delete, .. } => {
                let id = format!("eip-{}", self.rng.id_text(8));
                Eip { id, address, auto_created: true, keep_on_delete: *keep_on_delete }
            }
        })
    }
}

/// Sizes to try in turn, each as the vendor would sell it.
fn sizes_of(vendor: Vendor, spec: &InstanceSpec) -> Result<Vec<Size>, CreateError> {
    if !spec.instance_types.is_empty() {
        return spec.instance_types.iter().map(|name| size_of_type(name)).collect();
    }
    let sum = |field: fn(&super::types::ContainerSpec) -> Option<f64>| {
        let given: Vec<f64> = spec.containers.iter().filter_map(field).collect();
        (!given.is_empty()).then(|| given.iter().sum::<f64>())
    };
    let (default_cpu, default_memory) = match vendor {
        // EKSCI requires both; the face has refused a request without.
        Vendor::TencentEksci => (0.0, 0.0),
        Vendor::AlibabaEci => ALIBABA_DEFAULT,
    };
    let (cpu, memory_gib) = match (spec.cpu, spec.memory_gib) {
        (None, None) => match (sum(|c| c.cpu), sum(|c| c.memory_gib)) {
            (None, None) => (default_cpu, default_memory),
            (cpu, memory) => (cpu.unwrap_or(0.0), memory.unwrap_or(0.0)),
        },
        (cpu, memory) => (cpu.unwrap_or(0.0), memory.unwrap_or(0.0)),
    };
    let gpu_type = spec.gpu_type.clone().filter(|_| spec.gpu_count > 0);
    // CPU and memory that go with a GPU are not documented for EKSCI: taken as asked.
    let rounded = match &gpu_type {
        Some(_) => (cpu.is_finite() && memory_gib.is_finite() && cpu > 0.0).then_some((cpu, memory_gib)),
        None => round_spec(vendor, cpu, memory_gib),
    };
    let (cpu, memory_gib) = rounded.ok_or(CreateError::NoSuchSize { cpu, memory_gib })?;
    let gpu_count = if gpu_type.is_some() { spec.gpu_count } else { 0 };
    let key = spec_key(cpu, memory_gib, gpu_type.as_deref(), gpu_count);
    Ok(vec![Size { cpu, memory_gib, gpu_type, gpu_count, instance_type: None, key }])
}

fn size_of_type(name: &str) -> Result<Size, CreateError> {
    let known = instance_type(name).ok_or_else(|| CreateError::UnknownInstanceType { name: name.to_owned() })?;
    Ok(Size {
        cpu: known.cpu,
        memory_gib: known.memory_gib,
        gpu_type: known.gpu_type.map(str::to_owned),
        gpu_count: known.gpu_count,
        instance_type: Some(name.to_owned()),
        key: spec_key(known.cpu, known.memory_gib, known.gpu_type, known.gpu_count),
    })
}

/// The size an instance would get, for an update: cpu, memory and stock key.
pub(super) fn resized(vendor: Vendor, spec: &InstanceSpec) -> Result<(f64, f64, String), CreateError> {
    let sizes = sizes_of(vendor, spec)?;
    let first = sizes.into_iter().next().ok_or(CreateError::NoSuchSize { cpu: 0.0, memory_gib: 0.0 })?;
    Ok((first.cpu, first.memory_gib, first.key))
}

/// Message of the EKSCI event for no capacity (documented for pods of the same platform).
pub(super) fn no_capacity_event(vendor: Vendor, zone: &str, spec: &str) -> (EventKind, &'static str, String) {
    match vendor {
        Vendor::TencentEksci => (
            EventKind::Warning,
            "FailedCreatePodSandBox",
            format!("Failed to create pod sandbox in {zone}: insufficient resource for {spec}"),
        ),
        Vendor::AlibabaEci => (
            EventKind::Warning,
            "NoStock",
            format!("Create ECI failed because the specified instance {spec} is out of stock in {zone}."),
        ),
    }
}
