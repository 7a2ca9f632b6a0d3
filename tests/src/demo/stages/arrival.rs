//! The nodes come up.

use std::time::Duration;

use crate::demo::figure::{Figure, Found, shown};
use crate::demo::network::MASTERS;
use crate::demo::screen::Screen;
use crate::demo::site::Site;
use crate::topology::FRONT_DOOR;
use crate::{Result, wait};

/// Starts everything and waits until it works together.
pub(crate) fn arrive(site: &mut Site, screen: &mut Screen) -> Result<Vec<Figure>> {
    screen.stage(
        1,
        "Three masters and a worker come up",
        "each master runs fairway-lb and an apiserver; the worker's fairway-proxy knows the virtual address alone",
    )?;
    let start = wait::now();
    screen.live("apiservers and front doors are starting …")?;
    site.start_masters()?;
    site.settle()?;
    let holder = site.holder(|_| true)?;
    let masters = wait::now() - start;
    let holder = MASTERS[holder];
    screen.result(
        true,
        &format!("{holder} holds {FRONT_DOOR}; every front door sees three ready apiservers"),
    )?;

    screen.live("Services are written, fairway-proxy is starting …")?;
    site.write_services(&["p1", "p2"])?;
    let start = wait::now();
    site.worker.start_proxy(&site.network)?;
    site.worker.await_proxy(&site.network)?;
    let proxy = wait::now() - start;
    site.check_pods()?;
    screen.result(
        true,
        &format!("fairway-proxy has its Services from {FRONT_DOOR}, {} after its start", shown(proxy)),
    )?;
    Ok(vec![time("masters_up", "three masters up", masters), time("proxy_in_step", "proxy in step", proxy)])
}

const fn time(key: &'static str, title: &'static str, took: Duration) -> Figure {
    Figure::new(key, title, Found::Time(took))
}
