#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| pgtandem_fuzz::hba(data));
