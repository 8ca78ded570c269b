//! Registers a device with the Clesyde platform over HTTPS
