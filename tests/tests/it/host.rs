//! The facade's example of a host application, run as it stands.

use cloud_facade::ClesydeCloud;
use cloud_sim::{SimConfig, Simulator};
use integration_tests::public::fetch;
use testkit::wait::{eventually, timeout};
use tokio::sync::oneshot;

#[allow(dead_code, unreachable_pub)]
#[path = "../../../crates/cloud-facade/examples/host.rs"]
mod example;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn example_registers_and_serves() -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let base = tempfile::tempdir()?;
    let settings = ClesydeCloud::builder("SN-HOST".parse()?, base.path(), simulator.api_url());
    let key = Some(simulator.provisioning_key().to_owned());
    let (stop, stopped) = oneshot::channel::<()>();
    let visit = async {
        let control = simulator.control();
        let host = eventually("the device to be registered", || async {
            control
                .device("SN-HOST")
                .await
                .ok()
                .map(|seen| seen.access_point)
        })
        .await;
        let page = eventually("its page to be reachable", || async {
            fetch(simulator.relay_addr(), &host, simulator.ca_pem(), "")
                .await
                .ok()
        })
        .await;
        drop(stop);
        page
    };
    let (hosted, page) = timeout("the example", async {
        tokio::join!(example::host(settings, key, stopped), visit)
    })
    .await;
    assert!(hosted.is_ok(), "{:?}", hosted.err());
    assert_eq!(page, "Hello, Some(127.0.0.1)! This is SN-HOST.\n");
    simulator.stop().await;
    Ok(())
}
