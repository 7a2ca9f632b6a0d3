//!

mod advert_socket;
mod packet_socket;
pub mod router;
mod virtual_address;
