//! Tier 5: a real etcd and kube-apiserver. Needs root and `KUBEBUILDER_ASSETS`.

mod stub;
