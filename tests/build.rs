//! Tells the cluster tests whether there is a real apiserver. Where there is none they are reported as ignored, with the
//! reason: they would otherwise have to fail, though nobody must have one, or to pass without having tested anything.

fn main() {
    println!("cargo::rerun-if-env-changed=KUBEBUILDER_ASSETS");
    println!("cargo::rustc-check-cfg=cfg(real_apiserver)");
    if std::env::var_os("KUBEBUILDER_ASSETS").is_some() {
        println!("cargo::rustc-cfg=real_apiserver");
    }
}
