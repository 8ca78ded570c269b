//! The host's function for the records of callers.

use std::fmt;
use std::sync::Arc;

use cloud_remote::AccessRecord;

/// The function that receives the records of callers.
#[derive(Clone)]
pub(crate) struct AccessObserver(pub(crate) Arc<dyn Fn(&AccessRecord) + Send + Sync>);

impl fmt::Debug for AccessObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessObserver")
    }
}
