//! ClesydeCloud: provisioning, IoT messaging and remote access composed.

pub use cloud_config as config;
pub use cloud_iot as iot;
pub use cloud_provision as provision;
pub use cloud_remote as remote;
pub use cloud_shadow as shadow;
