//! What stands between client and server: ours, its rivals at their documented best settings, and nothing.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Serialize;

/// One way from the client to the server, with addresses of its own: connections that one variant has left in `TIME_WAIT`
/// cannot get in the way of another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// fairway-lb.
    Fairway,
    /// HAProxy with `option splice-auto`.
    HaproxySplice,
    /// HAProxy without splicing, with buffers of 64 KiB.
    HaproxyCopy,
    /// The stream module of nginx.
    Nginx,
    /// The kernel of the balancer's node routes: the limit.
    Direct,
}

impl Variant {
    /// All of them, in the order in which they take their turns.
    pub const ALL: [Self; 5] =
        [Self::Fairway, Self::HaproxySplice, Self::HaproxyCopy, Self::Nginx, Self::Direct];

    /// Its name in progress and report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fairway => "fairway-lb",
            Self::HaproxySplice => "HAProxy, splice",
            Self::HaproxyCopy => "HAProxy, 64 KiB",
            Self::Nginx => "nginx stream",
            Self::Direct => "direct",
        }
    }

    /// Whether ours is compared with it.
    pub const fn is_rival(self) -> bool {
        match self {
            Self::HaproxySplice | Self::HaproxyCopy | Self::Nginx => true,
            Self::Fairway | Self::Direct => false,
        }
    }

    /// Its program; `None` where the kernel does it.
    pub const fn program(self) -> Option<&'static str> {
        match self {
            Self::Fairway => Some("fairway-lb"),
            Self::HaproxySplice | Self::HaproxyCopy => Some("haproxy"),
            Self::Nginx => Some("nginx"),
            Self::Direct => None,
        }
    }

    /// Where the server listens for it.
    pub fn backend(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 81, 0, self.number()), 6443)
    }

    /// Where clients knock.
    pub fn frontend(self) -> SocketAddrV4 {
        match self {
            Self::Direct => self.backend(),
            Self::Fairway | Self::HaproxySplice | Self::HaproxyCopy | Self::Nginx => {
                SocketAddrV4::new(Ipv4Addr::new(10, 80, 0, self.number()), 8443)
            }
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Fairway => 11,
            Self::HaproxySplice => 12,
            Self::HaproxyCopy => 13,
            Self::Nginx => 14,
            Self::Direct => 15,
        }
    }

    /// Its configuration; `authority` is the file with the certificate that health checks trust. Those who can check
    /// ask for `/readyz` over HTTPS twice a second; nginx cannot.
    pub fn configuration(self, authority: &str) -> String {
        match self {
            Self::Fairway => self.fairway(authority),
            Self::HaproxySplice => self.haproxy(authority, "option splice-auto", ""),
            Self::HaproxyCopy => self.haproxy(authority, "", "tune.bufsize 65536"),
            Self::Nginx => self.nginx(),
            Self::Direct => String::new(),
        }
    }

    fn fairway(self, authority: &str) -> String {
        let (frontend, backend) = (self.frontend(), self.backend());
        format!(
            r#"apiVersion: fairway.dev/v1alpha1
kind: FrontDoor
frontend: {{listen: "{frontend}"}}
backends:
  - {{name: m1, address: "{backend}"}}
healthCheck: {{tls: {{caFile: {authority}}}}}
"#
        )
    }

    /// One thread per processor is its default. Where a process may have no more than 20,000 descriptors, two for each
    /// connection and two for each pipe must fit; every stream of the benchmark finds its pipes.
    fn haproxy(self, authority: &str, option: &str, tune: &str) -> String {
        let (frontend, backend) = (self.frontend(), self.backend());
        format!(
            "global
  maxconn 9300
  maxpipes 400
  {tune}
defaults
  mode tcp
  maxconn 9300
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  {option}
frontend apiserver
  bind {frontend}
  default_backend apiservers
backend apiservers
  option httpchk GET /readyz
  server m1 {backend} check inter 500ms check-ssl verify required ca-file {authority}
"
        )
    }

    /// Without `proxy_half_close` it would cut a connection short whose client has said all it has to say.
    fn nginx(self) -> String {
        let (frontend, backend) = (self.frontend(), self.backend());
        format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes auto;
worker_rlimit_nofile 20000;
pid nginx.pid;
events {{ worker_connections 20000; }}
stream {{
  proxy_buffer_size 64k;
  proxy_timeout 1h;
  proxy_half_close on;
  server {{ listen {frontend} reuseport; proxy_pass {backend}; }}
}}
"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_variants_share_an_address() {
        let addresses = Variant::ALL.map(|variant| [variant.frontend(), variant.backend()]);
        let different: BTreeSet<_> = addresses.as_flattened().iter().collect();
        // The frontend of the direct way is its backend.
        assert_eq!(different.len(), 2 * Variant::ALL.len() - 1);
    }

    #[test]
    fn every_balancer_is_told_where_to_listen_and_where_to_go() {
        for variant in Variant::ALL.into_iter().filter(|variant| variant.program().is_some()) {
            let text = variant.configuration("/ca.crt");
            for address in [variant.frontend(), variant.backend()] {
                assert!(text.contains(&address.to_string()), "{variant:?}: {text}");
            }
        }
    }
}
