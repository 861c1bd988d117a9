//! Panics: one that a task or connection survives is a bug all the same.

use crate::violation::Violation;
use std::sync::{Mutex, PoisonError};

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keep every panic from now on.
pub fn watch_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string().replace('\n', " "));
        print(panic);
    }));
}

/// Those since the last call.
pub(super) fn take() -> Vec<Violation> {
    let panics = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    panics.iter().map(|panic| Violation::panic(panic)).collect()
}
