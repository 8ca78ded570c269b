//! What the rules cover: paths, a part of a service, headers with identities, kinds of application.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use cloud_remote::auth::{AuthLayer, AuthRules, AuthenticatedUser, ClientCertificate};
use cloud_remote::{Application, HttpOptions, PathPrefix, StartError, UpstreamProtocol};
use http::{Request, StatusCode};
use testkit::pki::Authority;
use tokio::net::TcpListener;
use tower::Layer;

use super::{
    Device, PROTOCOLS, RIGHT, application, basic, certificates, lines_of, passwords, users,
};
use crate::support::{Cloud, NAME};

#[tokio::test]
async fn unguarded_part_is_open_and_ambiguous_path_is_refused() {
    let device = Device::forwarding(passwords("/admin"), UpstreamProtocol::Http1).await;
    for protocol in PROTOCOLS {
        for (path, status) in [
            ("/", 200),
            ("/administrator", 200),
            ("/my%20files", 200),
            ("/admin", 401),
            ("/Admin/users?x=1", 401),
            ("/%61dmin", 400),
            ("//admin", 400),
            ("/x/..%2fadmin", 400),
            ("/admin%2fusers", 400),
        ] {
            let answer = device.get(protocol, path, None).await;
            assert_eq!(answer.status(), status, "{path}");
        }
    }
    assert_eq!(device.reached(), 2 * 3);
}

#[tokio::test]
async fn identity_headers_of_callers_never_pass() {
    let authority = Authority::new("Clients");
    let (router, reached) = application();
    let rules = certificates("/admin", &authority)
        .passwords("/users".parse().unwrap(), users("alice", "secret"));
    let names = [
        "client-cert",
        "x-client-subject",
        "remote-user",
        "client_cert",
        "x_client_subject",
    ];
    // Not even if the operator lets them through for a proxy in front.
    let options = names.iter().fold(HttpOptions::new(), |options, name| {
        options.pass_header(name.parse().unwrap())
    });
    let cloud = Cloud::start().await;
    let builder = cloud.builder().application(Application::service(router));
    let remote = cloud
        .connected_device(builder.http(options).auth(rules))
        .await;
    let device = Device {
        cloud,
        remote,
        reached,
    };
    let identity = authority.client("alice");
    for protocol in PROTOCOLS {
        for (path, subjects, users) in [
            ("/", &[][..], &[][..]),
            ("/admin", &["CN=alice"], &[]),
            ("/users", &[], &["alice"]),
        ] {
            let mut caller = device.open(protocol, Some(&identity)).await.unwrap();
            let mut request =
                Request::get(format!("https://{NAME}{path}")).header("authorization", basic(RIGHT));
            for name in names {
                request = request.header(name, "forged");
            }
            let answer = caller.send(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert!(!answer.body().contains("forged"), "{}", answer.body());
            assert_eq!(lines_of(&answer, "x-client-subject"), subjects, "{path}");
            assert_eq!(lines_of(&answer, "remote-user"), users, "{path}");
        }
    }
}

#[tokio::test]
async fn application_that_cannot_be_guarded_is_never_reached() {
    let authority = Authority::new("Clients");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cloud = Cloud::start().await;
    let refused = [
        (Application::forward_tcp(address, None), passwords("/")),
        (
            Application::forward_tcp(address, None),
            certificates("/admin", &authority),
        ),
        (Application::passthrough(address), passwords("/")),
        (
            Application::passthrough(address),
            certificates("/", &authority),
        ),
    ];
    for (application, rules) in refused.clone() {
        let builder = cloud.builder().application(application).auth(rules);
        let platform = || Arc::clone(&cloud.platform);
        let error = builder
            .start(platform(), platform(), platform())
            .await
            .unwrap_err();
        assert!(matches!(error, StartError::Auth), "{error}");
    }
    // Nor if the rules come later.
    let remote = cloud.device(Application::forward(address)).await;
    for (application, rules) in refused {
        remote.set_auth(rules);
        remote.set_application(application).unwrap();
        let mut config = cloud.client_config(&[]);
        config.resumption = rustls::client::Resumption::disabled();
        assert!(cloud.open_with(config).await.is_err());
    }
    let connection = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(connection.is_err(), "a connection to the application");
}

#[tokio::test]
async fn layer_guards_a_part_of_a_service() {
    let authority = Authority::new("Clients");
    let layer = AuthLayer::new(passwords("/"));
    let admin = Router::new().route(
        "/admin",
        get(|user: axum::Extension<AuthenticatedUser>| async move { user.0.0.to_string() }),
    );
    let router =
        Router::new()
            .route("/", get(|| async { "public" }))
            .route(
                "/certificate",
                get(|shown: axum::Extension<ClientCertificate>| async move {
                    shown.0.0.len().to_string()
                }),
            )
            .merge(admin.layer(layer.clone()));
    let rules = certificates("/certificate", &authority);
    let application = Application::service(AuthLayer::new(AuthRules::new()).layer(router));
    let device = Device::start(application, rules, Arc::default()).await;
    let answer = device.get("h2", "/", None).await;
    assert_eq!(answer.body(), "public");
    let answer = device.get("h2", "/admin", None).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(
        answer.body().contains("asks for a user name"),
        "{}",
        answer.body()
    );
    let answer = device.get("h2", "/admin", Some(&basic(RIGHT))).await;
    assert_eq!(answer.body(), "alice");
    layer.set(AuthRules::new().passwords(PathPrefix::root(), users("bob", "secret")));
    let answer = device.get("h2", "/admin", Some(&basic(RIGHT))).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let identity = authority.client("alice");
    let mut caller = device.open("h2", Some(&identity)).await.unwrap();
    let answer = caller.get("/certificate", None).await.unwrap();
    assert_eq!(answer.body(), &identity.chain()[0].len().to_string());
}
