//! The resources the stub serves.

/// A kind of object, with where the API has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// core/v1 Service.
    Services,
    /// core/v1 Endpoints.
    Endpoints,
    /// discovery.k8s.io/v1 `EndpointSlice`.
    EndpointSlices,
    /// core/v1 Node.
    Nodes,
    /// networking.k8s.io/v1 `ServiceCIDR`.
    ServiceCidrs,
    /// events.k8s.io/v1 Event.
    Events,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Services,
        Self::Endpoints,
        Self::EndpointSlices,
        Self::Nodes,
        Self::ServiceCidrs,
        Self::Events,
    ];

    /// The name in paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::ServiceCidrs => "servicecidrs",
            Self::Events => "events",
        }
    }

    /// The name in objects.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlices => "EndpointSlice",
            Self::Nodes => "Node",
            Self::ServiceCidrs => "ServiceCIDR",
            Self::Events => "Event",
        }
    }

    /// `apiVersion` of its objects.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Services | Self::Endpoints | Self::Nodes => "v1",
            Self::EndpointSlices => "discovery.k8s.io/v1",
            Self::ServiceCidrs => "networking.k8s.io/v1",
            Self::Events => "events.k8s.io/v1",
        }
    }

    /// The path below which it is served.
    pub const fn root(self) -> &'static str {
        match self {
            Self::Services | Self::Endpoints | Self::Nodes => "/api/v1",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1",
            Self::ServiceCidrs => "/apis/networking.k8s.io/v1",
            Self::Events => "/apis/events.k8s.io/v1",
        }
    }

    /// Whether its objects live in namespaces.
    pub const fn is_namespaced(self) -> bool {
        match self {
            Self::Services | Self::Endpoints | Self::EndpointSlices | Self::Events => true,
            Self::Nodes | Self::ServiceCidrs => false,
        }
    }

    /// The resource of an object, by its `apiVersion` and `kind`.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|resource| (resource.api_version(), resource.kind()) == (api_version, kind))
    }

    /// The path of its objects of one namespace, or of all.
    pub fn collection(self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.is_namespaced() => {
                format!("{}/namespaces/{namespace}/{}", self.root(), self.plural())
            }
            Some(_) | None => format!("{}/{}", self.root(), self.plural()),
        }
    }

    /// The path of one object.
    pub fn object(self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(Some(namespace)))
    }
}
