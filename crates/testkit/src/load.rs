//! Load for benchmarks: clients that cost little, the programs that they talk to, and a table of
//! the results.

pub mod client;
pub mod http2;
pub mod measure;
pub mod programs;
pub mod table;
