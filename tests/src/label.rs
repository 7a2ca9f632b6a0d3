//! Names of what a run makes: `fw-<label>-<pid>-<number>`, so that a later run knows whose they are.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A name nobody else uses while this process lives.
pub(crate) fn unique(label: &str) -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("fw-{label}-{}-{number}", std::process::id())
}

/// Whether `name` was made by a run that is no more.
pub(crate) fn is_orphan(name: &str) -> bool {
    maker(name).is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}

fn maker(name: &str) -> Option<u32> {
    let (rest, number) = name.strip_prefix("fw-")?.rsplit_once('-')?;
    let (_, process) = rest.rsplit_once('-')?;
    number.parse::<u32>().ok()?;
    process.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_runs_are_orphans() {
        for (name, orphan) in [
            (unique("client"), false),
            (unique("a-b"), false),
            ("fw-client-4194305-0".to_owned(), true), // above the largest pid there can be
            ("fw-client".to_owned(), false),
            ("fw-client-4194305-x".to_owned(), false),
            ("client-4194305-0".to_owned(), false),
        ] {
            assert_eq!(is_orphan(&name), orphan, "{name}");
        }
    }
}
