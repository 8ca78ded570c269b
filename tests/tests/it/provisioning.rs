//! The device against everything that the simulated platform can answer wrongly: the error has its
//! type, nothing is stored, what was stored before survives, and the same key works afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cloud_facade::config::{SerialNumber, Store};
use cloud_facade::provision::{Client, MalformedResponse, ProvisionError, ProvisioningKey, Retry};
use cloud_facade::{OnExisting, Registered, RegistrationError, register};
use cloud_sim::{ApiAnswer, Fault, Service, SimConfig, Simulator};
use testkit::wait::timeout;

const SERIAL: &str = "SN-0001";

/// A device that is not registered yet, and its platform.
struct TestDevice {
    simulator: Simulator,
    base: tempfile::TempDir,
}

impl TestDevice {
    async fn new() -> anyhow::Result<Self> {
        let (simulator, base) = (
            Simulator::start(SimConfig::default()).await?,
            tempfile::tempdir()?,
        );
        Ok(Self { simulator, base })
    }

    fn key(&self) -> ProvisioningKey {
        ProvisioningKey::new(self.simulator.provisioning_key()).unwrap()
    }

    async fn register_with(
        &self,
        key: &ProvisioningKey,
        existing: OnExisting,
    ) -> Result<Registered, RegistrationError> {
        let mut retry = Retry::default();
        retry.attempts = 3;
        retry.first_delay = Duration::from_millis(5);
        let limit = Duration::from_secs(20);
        let client = Client::builder(&self.simulator.api_url())
            .retry(retry)
            .attempt_timeout(limit)
            .build()?;
        let serial: SerialNumber = SERIAL.parse().unwrap();
        timeout(
            "the registration",
            register(
                &Store::new(self.base.path()),
                &client,
                &serial,
                key,
                existing,
            ),
        )
        .await
    }

    async fn register(&self, existing: OnExisting) -> Result<Registered, RegistrationError> {
        self.register_with(&self.key(), existing).await
    }

    async fn answer(&self, answer: ApiAnswer, times: u32) {
        self.simulator
            .control()
            .fault(Fault::Api { answer, times })
            .await
            .unwrap();
    }

    /// How a registration fails that is answered so.
    async fn failure(&self, answer: ApiAnswer, existing: OnExisting) -> ProvisionError {
        self.answer(answer, 0).await;
        let result = self.register(existing).await;
        self.simulator.control().fault(Fault::Clear).await.unwrap();
        let error = match result {
            Err(RegistrationError::Provision(error)) => error,
            otherwise => panic!("{otherwise:?}"),
        };
        let message = format!("{error} {error:?}");
        assert!(
            !message.contains("PRIVATE KEY")
                && !message.contains(self.simulator.provisioning_key()),
            "{message}"
        );
        error
    }

    /// All files of the device, by name.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let directory = self.base.path().join(".clesydecloud");
        let Ok(entries) = std::fs::read_dir(&directory) else {
            return BTreeMap::new();
        };
        let file = |path: &Path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(path).unwrap(),
            )
        };
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| file(&path))
            .collect()
    }
}

/// Whether an error is what an answer ought to lead to.
type Fits = fn(&ProvisionError) -> bool;

/// Each wrong answer and its error.
fn wrong_answers() -> Vec<(ApiAnswer, Fits)> {
    use ProvisionError as E;
    let status = |code, retry_after| ApiAnswer::Status { code, retry_after };
    vec![
        (status(401, None), |e| {
            matches!(e, E::Unauthorized { status: 401, .. })
        }),
        (status(404, None), |e| {
            matches!(e, E::Status { status: 404, .. })
        }),
        (
            status(429, Some(3600)),
            |e| matches!(e, E::RateLimited { retry_after: Some(wait), .. } if wait.as_secs() == 3600),
        ),
        (status(500, None), |e| {
            matches!(e, E::Server { status: 500, .. })
        }),
        (ApiAnswer::Html, |e| {
            matches!(
                e,
                E::Malformed {
                    what: MalformedResponse::Html,
                    ..
                }
            )
        }),
        (ApiAnswer::BrokenJson, |e| {
            matches!(
                e,
                E::Malformed {
                    what: MalformedResponse::NotJson { .. },
                    ..
                }
            )
        }),
        (ApiAnswer::CutJson, |e| {
            matches!(
                e,
                E::Malformed {
                    what: MalformedResponse::CutOff,
                    ..
                }
            )
        }),
        (ApiAnswer::CutBody, |e| matches!(e, E::Interrupted { .. })),
        (ApiAnswer::Huge { bytes: 50_000_000 }, |e| {
            matches!(e, E::TooLarge { .. })
        }),
        (
            ApiAnswer::Error {
                message: "unknown\u{1b}[31m serial".to_owned(),
            },
            |e| matches!(e, E::Refused { status: 200, message, .. } if message.as_str() == r"unknown\u{1b}[31m serial"),
        ),
        (
            ApiAnswer::MismatchedKey {
                service: Service::Iot,
            },
            |e| matches!(e, E::KeyMismatch { field, .. } if field.ends_with("iot.keyPair.privateKey")),
        ),
        (
            ApiAnswer::MismatchedKey {
                service: Service::Remote,
            },
            |e| matches!(e, E::KeyMismatch { field, .. } if field.ends_with("remote.pkey")),
        ),
    ]
}

