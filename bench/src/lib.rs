//! Inputs and arithmetic that benchmarks share.

pub mod node;

use std::net::{IpAddr, Ipv4Addr};

use plan::{Backend, Forwarding, Frontend, Port, Protocol, Service};

/// A plan of `services` ClusterIPs with `endpoints` backends each, the same every time.
///
/// Addresses count up from 10.0.0.0 (frontends) and 100.64.0.0 (backends).
pub fn cluster(services: u32, endpoints: u32) -> Forwarding {
    let address = |base: [u8; 4], offset: u32| {
        IpAddr::from(Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits().wrapping_add(offset)))
    };
    let backends = |service: u32| {
        (0..endpoints)
            .map(move |endpoint| Backend::new(address([100, 64, 0, 0], service * endpoints + endpoint), PORT))
    };
    let frontend = |service: u32| Frontend::new(address([10, 0, 0, 0], service), PORT, Protocol::Tcp);
    (0..services)
        .map(|service| (frontend(service), Service { backends: backends(service).collect() }))
        .collect()
}

const PORT: Port = match Port::new(8080) {
    Some(port) => port,
    None => unreachable!(),
};

/// The value in the middle; of an even number the mean of the two. 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.len()) {
        (None, _) => 0.0,
        (Some(middle), odd) if odd % 2 == 1 => *middle,
        (Some(upper), even) => f64::midpoint(sorted[even / 2 - 1], *upper),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        let cases: [(&[f64], f64); 4] =
            [(&[], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[4.0, 1.0], 2.5)];
        for (values, expected) in cases {
            assert!((median(values) - expected).abs() < 1e-9, "{values:?}");
        }
    }
}
