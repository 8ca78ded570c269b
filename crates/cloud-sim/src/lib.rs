//! A whole Clesyde cloud in one process, for tests and demonstrations

pub mod shadow;
