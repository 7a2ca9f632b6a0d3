//! Tells tests whether there is a real apiserver, and a real kube-proxy. Those that want one that there is not are
//! reported as ignored, with the reason: they would otherwise have to fail, though nobody must have one, or to pass
//! without having tested anything.

fn main() {
    for (variable, name) in
        [("KUBEBUILDER_ASSETS", "real_apiserver"), ("FAIRWAY_KUBE_PROXY", "real_kube_proxy")]
    {
        println!("cargo::rerun-if-env-changed={variable}");
        println!("cargo::rustc-check-cfg=cfg({name})");
        if std::env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
