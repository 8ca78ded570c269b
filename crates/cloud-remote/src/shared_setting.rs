//! A setting that can change while remote access runs.

use std::sync::{Arc, PoisonError, RwLock};

/// A setting. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct SharedSetting<T>(Arc<RwLock<T>>);

impl<T: Clone> SharedSetting<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(value)))
    }

    /// Returns the current value.
    pub(crate) fn get(&self) -> T {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}
