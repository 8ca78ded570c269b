//! rumqttc's own client and event loop, used as its documentation shows.

use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use tokio::sync::mpsc;

use crate::broker::tls;
use crate::{IDLE_INTERVALS, IN_FLIGHT, KEEP_ALIVE, PAYLOAD, Task, quantiles, usage};

pub(crate) async fn run(task: &Task) {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let mut options = MqttOptions::new("rumqttc", "localhost", task.port);
    options
        .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls(
            &task.directory,
        ))))
        .set_keep_alive(KEEP_ALIVE)
        .set_network_options(network)
        .set_outgoing_inflight_upper_limit(IN_FLIGHT);
    let (client, mut events) = AsyncClient::new(options, usize::from(IN_FLIGHT));
    wait_for(&mut events, |packet| matches!(packet, Packet::ConnAck(_))).await;
    match task.measure.as_str() {
        "publish" | "durable" => publish(client, events, task.count).await,
        "latency" | "durable_latency" => latency(client, events, task.count).await,
        measure @ ("deliver" | "topics") => {
            let filter = if measure == "topics" {
                "bench/#"
            } else {
                "bench"
            };
            client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
            wait_for(&mut events, |packet| matches!(packet, Packet::SubAck(_))).await;
            println!("ready");
            deliver(events, task.count).await;
        }
        _ => {
            tokio::spawn(async move { while events.poll().await.is_ok() {} });
            tokio::time::sleep(KEEP_ALIVE).await;
            let before = usage::wake_ups();
            tokio::time::sleep(KEEP_ALIVE * IDLE_INTERVALS).await;
            let woken = usage::wake_ups() - before;
            println!(
                "{} {}",
                woken as f64 / f64::from(IDLE_INTERVALS),
                usage::resident()
            );
        }
    }
}

async fn wait_for(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) {
    loop {
        if let Event::Incoming(packet) = events.poll().await.unwrap()
            && wanted(&packet)
        {
            return;
        }
    }
}

async fn publish(client: AsyncClient, mut events: EventLoop, count: u32) {
    let started = Instant::now();
    let publishing = tokio::spawn(async move {
        for _ in 0..count {
            let payload = vec![7; PAYLOAD];
            let publish = client.publish("bench", QoS::AtLeastOnce, false, payload);
            publish.await.unwrap();
        }
        client
    });
    for _ in 0..count {
        wait_for(&mut events, |packet| matches!(packet, Packet::PubAck(_))).await;
    }
    println!("{}", f64::from(count) / started.elapsed().as_secs_f64());
    publishing.await.unwrap();
}

async fn latency(client: AsyncClient, mut events: EventLoop, count: u32) {
    let (sender, mut acknowledged) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            wait_for(&mut events, |packet| matches!(packet, Packet::PubAck(_))).await;
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    let mut waits: Vec<Duration> = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        let payload = vec![7; PAYLOAD];
        let publish = client.publish("bench", QoS::AtLeastOnce, false, payload);
        publish.await.unwrap();
        acknowledged.recv().await.unwrap();
        waits.push(started.elapsed());
    }
    println!("{}", quantiles(waits));
}

/// Passes messages to a handler in its own task, as programs do that must not block the event loop.
async fn deliver(mut events: EventLoop, count: u32) {
    let (sender, mut messages) = mpsc::channel(1000);
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(publish)) = event
                && sender.send(publish).await.is_err()
            {
                return;
            }
        }
    });
    messages.recv().await.unwrap();
    let started = Instant::now();
    for _ in 1..count {
        messages.recv().await.unwrap();
    }
    println!("{}", f64::from(count) / started.elapsed().as_secs_f64());
}
