//! Rate limits of the vendors: one token bucket per key, region and action.
//!
//! The vendors state a number per second (Tencent) or per minute (Alibaba) and not how they count; a bucket that
//! holds one period's worth is the mildest reading.

use std::collections::BTreeMap;

use crate::core::Vendor;
use crate::scenario::Limits;

/// Most buckets kept; full ones (idle callers) are dropped first.
const BUCKETS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at_ms: i64,
}

/// All buckets.
#[derive(Debug)]
pub(crate) struct RateBook {
    limits: Limits,
    buckets: BTreeMap<(String, String, String), Bucket>,
}

impl RateBook {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, buckets: BTreeMap::new() }
    }

    /// Calls and the period in milliseconds they are allowed in.
    fn limit(&self, vendor: Vendor, action: &str) -> (u32, i64) {
        match vendor {
            Vendor::TencentEksci => {
                let own = self.limits.tencent_actions_per_second.get(action).copied();
                (own.unwrap_or(self.limits.tencent_per_second), 1_000)
            }
            Vendor::AlibabaEci => {
                let own = self.limits.alibaba_per_minute.get(action).copied();
                (own.unwrap_or(self.limits.alibaba_other_per_minute), 60_000)
            }
        }
    }

    /// Takes one call, or says after how many milliseconds one would be allowed.
    pub(crate) fn take(
        &mut self,
        (vendor, region): (Vendor, &str),
        key_id: &str,
        action: &str,
        now_ms: i64,
    ) -> Result<(), i64> {
        if !self.limits.enabled {
            return Ok(());
        }
        let (calls, period_ms) = self.limit(vendor, action);
        let full = f64::from(calls);
        let per_ms = full / period_ms as f64;
        if self.buckets.len() >= BUCKETS_MAX {
            self.buckets.retain(|_, b| now_ms - b.at_ms < 60_000);
        }
        let key = (key_id.to_owned(), region.to_owned(), action.to_owned());
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: full, at_ms: now_ms });
        bucket.tokens = ((now_ms - bucket.at_ms).max(0) as f64).mul_add(per_ms, bucket.tokens).min(full);
        bucket.at_ms = now_ms;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else if per_ms > 0.0 {
            Err(((1.0 - bucket.tokens) / per_ms).ceil() as i64)
        } else {
            Err(period_ms)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_a_second_and_then_as_time_goes() {
        let mut book = RateBook::new(Limits::default());
        let place = (Vendor::TencentEksci, "ap-guangzhou");
        for _ in 0..20 {
            book.take(place, "k", "CreateEKSContainerInstances", 1_000).unwrap();
        }
        assert_eq!(book.take(place, "k", "CreateEKSContainerInstances", 1_000), Err(50));
        book.take(place, "k", "DeleteEKSContainerInstances", 1_000).unwrap();
        book.take(place, "other key", "CreateEKSContainerInstances", 1_000).unwrap();
        book.take((place.0, "ap-shanghai"), "k", "CreateEKSContainerInstances", 1_000).unwrap();
        book.take(place, "k", "CreateEKSContainerInstances", 1_050).unwrap();
        assert!(book.take(place, "k", "CreateEKSContainerInstances", 1_060).is_err());
    }

    #[test]
    fn per_minute_for_alibaba_and_off_when_disabled() {
        let mut limits = Limits::default();
        limits.alibaba_per_minute.insert("CreateImageCache".into(), 2);
        let mut book = RateBook::new(limits.clone());
        let place = (Vendor::AlibabaEci, "cn-hangzhou");
        book.take(place, "k", "CreateImageCache", 0).unwrap();
        book.take(place, "k", "CreateImageCache", 0).unwrap();
        assert_eq!(book.take(place, "k", "CreateImageCache", 0), Err(30_000));
        limits.enabled = false;
        let mut off = RateBook::new(limits);
        for _ in 0..10 {
            off.take(place, "k", "CreateImageCache", 0).unwrap();
        }
    }
}
