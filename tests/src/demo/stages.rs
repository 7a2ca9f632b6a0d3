//! What is shown, one module per stage. A stage does something to the site, shows it and returns what it found.

mod apiserver;
mod arrival;
mod endpoints;
mod proxy;
mod spread;
mod takeover;

use super::figure::Figure;
use super::screen::Screen;
use super::site::Site;
use crate::Result;

/// A stage.
type Stage = fn(&mut Site, &mut Screen) -> Result<Vec<Figure>>;

/// The nodes come up.
pub(crate) use arrival::arrive;

/// Everything there is to see, in order, once the nodes are up.
pub(crate) const ALL: [Stage; 7] = [
    spread::over_apiservers,
    takeover::node_dies,
    apiserver::drains,
    endpoints::change,
    proxy::is_killed,
    proxy::refuses,
    takeover::front_door_stops,
];

/// Takes both kinds of takeover so often, and returns every gap.
pub(crate) use takeover::again_and_again;
