//! Image caches. Their state is a function of time, so nothing has to be advanced.

use super::change::ChangeError;
use super::machine::is_missing;
use super::types::{ImageCache, ImageCacheSpec, ImageCacheState, Scope, State, Vendor};
use super::world::World;

/// Size if none is asked for (vendor-api README 2.5).
pub const IMAGE_CACHE_GIB_DEFAULT: u64 = 20;
/// Most caches of one scope.
pub const IMAGE_CACHES_MAX: usize = 1_000;
const DAY_MS: i64 = 24 * 3_600_000;

impl ImageCache {
    /// State at a moment. A cache with an image tagged `missing` fails.
    #[must_use]
    pub fn state(&self, now_ms: i64) -> ImageCacheState {
        let broken = self.images.iter().any(|i| is_missing(i));
        match (now_ms < self.ready_ms, self.updated_ms) {
            (true, None) if now_ms < self.created_ms + (self.ready_ms - self.created_ms) / 2 => {
                ImageCacheState::Preparing
            }
            (true, None) => ImageCacheState::Creating,
            (true, Some(_)) => ImageCacheState::Updating,
            (false, None) if broken => ImageCacheState::Failed,
            (false, Some(_)) if broken => ImageCacheState::UpdateFailed,
            (false, _) => ImageCacheState::Ready,
        }
    }

    /// Not deleted and not past its retention.
    #[must_use]
    pub fn exists(&self, now_ms: i64) -> bool {
        let kept_ms = i64::try_from(self.retention_days).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
        self.deleted_ms.is_none() && (self.retention_days == 0 || now_ms < self.created_ms.saturating_add(kept_ms))
    }
}

impl World {
    /// Starts making an image cache and returns its id; `None` if the scope has too many.
    pub fn create_image_cache(&mut self, scope: &Scope, spec: ImageCacheSpec, now_ms: i64) -> Option<String> {
        self.advance(now_ms);
        if self.image_caches(scope, now_ms).len() >= IMAGE_CACHES_MAX {
            return None;
        }
        let id = loop {
            let id = match scope.vendor {
                Vendor::TencentEksci => format!("imc-{}", self.rng.id_text(8)),
                Vendor::AlibabaEci => format!("imc-{}", self.rng.id_text(20)),
            };
            if !self.images.contains_key(&id) {
                break id;
            }
        };
        let snapshot_id = match scope.vendor {
            Vendor::TencentEksci => format!("snap-{}", self.rng.id_text(8)),
            Vendor::AlibabaEci => format!("s-{}", self.rng.id_text(20)),
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        let cache = ImageCache {
            id: id.clone(),
            seq,
            scope: scope.clone(),
            name: spec.name,
            snapshot_id,
            images: spec.images,
            size_gib: spec.size_gib.unwrap_or(IMAGE_CACHE_GIB_DEFAULT),
            retention_days: spec.retention_days.unwrap_or(0),
            credentials: spec.credentials,
            security_group_ids: spec.security_group_ids,
            tags: spec.tags,
            created_ms: now_ms,
            updated_ms: None,
            ready_ms: now_ms + self.timing.image_cache_ms,
            last_matched_ms: None,
            deleted_ms: None,
            extra: spec.extra,
        };
        self.images.insert(id.clone(), cache);
        self.dirty.images.insert(id.clone());
        Some(id)
    }

    /// Existing caches of a scope in order of creation.
    #[must_use]
    pub fn image_caches(&self, scope: &Scope, now_ms: i64) -> Vec<&ImageCache> {
        let mut all: Vec<_> = self.images.values().filter(|c| c.scope == *scope && c.exists(now_ms)).collect();
        all.sort_by_key(|c| c.seq);
        all
    }

    /// Changes a cache through `edit`. A change of its images is made anew (`Updating`).
    ///
    /// # Errors
    /// [`ChangeError::NotFound`]; [`ChangeError::WrongState`] while it is being made.
    pub fn update_image_cache(
        &mut self,
        scope: &Scope,
        id: &str,
        now_ms: i64,
        edit: impl FnOnce(&mut ImageCache),
    ) -> Result<(), ChangeError> {
        let ready_ms = now_ms + self.timing.image_cache_ms;
        let cache = self.image_mut(scope, id, now_ms)?;
        if now_ms < cache.ready_ms {
            return Err(ChangeError::WrongState { state: State::Updating });
        }
        let before = cache.images.clone();
        edit(cache);
        if cache.images != before {
            cache.updated_ms = Some(now_ms);
            cache.ready_ms = ready_ms;
        }
        self.dirty.images.insert(id.to_owned());
        Ok(())
    }

    /// Deletes a cache.
    ///
    /// # Errors
    /// [`ChangeError::NotFound`].
    pub fn delete_image_cache(&mut self, scope: &Scope, id: &str, now_ms: i64) -> Result<(), ChangeError> {
        self.image_mut(scope, id, now_ms)?.deleted_ms = Some(now_ms);
        self.dirty.images.insert(id.to_owned());
        Ok(())
    }

    /// The ready cache that holds most of these images, if any holds one; remembers that it was matched.
    pub fn match_image_cache(&mut self, scope: &Scope, images: &[String], now_ms: i64) -> Option<&ImageCache> {
        let hits = |cache: &ImageCache| images.iter().filter(|i| cache.images.contains(i)).count();
        let best = self
            .images
            .values()
            .filter(|c| c.scope == *scope && c.exists(now_ms) && c.state(now_ms) == ImageCacheState::Ready)
            .filter(|c| hits(c) > 0)
            .max_by_key(|c| (hits(c), c.seq))?;
        let id = best.id.clone();
        self.dirty.images.insert(id.clone());
        let cache = self.images.get_mut(&id)?;
        cache.last_matched_ms = Some(now_ms);
        Some(cache)
    }

    fn image_mut(&mut self, scope: &Scope, id: &str, now_ms: i64) -> Result<&mut ImageCache, ChangeError> {
        self.images
            .get_mut(id)
            .filter(|c| c.scope == *scope && c.exists(now_ms))
            .ok_or_else(|| ChangeError::NotFound { id: id.to_owned() })
    }
}
