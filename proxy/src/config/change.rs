//! Whether the configuration file still says what is in force.
//!
//! It is read every few seconds instead of being watched: a file of a `ConfigMap` is a link to a link that changes, and one on
//! a network file system tells nobody.

use std::time::Duration;

use daemon::exit::chain;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::Config;
use crate::arguments::ConfigError;

/// Returns when `read` comes to another configuration than the one `in_force`; looks `every` so often.
///
/// What cannot be read, or is invalid, changes nothing: to start again with it would leave the node without a proxy. It
/// is said once.
pub(crate) async fn changed<R>(in_force: &Config, every: Duration, read: R)
where
    R: Fn() -> Result<Config, ConfigError> + Clone + Send + 'static,
{
    let mut said = None;
    loop {
        sleep(every).await;
        let problem = match spawn_blocking(read.clone()).await {
            Ok(Ok(config)) if config == *in_force => None,
            Ok(Ok(_)) => return,
            Ok(Err(error)) => Some(chain(&error)),
            Err(error) => Some(chain(&error)),
        };
        if said == problem {
            continue;
        }
        if let Some(problem) = &problem {
            tracing::error!(problem, "configuration file not usable, the one in force stays");
        } else {
            tracing::info!("configuration file is as it was");
        }
        said = problem;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::read;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    /// Whether a file that says `after` has changed, where what is in force is `before`.
    async fn has_changed(before: &str, after: Option<&str>) -> bool {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.yaml");
        if let Some(after) = after {
            fs::write(&path, format!("{HEAD}{after}")).expect("written");
        }
        let in_force = read(&format!("{HEAD}{before}")).expect("valid").0;
        let looked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let looks = std::sync::Arc::clone(&looked);
        let read = move || {
            looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let text = fs::read_to_string(&path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            Ok(read(&text)?.0)
        };
        let looked_often = async {
            while looked.load(std::sync::atomic::Ordering::SeqCst) < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = changed(&in_force, Duration::from_millis(1), read) => true,
            () = looked_often => false,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_another_valid_configuration_is_a_change() {
        let cases = [
            ("bindAddressHardFail: true", Some("bindAddressHardFail: true"), false),
            ("bindAddressHardFail: true", Some("# a remark\nbindAddressHardFail: true"), false),
            ("bindAddressHardFail: true", Some("bindAddressHardFail: false"), true),
            ("", Some("iptables: {syncPeriod: 1m}"), true),
            ("", Some("bindAddressHardFail: maybe"), false),
            ("", Some("nonsense: ["), false),
            ("", None, false),
        ];
        for (before, after, expected) in cases {
            assert_eq!(has_changed(before, after).await, expected, "{before:?} {after:?}");
        }
    }
}
