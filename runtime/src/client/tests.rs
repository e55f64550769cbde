use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::header::AUTHORIZATION;
use axum::http::{Request, Response};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::client::Body;

use super::limits::{THROUGH_PROXY, WatchLimits, with_limits};
use super::*;

/// A token file, which is removed on drop.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, token: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("lbstack-token-{name}-{}", std::process::id())));
        file.write(token);
        file
    }

    fn write(&self, token: &str) {
        std::fs::write(&self.0, token).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn requirement_7_a_token_is_reread_every_minute_by_the_monotonic_clock() {
    let file = File::new("minute", "old");
    let token = TokenFile::open(file.0.clone()).unwrap();
    file.write("new");
    assert_eq!(token.header(), "Bearer old");
    // The wall clock stands still here.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(token.header(), "Bearer new");
    drop(file);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(token.header(), "Bearer new", "without the file the previous token is used");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_reread_at_once() {
    let file = File::new("refused", "old");
    let token = TokenFile::open(file.0.clone()).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let answer = move |request: Request<Body>| {
        count.fetch_add(1, Ordering::Relaxed);
        let code = if request.headers()[AUTHORIZATION] == "Bearer new" { 200 } else { 401 };
        let body = Body::from(br#"{"metadata": {"name": "ns"}}"#.to_vec());
        std::future::ready(Response::builder().status(code).body(body))
    };
    let client =
        with_limits(Client::new(tower::service_fn(answer), "ns"), Some(token), "ns".to_owned(), None);
    let namespaces = Api::<Namespace>::all(client);
    assert!(namespaces.get("ns").await.is_err());
    assert_eq!(calls.load(Ordering::Relaxed), 1, "the same token is not sent again");
    file.write("new");
    assert!(namespaces.get("ns").await.is_ok());
    assert!(namespaces.get("ns").await.is_ok());
    assert_eq!(calls.load(Ordering::Relaxed), 4, "the new one is cached");
}

#[tokio::test(start_paused = true)]
async fn every_list_and_every_read_has_a_timeout() {
    let hangs = |_: Request<Body>| std::future::pending::<Result<Response<Body>, kube::Error>>();
    let client = with_limits(Client::new(tower::service_fn(hangs), "ns"), None, "ns".to_owned(), None);
    let namespaces = Api::<Namespace>::all(client);
    let minute = Duration::from_secs(60);
    let read = tokio::time::timeout(minute, namespaces.get("ns")).await.unwrap();
    assert!(read.unwrap_err().to_string().contains("did not answer within 8 s"));
    let list = tokio::time::timeout(minute, namespaces.list(&kube::api::ListParams::default())).await;
    assert!(list.unwrap().is_err());
    let watch = tokio::time::timeout(minute, namespaces.watch(&kube::api::WatchParams::default(), "1")).await;
    assert!(watch.unwrap().is_err());
}

fn config(proxy: &str) -> Config {
    let mut config = Config::new("https://10.0.0.1:6443".parse().unwrap());
    config.proxy_url = Some(proxy.parse().unwrap());
    config
}

#[test]
fn requirement_8_a_proxy_of_the_environment_is_used_unless_no_proxy_covers_the_api_server() {
    let proxy = "http://user:pa55word@proxy.example:3128";
    let proxy_after = |https_proxy: &str, no_proxy: &str| {
        let mut config = config(proxy);
        apply_proxy_rules(&mut config, https_proxy, no_proxy).unwrap();
        config.proxy_url.map(|proxy| proxy.to_string())
    };
    assert_eq!(proxy_after(proxy, ""), Some(format!("{proxy}/")));
    assert_eq!(proxy_after(proxy, "proxy.example"), Some(format!("{proxy}/")));
    assert_eq!(proxy_after(proxy, "localhost, 10.0.0.0/8"), None);
    assert_eq!(proxy_after(proxy, "*"), None);
    assert_eq!(proxy_after("", "10.0.0.0/8"), Some(format!("{proxy}/")), "the proxy is from the kubeconfig");
}

#[tokio::test]
async fn requirement_6_a_client_with_a_proxy_is_made_and_no_error_has_its_password() {
    // `main` does this in production.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for proxy in
        ["http://user:pa55word@127.0.0.1:1", "https://user:pa55word@127.0.0.1:1", "user:pa55word@127.0.0.1:1"]
    {
        let mut config = config(proxy);
        apply_proxy_rules(&mut config, "", "").unwrap();
        let client = build(config).unwrap();
        let error = Api::<Namespace>::all(client).get("ns").await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("pa55word"), "{error:?}");
    }
    for proxy in ["socks5://user:pa55word@proxy.example:1080", "ftp://user:pa55word@proxy.example"] {
        let error = apply_proxy_rules(&mut config(proxy), "", "").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("pa55word"), "{error:?}");
    }
}

/// A proxy that sends the response headers of a watch and nothing after that, and keeps the connection open.
async fn silent_proxy() -> (String, tokio::task::JoinHandle<(String, tokio::net::TcpStream)>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serve = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        loop {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            if request.starts_with("CONNECT") {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                continue;
            }
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            return (request, stream);
        }
    };
    (address, tokio::spawn(serve))
}

#[tokio::test]
async fn requirement_7_a_watch_through_a_proxy_that_sends_nothing_ends() {
    use futures::TryStreamExt as _;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (proxy, served) = silent_proxy().await;
    let mut config = Config::new("http://10.0.0.1:6443".parse().unwrap());
    config.proxy_url = Some(proxy.parse().unwrap());
    let limits = WatchLimits { idle_timeout: Duration::from_millis(200), ..THROUGH_PROXY };
    let client = with_limits(Client::try_from(config).unwrap(), None, "ns".to_owned(), Some(limits));
    let watch = Api::<Namespace>::all(client).watch(&kube::api::WatchParams::default(), "1").await.unwrap();
    let error = std::pin::pin!(watch).try_next().await.unwrap_err();
    assert!(format!("{error:?}").contains("IdleWatch"), "{error:?}");
    let (request, _still_open) = served.await.unwrap();
    assert!(request.contains("timeoutSeconds=5") && !request.contains("timeoutSeconds=290"), "{request}");
}
