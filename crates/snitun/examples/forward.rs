//! A SniTun client that forwards every channel to a TCP address.
//!
//! ```text
//! forward --server HOST:PORT --token-file FILE --key HEX --iv HEX --to HOST:PORT
//!         [--protocol-version 0|1|2] [--cipher aes-cbc|aes-gcm|aes-gcm-siv] [--throttling MESSAGES_PER_SECOND]
//! ```
//!
//! The token file holds a token, or the JSON that the `relay` example issues (which makes `--key`, `--iv`,
//! `--protocol-version` and `--cipher` unnecessary). One JSON line says when the tunnel is up; SIGTERM or Ctrl-C closes it.
//! Without arguments it shows itself off: a server, a device and a caller in one process.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use snitun::client::{self, ClientConfig};
use snitun::{Cipher, SessionKey};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long a forwarded connection may be idle.
const IDLE: Duration = Duration::from_secs(120);
/// Limit on connecting to either side.
const CONNECT: Duration = Duration::from_secs(30);

// One thread: handing over between threads costs more than a second one gains for a single tunnel.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    if arguments.is_empty() {
        return demo::run().await;
    }
    let get = |name: &str| arguments.get(name).map(String::as_str);
    let need =
        |name: &str| get(name).ok_or(format!("--{name} is missing; see the head of this example"));

    let file = std::fs::read_to_string(need("token-file")?)?;
    let issued: serde_json::Value = serde_json::from_str(&file).unwrap_or_default();
    let from_file = |name: &str| issued[name].as_str();
    let key = get("key")
        .or(from_file("aes_key"))
        .ok_or("--key is missing")?;
    let iv = get("iv").or(from_file("aes_iv")).ok_or("--iv is missing")?;
    let token = from_file("token").unwrap_or(file.trim());

    let cipher = match get("cipher").or(from_file("cipher")) {
        Some(cipher) => cipher.parse()?,
        None => Cipher::default(),
    };
    let key = SessionKey::from_hex(key, iv)?.with_cipher(cipher);
    let mut config = ClientConfig::new(token, key);
    if let Some(version) = get("protocol-version") {
        config.version = version.parse::<u8>()?.try_into()?;
    } else if let Some(version) = issued["protocol_version"].as_u64() {
        config.version = u8::try_from(version)?.try_into()?;
    }
    config.throttling = get("throttling").map(str::parse).transpose()?;

    let server = need("server")?;
    let to = need("to")?.to_owned();
    // From here on a signal ends us in an orderly way, while we connect as well.
    let stopped = stop_signal()?;
    tokio::pin!(stopped);
    let connecting = async {
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(server)).await??;
        snitun::prepare_tcp(&stream)?;
        Ok::<_, Box<dyn Error>>(client::connect(stream, config).await?)
    };
    let mut tunnel = tokio::select! {
        result = &mut stopped => return Ok(result?),
        connected = connecting => connected?,
    };
    let handle = tunnel.handle();
    println!(
        "{}",
        serde_json::json!({ "ready": true, "server": server, "to": to })
    );

    let mut channels = JoinSet::new();
    loop {
        tokio::select! {
            result = &mut stopped => { result?; break }
            Some(_) = channels.join_next() => {}
            channel = tunnel.accept() => match channel {
                Some(channel) => {
                    channels.spawn(forward(channel, to.clone()));
                }
                None => return Err(handle.closed().await.to_string().into()),
            },
        }
    }
    handle.close();
    handle.closed().await;
    channels.shutdown().await;
    Ok(())
}

async fn forward(channel: snitun::Channel, to: String) {
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(&to));
    let Ok(Ok(target)) = connecting.await else {
        eprintln!("cannot connect to {to}");
        return;
    };
    let _ = target.set_nodelay(true);
    // A connection that fails is the business of its two ends.
    let _ = snitun::relay(target, channel, IDLE).await;
}

/// `--name value` pairs.
fn arguments() -> Result<HashMap<String, String>, Box<dyn Error>> {
    let mut found = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let name = name.strip_prefix("--").ok_or(format!("what is {name}?"))?;
        let value = arguments.next().ok_or(format!("--{name} needs a value"))?;
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

/// SIGTERM or Ctrl-C, from the call on.
fn stop_signal() -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?
    };
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted,
        }
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await
    })
}

/// Everything in one process, on loopback.
mod demo {
    use std::error::Error;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use snitun::SessionKey;
    use snitun::client::{self, ClientConfig};
    use snitun::server::{FernetKeys, Server, ServerConfig, TokenContent};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    /// A ClientHello for the host `a.test`, as small as can be.
    const HELLO: &[u8] = &[
        0x16, 3, 1, 0, 62, 1, 0, 0, 58, 3, 3, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 2, 0x13, 1, 1, 0, 0, 15, 0, 0, 0, 11, 0, 9,
        0, 0, 6, b'a', b'.', b't', b'e', b's', b't',
    ];

    pub(super) async fn run() -> Result<(), Box<dyn Error>> {
        let fernet = FernetKeys::generate();
        let server = Server::new(fernet.clone(), ServerConfig::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            server.serve(listener, async { drop(stopped.await) }).await;
        });

        let key = SessionKey::generate()?;
        let valid = SystemTime::now() + Duration::from_secs(60);
        let valid = valid.duration_since(UNIX_EPOCH)?.as_secs();
        let content = TokenContent::new("a.test", key, valid);
        let config = ClientConfig::new(fernet.issue(&content)?, content.key.aes_cbc());
        let stream = TcpStream::connect(address).await?;
        let mut tunnel = client::connect(stream, config).await?;
        println!("tunnel up; ping took {:?}", tunnel.handle().ping().await?);

        let mut caller = TcpStream::connect(address).await?;
        caller.write_all(HELLO).await?;
        let mut channel = tunnel.accept().await.ok_or("the tunnel ended")?;
        println!("channel from {:?}", channel.peer_ip());
        let mut hello = vec![0; HELLO.len()];
        channel.read_exact(&mut hello).await?;
        channel.write_all(b"not really TLS").await?;
        channel.shutdown().await?;
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await?;
        println!(
            "the caller sent a ClientHello of {} bytes and got {answer:?}",
            hello.len()
        );
        drop((caller, channel, tunnel));
        let _ = stop.send(());
        Ok(serving.await?)
    }
}
