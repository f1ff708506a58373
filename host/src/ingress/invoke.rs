//! The way of a request, in one place.

use super::bill::{Bill, write_headers};
use super::guest_log::GuestLog;
use super::refusal::{Refusal, full};
use super::request_body::RequestBody;
use super::respond::{Client, Invoked, respond};
use super::route::{self, Target};
use super::{Body, Ingress, Received, bill};
use crate::registry::Version;
use crate::telemetry::refusals::Reason;
use crate::tenancy::{self, Identity};
use bytes::Bytes;
use http::uri::Authority;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version as HttpVersion, header, request,
};
use http_body::Body as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vesta_core::{InvocationId, Outcome};
use vesta_engine::Invocation;
use vesta_engine::handler::OpenHandler;

/// What the guest is told beside the id of its invocation.
const DEADLINE_MS: HeaderName = HeaderName::from_static("vesta-deadline-ms");
const TENANT: HeaderName = HeaderName::from_static("vesta-tenant");
const FUNCTION: HeaderName = HeaderName::from_static("vesta-function");
const VERSION: HeaderName = HeaderName::from_static("vesta-version");

/// Answers one request of the data plane.
pub async fn invoke(ingress: Arc<Ingress>, request: Request<Received>) -> Response<Body> {
    let is_head = request.method() == Method::HEAD;
    let response = answer(ingress, request).await;
    if is_head { without_body(response) } else { response }
}

async fn answer(ingress: Arc<Ingress>, request: Request<Received>) -> Response<Body> {
    let arrived = Instant::now();
    let handler = OpenHandler::new();
    let id = ingress.new_id();
    let (parts, body) = request.into_parts();

    // One host name, which says whose page this is.
    if !has_one_host(&parts) {
        return refuse(Refusal::no_host(), id);
    }

    // Who calls, if anyone.
    let caller = match identify(&ingress, &parts.headers) {
        Ok(caller) => caller,
        Err(refusal) => return refuse(refusal, id),
    };

    // Which function, which version.
    let Some(target) = route::target(&parts.uri, host(&parts), &ingress.domain) else {
        return refuse(Refusal::no_route(), id);
    };
    let found = ingress.registry.resolve(&target.tenant, &target.function, target.selector.as_deref()).ok();

    // May they? What they may not know of reads as if it were not there; an anonymous caller is told to
    // identify itself whether it is there or not.
    let version = match (found, &caller) {
        (Some(version), _) if version.manifest.public => version,
        (Some(version), Some(caller)) if caller.may_act_for(&version.tenant) => version,
        (_, Some(_)) => return refuse(Refusal::not_found(), id),
        (_, None) => return refuse(Refusal::no_key(), id),
    };

    // Is there room, and can it be billed?
    let limits = version.manifest.limits;
    // A browser sends no key: private functions have no pages.
    let is_on_shared_name = target.by_path && version.manifest.public && ingress.path_sandbox;
    let refused = |refusal| of_function(refuse(refusal, id), &version);
    if !ingress.journal.is_healthy() {
        return refused(Refusal::unrecorded());
    }
    if declared_length(&parts.headers).is_some_and(|n| n > limits.request_body_bytes) {
        return refused(Refusal::body_too_large(limits.request_body_bytes));
    }
    let place = match ingress.shares.enter(&version.tenant) {
        Ok(place) => place,
        Err(e) => return refused(e.into()),
    };
    let admitted = match ingress.activator.admit(&version) {
        Ok(admitted) => admitted,
        Err(e) => return refused(e.into()),
    };

    // From here on something may run, so a bill is open: it is closed with the response, or by its drop.
    let mut bill = Bill::open(ingress.clone(), version.clone(), id, arrived, handler);

    // Warm, or a cold start that all waiting requests share.
    let asked = Instant::now();
    let loaded = match ingress.activator.activate(&admitted, &bill.meter).await {
        Ok(activation) => {
            let waited = if activation.waited { asked.elapsed().as_nanos() as u64 } else { 0 };
            bill.activated(waited, activation.cold);
            activation.loaded
        }
        Err(e) => {
            let outcome = if e.is_memory() { Outcome::HostMemory } else { Outcome::StartFailed };
            return of_function(fail(bill, outcome, Refusal::from(&e)).await, &version);
        }
    };

    // An instance, on its CPU clock and its deadline.
    let deadline = Instant::now() + Duration::from_millis(limits.wall_ms);
    let client = Client::of(&parts);
    let body = RequestBody { inner: body, bytes_max: limits.request_body_bytes, meter: bill.body.clone() };
    let mut request = guest_request(parts, body, &target, &version, id);
    if is_on_shared_name {
        // They are of all tenants' pages.
        request.headers_mut().remove(header::COOKIE);
    }
    let tenant = version.tenant.clone();
    let logs = Arc::new(GuestLog {
        store: ingress.logs.clone(),
        clock: ingress.clock.clone(),
        version: version.clone(),
        invocation: id,
    });
    let invocation = Invocation { tenant, meter: bill.meter.clone(), logs, deadline };
    bill.begin();
    let run = loaded.run(request, ingress.tls, invocation);

    // Its answer, its end, its record.
    let mut response = respond(Invoked { run, bill, held: admitted, limits }, client).await;
    if is_on_shared_name {
        keep_apart(response.headers_mut());
    }
    response.extensions_mut().insert(place);
    of_function(response, &version)
}

