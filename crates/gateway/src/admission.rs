//! Admission: one bound for the bytes of object bodies that this gateway holds, asked before a byte is read.
//!
//! Invariants: what was admitted never exceeds the bound; whoever holds some and wants more only *tries* (see `write`), so that
//! waiting never forms a ring; small requests have a share of their own and never queue behind blobs; reads take at most half of
//! the rest, so that slow readers cannot starve writers.

use runtime::sync::{OwnedSemaphorePermit, Semaphore};
use runtime::time::Instant;
use std::sync::Arc;

/// Unit of the semaphores in bytes: permits are counted in u32.
const UNIT: usize = 1024;
/// Requests up to this size use the share of the small.
const SMALL_BYTES: usize = 512 << 10;
/// One part in this many is the share of the small.
const SMALL_SHARE: usize = 8;

/// The bound.
pub struct Admission {
    small: Pool,
    large: Pool,
    /// Narrows what reads may take of `large`; always acquired before it.
    reads: Pool,
}

struct Pool {
    semaphore: Arc<Semaphore>,
    units: u32,
}

/// Admitted bytes; given back when dropped.
#[derive(Debug)]
pub struct Admitted {
    permits: Vec<OwnedSemaphorePermit>,
    units: u32,
}

/// The bound was reached for as long as the caller would wait: 503 SlowDown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this gateway holds as many bytes as it may: slow down and try again")]
pub struct Busy;

impl Pool {
    fn of(bytes: usize) -> Pool {
        let units = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        Pool { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Units of `bytes`, never more than there are: a request larger than the bound has all of it to itself.
    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).max(1)).unwrap_or(u32::MAX).min(self.units)
    }

    fn try_take(&self, bytes: usize) -> Option<(OwnedSemaphorePermit, u32)> {
        let units = self.units_of(bytes);
        let permit = self.semaphore.clone().try_acquire_many_owned(units).ok()?;
        Some((permit, units))
    }

    async fn take(&self, bytes: usize, deadline: Instant) -> Result<(OwnedSemaphorePermit, u32), Busy> {
        // Nobody is overtaken: what is given back goes to who waits first.
        if let Some(taken) = self.try_take(bytes) {
            return Ok(taken);
        }
        let units = self.units_of(bytes);
        match runtime::time::timeout_at(deadline, self.semaphore.clone().acquire_many_owned(units)).await {
            Ok(permit) => Ok((permit.expect("the semaphore is never closed"), units)),
            Err(_) => {
                runtime::probe!("admission-timed-out");
                Err(Busy)
            }
        }
    }
}

impl Admission {
    /// At most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Admission {
        let small = bytes_max / SMALL_SHARE;
        let large = bytes_max - small;
        Admission { small: Pool::of(small), large: Pool::of(large), reads: Pool::of(large / 2) }
    }

    /// Bytes that are admitted at present.
    pub fn held_bytes(&self) -> usize {
        let held = |pool: &Pool| pool.units as usize - pool.semaphore.available_permits();
        (held(&self.small) + held(&self.large)) * UNIT
    }

    fn pool(&self, bytes: usize) -> &Pool {
        if bytes <= SMALL_BYTES && bytes <= self.small.units as usize * UNIT { &self.small } else { &self.large }
    }

    /// Take `bytes` for a write if they are free now. `spare` bytes must remain free besides.
    pub fn try_write(&self, bytes: usize, spare: usize) -> Option<Admitted> {
        let pool = self.pool(bytes);
        if pool.semaphore.available_permits().saturating_mul(UNIT) < bytes.saturating_add(spare) {
            return None;
        }
        let (permit, units) = pool.try_take(bytes)?;
        Some(Admitted { permits: vec![permit], units })
    }

    /// Take `bytes` for a write; waits in line. The caller holds nothing admitted.
    pub async fn write(&self, bytes: usize, deadline: Instant) -> Result<Admitted, Busy> {
        let (permit, units) = self.pool(bytes).take(bytes, deadline).await?;
        Ok(Admitted { permits: vec![permit], units })
    }

    /// Take `bytes` for a read; waits in line.
    pub async fn read(&self, bytes: usize, deadline: Instant) -> Result<Admitted, Busy> {
        let pool = self.pool(bytes);
        if std::ptr::eq(pool, &self.small) {
            let (permit, units) = pool.take(bytes, deadline).await?;
            return Ok(Admitted { permits: vec![permit], units });
        }
        // Both counts are cut to the smaller pool, so that they can be given back together.
        let bytes = bytes.min(self.reads.units as usize * UNIT);
        let (narrow, units) = self.reads.take(bytes, deadline).await?;
        let (permit, _) = self.large.take(bytes, deadline).await?;
        Ok(Admitted { permits: vec![narrow, permit], units })
    }
}

impl Admitted {
    /// Give back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let keep = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        if keep >= self.units {
            return;
        }
        let surplus = (self.units - keep) as usize;
        for permit in &mut self.permits {
            drop(permit.split(surplus));
        }
        self.units = keep;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn what_is_admitted_comes_back_when_dropped() {
        let admission = Admission::new(16 << 20);
        let first = admission.try_write(10 << 20, 0).expect("14 MiB are free");
        assert!(admission.try_write(10 << 20, 0).is_none());
        drop(first);
        assert!(admission.try_write(10 << 20, 4 << 20).is_some());
    }

    #[test]
    fn small_requests_do_not_queue_behind_blobs() {
        let admission = Admission::new(16 << 20);
        let _all = admission.try_write(14 << 20, 0).expect("free");
        assert!(admission.try_write(1 << 20, 0).is_none());
        assert!(admission.try_write(64 << 10, 0).is_some());
    }

    #[test]
    fn reads_leave_half_of_the_large_share_to_writers() {
        let admission = Admission::new(16 << 20);
        let deadline = runtime::time::now();
        let _read = admission.read(100 << 20, deadline).now_or_never().expect("cut to the share").expect("free");
        assert!(admission.try_write(7 << 20, 0).is_some());
    }

    #[test]
    fn shrinking_gives_back_the_surplus_of_both_pools() {
        let admission = Admission::new(16 << 20);
        let deadline = runtime::time::now();
        let mut read = admission.read(6 << 20, deadline).now_or_never().expect("free").expect("free");
        assert!(admission.reads.try_take(4 << 20).is_none());
        read.shrink_to(2 << 20);
        assert!(admission.read(4 << 20, deadline).now_or_never().expect("free again").is_ok());
    }
}
