//! Whatever is in a configuration file, and in the files that it names: no panic, and a refusal says why.
#![no_main]

use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

/// Files are told apart by the length of their names: some are missing, some hold what the operator's file says.
fn file(path: &Path, text: &str) -> io::Result<Vec<u8>> {
    match path.as_os_str().len() % 3 {
        0 => Err(io::ErrorKind::NotFound.into()),
        1 => Ok(AUTHORITY.to_vec()),
        _ => Ok(text.as_bytes().to_vec()),
    }
}

fuzz_target!(|text: &str| {
    match lb::config::parse(text, &|path: &Path| file(path, text)) {
        Ok(config) => {
            assert!(!config.backends.is_empty() && !config.frontend.listen.is_empty(), "nobody to serve");
        }
        Err(problems) => assert!(!problems.to_string().is_empty(), "a refusal without a reason"),
    }
});

const AUTHORITY: &[u8] = include_bytes!("../seeds/authority.pem");