/// Names the function in the reason of an answer that has one, for the host's log.
fn of_function(mut response: Response<Body>, version: &Version) -> Response<Body> {
    if response.status().as_u16() >= 400 {
        let own = || Reason { code: Reason::FUNCTION.into(), function: None };
        let reason = response.extensions_mut().get_or_insert_with(own);
        reason.function = Some(format!("{}/{}", version.tenant, version.function));
    }
    response
}

/// The answer to a HEAD request: HTTP/2 sends what it is given.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(bytes) = response.body().size_hint().exact().filter(|bytes| *bytes > 0) {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(bytes));
    }
    response.map(|_| full(Bytes::new()))
}

/// What a browser keeps for an origin as a whole, or lets it do with it.
const OF_THE_ORIGIN: [&str; 6] =
    ["set-cookie", "clear-site-data", "nel", "report-to", "reporting-endpoints", "strict-transport-security"];

/// All tenants' pages have one origin where the path names the function. What a browser loads from there is a
/// page only where it says so, and has no origin of its own: neither cookies, nor storage, nor other pages.
fn keep_apart(headers: &mut HeaderMap) {
    let sandbox = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts";
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for name in OF_THE_ORIGIN {
        headers.remove(name);
    }
    // A policy of the function's own stays, and can only take more away.
    headers.append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(sandbox));
}

fn refuse(refusal: Refusal, id: InvocationId) -> Response<Body> {
    let mut response = refusal.into_response();
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        response.headers_mut().insert(bill::INVOCATION_ID, value);
    }
    response
}

/// Answers for a guest that gave no whole response, and records what it used.
pub async fn fail(mut bill: Bill, outcome: Outcome, refusal: Refusal) -> Response<Body> {
    bill.status = refusal.status.as_u16();
    // A start that took too long goes on beside; nothing of it is charged to the request that gave up.
    if bill.has_begun() && !bill.meter.is_settled() {
        // The guest was ended while its model ran: what that costs is known later than the client has its
        // answer.
        let id = bill.id;
        bill.close_later(outcome);
        return refuse(refusal, id);
    }
    let (record, ack) = bill.close(outcome);
    if !ack.await {
        return refuse(Refusal::unrecorded(), record.id);
    }
    let mut response = refusal.into_response();
    write_headers(&record, response.headers_mut());
    response
}

/// Only Vesta's own keys identify a caller here; any other Authorization header is the function's business.
fn identify(ingress: &Ingress, headers: &HeaderMap) -> Result<Option<Arc<Identity>>, Refusal> {
    let ours = headers.get_all(header::AUTHORIZATION).iter().find(|value| tenancy::is_our_key(value));
    ingress.tenancy.identify(ours).map_err(|e| Refusal::wrong_key(e.to_string()))
}

/// Whether a request names its host once, and as hosts are named (RFC 9112, section 3.2; RFC 9113, section
/// 8.3.1).
fn has_one_host(parts: &request::Parts) -> bool {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    if parts.uri.authority().is_some_and(|authority| !route::is_host(authority.as_str())) {
        return false;
    }
    match (hosts.next(), hosts.next()) {
        (None, _) => parts.version != HttpVersion::HTTP_11,
        (Some(_), Some(_)) => false,
        (Some(host), None) => {
            let named = host.to_str().ok().filter(|host| route::is_host(host));
            let authority = parts.uri.authority().filter(|_| parts.version == HttpVersion::HTTP_2);
            named.is_some_and(|host| authority.is_none_or(|a| a.as_str().eq_ignore_ascii_case(host)))
        }
    }
}

fn host(parts: &request::Parts) -> Option<&str> {
    parts.uri.authority().map(|a| a.as_str()).or_else(|| parts.headers.get(header::HOST)?.to_str().ok())
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The request as the guest sees it: its own path, without our key, with our headers.
fn guest_request(
    mut parts: request::Parts,
    body: RequestBody,
    target: &Target,
    version: &Version,
    id: InvocationId,
) -> Request<RequestBody> {
    // wasi:http wants an authority; a client of HTTP/1.0 may have sent none.
    let authority = host(&parts).and_then(|h| h.parse::<Authority>().ok());
    let authority = authority.unwrap_or_else(|| Authority::from_static("localhost"));
    let uri = http::Uri::builder().scheme("http").authority(authority).path_and_query(target.path.as_str());
    parts.uri = uri.build().unwrap_or_else(|_| http::Uri::from_static("http://localhost/"));
    if parts.headers.get_all(header::AUTHORIZATION).iter().any(tenancy::is_our_key) {
        parts.headers.remove(header::AUTHORIZATION);
    }
    parts.headers.insert(DEADLINE_MS, HeaderValue::from(version.manifest.limits.wall_ms));
    parts.headers.insert(VERSION, HeaderValue::from(version.number));
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            parts.headers.insert(name, value);
        }
    };
    set(bill::INVOCATION_ID, &id.to_string());
    set(TENANT, version.tenant.as_str());
    set(FUNCTION, version.function.as_str());
    Request::from_parts(parts, body)
}

impl Ingress {
    fn new_id(&self) -> InvocationId {
        let unix_ms = u64::try_from(self.clock.unix_ns() / 1_000_000).unwrap_or(0);
        InvocationId::new(unix_ms, rand::random())
    }
}
