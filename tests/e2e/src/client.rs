//! A client of a cluster's API, for operations for which kubectl is too slow.

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use testbed::Cluster;
use tokio::runtime::Runtime;

/// A client as the cluster's administrator, with the runtime that drives it.
pub(crate) fn connect(cluster: &Cluster) -> (Runtime, Client) {
    // Fails if an earlier call in this process has set it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let client = runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Client::try_from(config).unwrap()
    });
    (runtime, client)
}
