//! `cargo xtask bench messaging [--rounds N] [--only MEASURE,…] [--before PROGRAM]`: the MQTT
//! session compared with rumqttc and Python's aiomqtt.

use anyhow::{Context, Result};

use crate::process::{cargo, find_program, run as run_command};
use crate::python;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mosquitto = find_program("mosquitto")
        .context("mosquitto is not installed (Debian: apt-get install mosquitto; it need not run as a service)")?;
    let mut command = cargo();
    command.args(["bench", "-p", "cloud-iot", "--features", "durable"]);
    command.args(["--bench", "messaging", "--"]);
    command.arg("--mosquitto").arg(mosquitto);
    match python::aiomqtt() {
        Ok(interpreter) => {
            command.arg("--python").arg(interpreter);
        }
        Err(error) => eprintln!("aiomqtt cannot be had: {error:#}"),
    }
    run_command(command.args(arguments))
}
