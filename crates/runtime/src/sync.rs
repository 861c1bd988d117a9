//! Channels and locks between tasks. Bounded channels only.

pub use tokio::sync::{
    Mutex, MutexGuard, Notify, OwnedMutexGuard, OwnedSemaphorePermit, RwLock, Semaphore, SemaphorePermit, broadcast, mpsc::Receiver,
    mpsc::Sender, mpsc::channel, mpsc::error::TrySendError, oneshot, watch,
};
