// SPDX-License-Identifier: Apache-2.0
//! The metrics over HTTP/1.1: on a unix socket that root alone may use, or on a port of
//! this machine's loopback address. Off by default.

use std::{convert::Infallible, fs, io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};

use super::Metrics;

/// Of the text format that `prometheus-client` writes.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Clients at a time: anybody on the machine may ask, nobody may take the agent's descriptors.
const CLIENTS: usize = 8;
/// How long to wait after the system had no descriptor left.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(100);
/// How long a client may take to ask.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Listen {
    /// Nowhere.
    #[default]
    Off,
    /// On a port of a loopback address.
    Tcp(SocketAddr),
    /// On a unix socket.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Some(path) = text
            .strip_prefix("unix:")
            .filter(|path| path.starts_with('/'))
        {
            return Ok(Self::Unix(path.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Tcp(address)),
            Ok(_) => Err(format!(
                "{text} is not an address of this machine's own: metrics are served on 127.0.0.1 or [::1] only"
            )),
            Err(_) => Err(format!(
                "{text} is none of \"off\", \"unix:/path\", \"127.0.0.1:port\", \"[::1]:port\""
            )),
        }
    }
}

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The socket.
    #[error("cannot serve metrics on {at}: {source}")]
    Listen {
        /// As configured.
        at: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Begins to serve, in the background.
///
/// # Errors
/// The address or path cannot be listened on.
pub async fn serve(listen: &Listen, metrics: &Arc<Metrics>) -> Result<(), MetricsError> {
    let failed = |at: String| move |source| MetricsError::Listen { at, source };
    let metrics = Arc::clone(metrics);
    let room = Arc::new(Semaphore::new(CLIENTS));
    match listen {
        Listen::Off => {}
        Listen::Tcp(address) => {
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(failed(address.to_string()))?;
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => answer_later(stream, &metrics, &room).await,
                        // Out of descriptors: not for ever.
                        Err(_) => tokio::time::sleep(AGAIN).await,
                    }
                }
            });
        }
        Listen::Unix(path) => {
            let listener = bind_unix(path).map_err(failed(path.display().to_string()))?;
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => answer_later(stream, &metrics, &room).await,
                        // Out of descriptors: not for ever.
                        Err(_) => tokio::time::sleep(AGAIN).await,
                    }
                }
            });
        }
    }
    Ok(())
}

/// A socket for root; one that an agent before has left is replaced.
fn bind_unix(path: &PathBuf) -> io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers once there is room for one more client.
async fn answer_later(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    metrics: &Arc<Metrics>,
    room: &Arc<Semaphore>,
) {
    let metrics = Arc::clone(metrics);
    // It is never closed.
    if let Ok(place) = Arc::clone(room).acquire_owned().await {
        tokio::spawn(async move {
            answer(stream, metrics).await;
            drop(place);
        });
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, metrics: Arc<Metrics>) {
    let service = service_fn(|request| {
        let response = respond(&request, &metrics);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    // A client that talks nonsense or goes away has itself to blame.
    let _ = connection.await;
}

fn respond(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics.text()),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "metrics are at /metrics\n".into()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    if status == StatusCode::OK {
        let format = hyper::header::HeaderValue::from_static(FORMAT);
        response.headers_mut().insert(CONTENT_TYPE, format);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_stay_on_this_machine() {
        assert_eq!("off".parse(), Ok(Listen::Off));
        assert_eq!("unix:/run/x".parse(), Ok(Listen::Unix("/run/x".into())));
        assert!(matches!("127.0.0.1:9464".parse(), Ok(Listen::Tcp(_))));
        assert!(matches!("[::1]:9464".parse(), Ok(Listen::Tcp(_))));
        for wrong in [
            "0.0.0.0:9464",
            "10.0.0.1:1",
            "9464",
            "unix:run",
            "localhost:1",
            "",
        ] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn what_was_counted_is_served_on_a_socket() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let metrics = Arc::new(Metrics::default());
        metrics.lost(cima_abi::Loss::MapRingFull, 3);
        metrics.group(5);
        serve(&Listen::Unix(path.clone()), &metrics).await.unwrap();
        let ask = async |what: &str| {
            let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
            let text = format!("GET {what} HTTP/1.1\r\nHost: cima\r\nConnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = ask("/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer.contains("cima_losses_total{kind=\"map-ring-full\"} 3"),
            "{answer}"
        );
        assert!(answer.contains("cima_batch_events_sum 5"), "{answer}");
        assert!(ask("/").await.starts_with("HTTP/1.1 404"));
    }
}
