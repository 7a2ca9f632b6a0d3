//! A reload: all that can fail first, then the change.

use daemon::admin::Admin;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Server, admin_forever, bind_admin, routes, start_probes};
use crate::Error;
use crate::config::{self, Config};
use crate::control::Control;
use crate::health::Thresholds;
use crate::metrics::ReloadResult;
use crate::relay::Change;
use crate::reload::{Step, router, steps};
use crate::router::{Beginning, Prepared, Router};
use crate::virtual_services::VirtualServices;

/// A configuration to go over to: all that can fail has been done, and nothing has changed yet.
struct Prospect {
    config: Config,
    steps: Vec<Step>,
    frontend: Option<Change>,
    admin: Option<Admin>,
    control: Option<Control>,
    routers: Vec<(String, Prepared)>,
    virtual_services: Option<VirtualServices>,
}

impl Server {
    /// Reads the file anew and goes over to what it says; a file that is not valid changes nothing.
    pub(super) async fn reload(&mut self) {
        if self.times.leave_at.is_some() {
            tracing::warn!("not reloaded: a successor has taken over");
            return;
        }
        self.notifier.reloading();
        let (result, details) = match self.prospect().await {
            Ok(prospect) => self.go_over(prospect),
            Err(problems) => (ReloadResult::Refused, problems),
        };
        self.metrics.reloads(result).inc();
        let file = self.file.display();
        match result {
            ReloadResult::Applied => {
                tracing::info!(%file, steps = details.join(", "), "configuration reloaded");
            }
            ReloadResult::Partial => tracing::error!(%file, "configuration reloaded in part"),
            ReloadResult::Refused => tracing::error!(%file, "configuration refused: nothing has changed"),
        }
        self.times.last_reload = Some((Instant::now(), result, details));
        self.notifier.ready();
    }

    /// What to go over to, or all that is wrong with it.
    async fn prospect(&self) -> Result<Prospect, Vec<String>> {
        let config = config::read(&self.file).map_err(|problems| {
            for problem in problems.list() {
                tracing::error!(path = problem.path, problem = problem.what, "configuration problem");
            }
            problems.list().iter().map(ToString::to_string).collect::<Vec<_>>()
        })?;
        self.prepare(config).await.map_err(|error| {
            let error = daemon::exit::chain(&error);
            tracing::error!(error, "configuration cannot be carried out");
            vec![error]
        })
    }

    async fn prepare(&self, config: Config) -> Result<Prospect, Error> {
        let steps = steps(&self.config, &config);
        if config.frontend.forwarding != self.config.frontend.forwarding {
            return Err(Error::Forwarding);
        }
        let virtual_services = VirtualServices::open(&config, &self.config.frontend.listen)?;
        let frontend = self.front_door.prepare(&config.frontend)?;
        let (mut admin, mut control, mut routers) = (None, None, Vec::new());
        for step in &steps {
            match step {
                Step::MoveAdmin(address) => {
                    let routes = routes(&self.registry, &self.front_door);
                    admin = Some(bind_admin(*address, None, routes).await?);
                }
                Step::MoveControl(path) => {
                    let fail = |source| Error::Control { socket: path.clone(), source };
                    control = Some(Control::bind(path).map_err(fail)?);
                }
                Step::StartRouter(instance) | Step::RestartRouter(instance) => {
                    if let Some(router) = router(&config, instance) {
                        let prepared = Router::prepare(router.clone(), &self.router_metrics)?;
                        routers.push((instance.clone(), prepared));
                    }
                }
                Step::AddBackend(_)
                | Step::RemoveBackend(_)
                | Step::ChangeBackend(_)
                | Step::ChangeHealthCheck
                | Step::ChangeRebalance
                | Step::Listen(_)
                | Step::Close(_)
                | Step::ChangeFrontend
                | Step::StopRouter(_)
                | Step::ChangeRouter(_) => {}
            }
        }
        Ok(Prospect { config, steps, frontend, admin, control, routers, virtual_services })
    }

    /// What came of it, and the steps or what went wrong.
    fn go_over(&mut self, prospect: Prospect) -> (ReloadResult, Vec<String>) {
        let Prospect { config, steps, frontend, admin, control, routers, virtual_services } = prospect;
        self.config = config;
        self.times.in_force = Instant::now();
        self.pool.reconfigure(
            &self.config.backends,
            self.config.frontend.balance,
            Thresholds::from(&self.config.health_check),
        );
        // All of them: certificates may be others in files of the same name.
        self.probes = start_probes(&self.config, &self.pool);
        self.forward(virtual_services);
        let mut failures = Vec::new();
        let mut note = |outcome: Result<(), Error>| {
            if let Err(error) = outcome {
                let error = daemon::exit::chain(&error);
                tracing::error!(error, "a step of the reload has failed");
                failures.push(error);
            }
        };
        if let Some(admin) = admin {
            let moved = admin.socket().map(|socket| self.admin_socket = socket);
            note(moved.map_err(|source| Error::Admin { address: self.config.admin, source }));
            self.admin = JoinSet::new();
            self.admin.spawn(admin_forever(admin));
        }
        if let Some(control) = control {
            self.control = JoinSet::new();
            self.control.spawn(control.serve(self.requests.clone()));
        }
        note(frontend.map_or(Ok(()), |change| self.front_door.change(change)).map_err(Error::from));
        for step in &steps {
            if let Step::StopRouter(instance) | Step::RestartRouter(instance) = step {
                self.front_door.remove_router(instance);
            }
            if let Step::ChangeRouter(instance) = step
                && let Some(router) = router(&self.config, instance)
            {
                self.front_door.change_router(router);
            }
        }
        for (instance, prepared) in routers {
            let started = self.front_door.start_router(instance, prepared, Beginning::Afresh);
            note(started.map_err(Error::from));
        }
        if failures.is_empty() {
            (ReloadResult::Applied, steps.iter().map(Step::to_string).collect())
        } else {
            (ReloadResult::Partial, failures)
        }
    }
}