#[tokio::test]
async fn invalid_response_stores_nothing_and_keeps_key_valid() -> anyhow::Result<()> {
    let pair = TestDevice::new().await?;
    for (answer, fits) in wrong_answers() {
        let error = pair.failure(answer.clone(), OnExisting::Keep).await;
        assert!(fits(&error), "{answer:?}: {error:?}");
        assert!(
            !Store::new(pair.base.path()).is_provisioned()?,
            "{answer:?}"
        );
        assert!(
            pair.files()
                .keys()
                .all(|name| !name.contains("pem") && !name.contains("json")),
            "{:?}",
            pair.files()
        );
    }
    assert!(matches!(
        pair.register(OnExisting::Keep).await?,
        Registered::New { .. }
    ));
    assert_eq!(
        Store::new(pair.base.path())
            .load()?
            .device
            .iot_thing_name
            .as_str(),
        SERIAL
    );
    pair.simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn missing_response_keys_are_named() -> anyhow::Result<()> {
    let pair = TestDevice::new().await?;
    for key in [
        "iot",
        "iot.endpoint",
        "iot.thing_name",
        "iot.certificates",
        "iot.certificates.device_certificate",
        "iot.certificates.root_ca",
        "iot.keyPair",
        "iot.keyPair.privateKey",
        "remote",
        "remote.endpoint",
        "remote.access_point",
        "remote.cert",
        "remote.pkey",
    ] {
        match pair
            .failure(
                ApiAnswer::MissingKey {
                    key: key.to_owned(),
                },
                OnExisting::Keep,
            )
            .await
        {
            ProvisionError::Malformed {
                what: MalformedResponse::Missing(named),
                ..
            } => {
                assert!(named.contains(key), "{named} is not {key}");
            }
            error => panic!("{key}: {error:?}"),
        }
    }
    pair.simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn configuration_survives_failed_replacements() -> anyhow::Result<()> {
    let pair = TestDevice::new().await?;
    pair.register(OnExisting::Keep).await?;
    let before = pair.files();
    assert!(before.len() >= 6, "{:?}", before.keys());

    let wrong = ProvisioningKey::new("wrong")?;
    let refused = pair.register_with(&wrong, OnExisting::Replace).await;
    assert!(
        matches!(
            refused,
            Err(RegistrationError::Provision(ProvisionError::Refused {
                status: 401,
                ..
            }))
        ),
        "{refused:?}"
    );
    let used_up = pair.register(OnExisting::Replace).await;
    assert!(
        matches!(
            used_up,
            Err(RegistrationError::Provision(ProvisionError::Refused {
                status: 409,
                ..
            }))
        ),
        "{used_up:?}"
    );
    assert_eq!(pair.files(), before);

    // The platform forgets the device, so that it would register it again.
    pair.simulator.control().forget(SERIAL).await?;
    for (answer, fits) in wrong_answers() {
        let error = pair.failure(answer.clone(), OnExisting::Replace).await;
        assert!(fits(&error), "{answer:?}: {error:?}");
        assert_eq!(pair.files(), before, "{answer:?}");
    }
    assert_eq!(
        pair.register(OnExisting::Keep).await?,
        Registered::AlreadyProvisioned
    );
    assert_eq!(pair.files(), before);

    assert!(matches!(
        pair.register(OnExisting::Replace).await?,
        Registered::New { .. }
    ));
    assert!(
        ["iot_key.pem", "remote_key.pem"]
            .iter()
            .all(|name| pair.files()[*name] != before[*name])
    );
    Store::new(pair.base.path()).load()?;
    pair.simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn registration_waits_for_slow_or_recovering_platform() -> anyhow::Result<()> {
    let pair = TestDevice::new().await?;
    pair.answer(
        ApiAnswer::Status {
            code: 500,
            retry_after: None,
        },
        1,
    )
    .await;
    pair.answer(
        ApiAnswer::Status {
            code: 503,
            retry_after: Some(0),
        },
        1,
    )
    .await;
    pair.answer(ApiAnswer::Delay { ms: 300 }, 1).await;
    assert!(matches!(
        pair.register(OnExisting::Keep).await?,
        Registered::New { .. }
    ));
    assert_eq!(pair.simulator.control().devices().await.len(), 1);
    pair.simulator.stop().await;
    Ok(())
}
