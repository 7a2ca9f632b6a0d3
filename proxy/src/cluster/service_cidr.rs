//! What a `ServiceCIDR` says: networks that the API server takes cluster addresses from.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as networking;
use serde_json::Value;

use super::{Kind, Refusal, kind};

/// Its networks (`spec.cidrs`), one of a family.
pub type ServiceCidr = BTreeSet<IpNet>;

/// Reads one. Until it is gone for good addresses are taken from it, also while it is being deleted.
pub(super) fn read(object: Value) -> Result<Option<ServiceCidr>, Refusal> {
    let object: networking::ServiceCIDR = kind::decoded(Kind::ServiceCidr, object)?;
    let texts = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
    let network = |text: String| match text.parse::<IpNet>() {
        Ok(network) => Ok(network.trunc()),
        Err(_) => Err(Refusal::Network { field: "spec.cidrs", text }),
    };
    texts.into_iter().map(network).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn its_networks_are_read_and_what_is_none_is_refused() {
        let of = |cidrs: Value| read(json!({ "spec": { "cidrs": cidrs } }));
        let networks = ["10.254.0.0/16", "fd00:254::/112"].map(|text| text.parse().expect("a network"));
        assert_eq!(of(json!(["10.254.0.0/16", "fd00:254::/112"])), Ok(Some(networks.into())));
        assert_eq!(of(json!([])), Ok(Some(BTreeSet::new())));
        let refusal = of(json!(["10.254.0.0/16", "10.254.0.0"])).expect_err("refused").to_string();
        assert_eq!(refusal, "spec.cidrs: \"10.254.0.0\" is not a network");
        assert!(of(json!("10.254.0.0/16")).is_err());
    }
}
