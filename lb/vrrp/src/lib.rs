//! VRRP versions 2 (RFC 3768) and 3 (RFC 9568) over IPv4 and, in version 3, IPv6, as a pure state machine: no sockets, no clock, no logs.
//!
//! Routers on one link share virtual addresses. One of them, the master, holds these and says so at every interval;
//! the others take over when they have not heard it for three intervals and a skew that lets the strongest go first.
//! RFC 9568 calls the master "active"; operators, keepalived and this crate stay with "master".
//!
//! ```text
//!                      +---------------+
//!           +--------->|               |<-------------+
//!           |          |  Initialize   |              |
//!           |   +------|               |----------+   |
//!           |   |      +---------------+          |   |
//!           |   |                                 |   |
//!     stop, |   | start,                   start, |   | stop,
//! link down |   | priority 255     priority < 255 |   | link down
//!           |   v                                 v   |
//!     +---------------+   stronger advert   +---------------+
//!     |               |-------------------->|               |
//!     |    Master     |                     |    Backup     |
//!     |               |<--------------------|               |
//!     +---------------+  master down timer  +---------------+
//! ```
//!
//! A shell owns a socket, a clock and an interface. It turns packets into events with [`decode`] or
//! [`decode_message`], wakes up at
//! [`State::deadline`], calls [`step()`] and does what the actions say:
//!
//! ```
//! # use std::time::Instant;
//! use vrrp::{
//!     Action, AdvertInterval, Audience, Checksum, Event, Preempt, Priority, RouterId, Settings, State,
//!     Version, VirtualAddresses, step,
//! };
//!
//! # fn example(now: Instant) -> Option<()> {
//! let settings = Settings {
//!     router_id: RouterId::new(51)?,
//!     priority: Priority::new(100)?,
//!     version: Version::Three { interval: AdvertInterval::ONE_SECOND, checksum: Checksum::PseudoHeader },
//!     preempt: Preempt::Never,
//!     local: [172, 16, 60, 241].into(),
//!     audience: Audience::Group,
//!     addresses: VirtualAddresses::new(vec![[172, 16, 60, 250].into()])?,
//! };
//! let (state, actions) = step(&settings, State::Initialize, Event::Start, now);
//! assert_eq!(actions, [Action::Release]);
//! let (_, actions) = step(&settings, state, Event::Tick, state.deadline()?);
//! assert!(actions.contains(&Action::Claim));
//! # Some(()) }
//! # #[expect(clippy::disallowed_methods)] fn main() { example(Instant::now()).unwrap() }
//! ```
#![forbid(unsafe_code)]

mod addresses;
mod packet;
mod rejected;
mod settings;
mod state;
mod step;

pub use addresses::{Audience, Family, GROUP_IPV4, GROUP_IPV6, Peers, VirtualAddresses};
pub use packet::{Advert, Header, LONGEST, PROTOCOL, Received, TIME_TO_LIVE, decode, decode_message, encode};
pub use rejected::Rejected;
pub use settings::{
    AdvertInterval, Checksum, Password, Preempt, Priority, RouterId, Settings, Version, WholeSeconds,
};
pub use state::{Action, Announcements, Backup, Event, Role, State};
pub use step::step;
