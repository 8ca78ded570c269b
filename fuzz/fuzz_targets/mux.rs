#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| snitun_fuzz::run("mux", data));
