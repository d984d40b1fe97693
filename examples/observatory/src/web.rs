//! The pages: plain HTTP/1, one connection a task.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use leasehold::{Governor, Names, Report, ReportOptions};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::echo::OUT_OF_DESCRIPTORS;
use crate::exporter::Exporter;

const PAGE: &str = include_str!("page.html");

/// The page has its style and its script inside, and asks only this server.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const SCRAPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the pages are made of.
pub(crate) struct Site {
    pub(crate) governor: Governor,
    pub(crate) exporter: Exporter,
}

/// Not governed itself: an operator has to see a server that is full.
pub(crate) async fn serve(listener: TcpListener, site: Arc<Site>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            sleep(OUT_OF_DESCRIPTORS).await;
            continue;
        };
        let site = site.clone();
        let service = service_fn(move |request| {
            let response = site.respond(&request);
            async { Ok::<_, Infallible>(response) }
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
        // A client that breaks off is no event.
        tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
    }
}

impl Site {
    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET is all there is\n");
        }
        let query = request.uri().query();
        match request.uri().path() {
            "/" => page(StatusCode::OK, HTML, PAGE),
            "/metrics" => page(StatusCode::OK, SCRAPE, self.exporter.render(&self.governor)),
            "/report" => page(StatusCode::OK, TEXT, self.report(query).to_string()),
            "/report.json" => {
                let json = serde_json::to_vec(&self.report(query)).expect("a report is plain data");
                page(StatusCode::OK, JSON, json)
            }
            _ => page(StatusCode::NOT_FOUND, TEXT, "/, /metrics, /report and /report.json\n"),
        }
    }

    /// `?names=hashed` and `?names=left-out` are for reports that leave the machine.
    fn report(&self, query: Option<&str>) -> Report {
        let names = match query {
            Some("names=hashed") => Names::Hashed,
            Some("names=left-out") => Names::LeftOut,
            _ => Names::Shown,
        };
        self.governor.report(&ReportOptions::default().names(names))
    }
}

fn page(
    status: StatusCode,
    content: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = [
        (CONTENT_TYPE, content),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
