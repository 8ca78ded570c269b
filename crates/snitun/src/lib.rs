//! The SniTun protocol: sans-IO core, tokio driver, client and server
