//! What kube-proxy leaves of its modes nftables and ipvs.

use super::{Ipvs, IpvsSettings, Surroundings, remove_table};
use crate::Error;

impl Ipvs {
    /// Removes kube-proxy's nftables table and, unless our own table shows that they are ours by now, its interface with
    /// the virtual services there. Success where there is neither. What is forwarded by eBPF is not touched.
    pub fn cleanup_of_kube_proxy() -> Result<(), Error> {
        remove_table("kube-proxy")?;
        if Self::is_present() && !Self::is_left()? {
            Self::open(IpvsSettings::default(), Surroundings::default())?.remove()?;
        }
        Ok(())
    }
}
