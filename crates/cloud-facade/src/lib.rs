//! ClesydeCloud: provisioning, IoT messaging and remote access composed
