//! What a function has written, and what it writes from now on.

use super::extract::{Params, Scope, Segments};
use super::invocations::limit;
use super::problem::Refusals;
use super::{ControlState, Problem, time};
use crate::telemetry::logs::{LogStore, TAIL_MAX, Written};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, ToSchema};
use vesta_core::{FunctionName, TenantName};

const LIMIT_DEFAULT: u32 = 100;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// The tenant to act on: for operators.
    #[allow(dead_code, reason = "read by Scope")]
    tenant: Option<String>,
    /// Whether to go on with new lines as they are written.
    #[serde(default)]
    follow: bool,
    /// Lines from before now: 1 to 1000; 100 where it is left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// One line of the answer.
#[derive(Serialize, ToSchema)]
pub struct LogLine<'a> {
    time: String,
    function: &'a str,
    version: u32,
    invocation: String,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    level: &'a str,
    message: &'a str,
    /// Further keys of a structured line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    fields: Option<&'a serde_json::Value>,
}

fn line(written: &Written) -> Bytes {
    let e = &written.entry;
    let line = LogLine {
        time: time::from_unix_ns(e.unix_ns),
        function: e.function.as_str(),
        version: e.version,
        invocation: e.invocation.to_string(),
        level: e.level.as_str(),
        message: &e.message,
        fields: e.fields.as_ref(),
    };
    let mut json = serde_json::to_vec(&line).expect("strings and JSON values always become JSON");
    json.push(b'\n');
    json.into()
}

/// What a function has written, oldest first
///
/// One JSON object a line.
#[utoipa::path(
    get, path = "/api/v1/functions/{name}/logs", tag = "functions",
    operation_id = "read_logs",
    params(("name" = String, Path), LogParams),
    responses(
        (status = 200, body = LogLine, content_type = "application/x-ndjson", description = "Lines of this form"),
        Refusals,
    )
)]
pub async fn read(
    State(state): State<ControlState>,
    scope: Scope,
    Segments(name): Segments<String>,
    Params(params): Params<LogParams>,
) -> Result<Response, Problem> {
    let function = state.registry.get(&scope.tenant, &name)?.name;
    let limit = limit(params.limit, LIMIT_DEFAULT, TAIL_MAX)?;
    // Subscribed before the look back, so that no line falls in between; those seen twice are known by their
    // number.
    let news = state.logs.subscribe();
    let past = state.logs.tail(&scope.tenant, &function, limit).await?;
    let body = if params.follow {
        let last_seq = past.last().map_or(0, |w| w.seq);
        let due = past.iter().map(line).collect();
        let follower =
            Follower { logs: state.logs.clone(), tenant: scope.tenant, function, last_seq, due, news };
        let ended = state.drain.clone().cancelled_owned();
        let lines = stream::unfold(follower, |mut follower| async {
            let line = follower.next().await?;
            Some((Ok::<_, Infallible>(line), follower))
        });
        Body::from_stream(futures_util::StreamExt::take_until(lines, ended))
    } else {
        Body::from(past.iter().map(line).collect::<Vec<_>>().concat())
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Someone who reads a function's lines as they are written.
struct Follower {
    logs: Arc<LogStore>,
    tenant: TenantName,
    function: FunctionName,
    last_seq: i64,
    /// Lines that are ready to be sent.
    due: VecDeque<Bytes>,
    news: broadcast::Receiver<Arc<Written>>,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.due.pop_front() {
                return Some(line);
            }
            match self.news.recv().await {
                Ok(written) => self.take(&written),
                // Behind: what was missed is in the store, as far as one look back reaches.
                Err(RecvError::Lagged(_)) => {
                    let missed = self.logs.tail(&self.tenant, &self.function, TAIL_MAX).await.ok()?;
                    missed.iter().for_each(|written| self.take(written));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn take(&mut self, written: &Written) {
        let ours = written.entry.tenant == self.tenant && written.entry.function == self.function;
        if ours && written.seq > self.last_seq {
            self.last_seq = written.seq;
            self.due.push_back(line(written));
        }
    }
}
