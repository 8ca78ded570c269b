//! Topics, actions and shadows that the host uses while the device runs.

use std::time::Duration;

use cloud_facade::iot::{Message, MessageProperties, Subscription};
use cloud_facade::{NotRunning, ReceiveError};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::platform::{SERIAL, TestPlatform};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn topics_actions_and_shadows_open_at_run_time() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let cloud = platform.device(|builder| builder).await?;
    let everything = || Subscription::new(format!("c/d/{SERIAL}/#"));
    let stopped = cloud.subscribe(everything()?).unwrap_err();
    assert!(matches!(stopped, ReceiveError::NotRunning(NotRunning)));
    cloud.initialize().await?;

    let mut topic = cloud.subscribe(everything()?)?;
    timeout(LIMIT, topic.subscription.granted()).await??;
    // Its messages contain secrets.
    let token = "remotetoken".parse()?;
    let secret = cloud.action_messages(&token).unwrap_err();
    assert!(matches!(secret, ReceiveError::SecretAction(_)));
    for name in ["remotetoken/req", "note"] {
        let message = Message::new(format!("c/d/{SERIAL}/{name}"), name)
            .with_properties(MessageProperties::new().user_property("unit", "K"));
        drop(cloud.publish(message)?);
    }
    let note = async {
        loop {
            let message = topic.messages.recv().await.unwrap().unwrap();
            assert!(!message.topic.contains("remote"), "{}", message.topic);
            if message.topic.ends_with("/note") {
                return message;
            }
        }
    };
    let note = timeout(LIMIT, note).await?;
    assert_eq!(
        note.properties.unwrap().user_properties,
        [("unit".to_owned(), "K".to_owned())]
    );

    let mut light = cloud.open_shadow("light").await?;
    timeout(LIMIT, light.granted()).await??;
    let state: Value = json!({ "on": true });
    let version = light.client().update_reported(state.clone()).await?;
    let document = light.client().get().await?;
    assert_eq!(
        (document.version, json!(document.reported)),
        (version, state)
    );
    cloud.stop().await;
    platform.simulator.stop().await;
    Ok(())
}
