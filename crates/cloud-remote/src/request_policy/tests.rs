use http::Version;

use super::*;

const NAME: &str = "sn0001.ui.example.com";

fn applied(request: http::request::Builder) -> Result<Request<()>, Refusal> {
    let config = RemoteConfig::new("relay.example.com", 443, NAME);
    let policy = RequestPolicy::new(&config, HttpOptions::new()).unwrap();
    let mut request = request.body(()).unwrap();
    policy.apply(&mut request).map(|()| request)
}

#[test]
fn http2_request_gets_checked_host() {
    let request = Request::get(format!("https://{NAME}/")).version(Version::HTTP_2);
    let request = applied(request.header("content-length", "05")).unwrap();
    assert_eq!(request.headers()["host"], NAME);
    assert_eq!(request.headers()["content-length"], "5");
}

#[test]
fn connect_without_a_protocol_is_refused() {
    let connect = || Request::connect(format!("{NAME}:443")).header("host", NAME);
    assert_eq!(applied(connect()).unwrap_err(), Refusal::Connect);
    let websocket = Request::connect(format!("https://{NAME}/ws"))
        .version(Version::HTTP_2)
        .extension(hyper::ext::Protocol::from_static("websocket"));
    assert!(applied(websocket).is_ok());
}

#[test]
fn each_refusal_has_its_status() {
    let get = || Request::get("/");
    for (request, refusal, status) in [
        (get(), Refusal::MalformedHost, 400),
        (get().header("host", "localhost"), Refusal::OtherHost, 421),
        (
            get()
                .header("host", NAME)
                .header("content-length", "5")
                .header("content-length", "6"),
            Refusal::ContentLength,
            400,
        ),
    ] {
        let refused = applied(request).unwrap_err();
        assert_eq!(refused, refusal);
        assert_eq!(refused.response().status(), status);
    }
}
