//! The program `fairway-proxy` on nodes of its own: real sockets of clients, real pods, an apiserver or a directory.

mod answers;
mod apiserver;
mod away;
mod configuration;
mod doctor;
mod drift;
mod emptiness;
mod life_cycle;
mod manifests;
mod node;
mod packet;
mod pod;
mod privileges;
mod refusal;
mod scenarios;
mod services;
