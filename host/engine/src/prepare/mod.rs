//! Uploads become what the host loads: in a child process, which is confined before it reads them.

pub(crate) mod bulk;
pub(crate) mod child;
pub(crate) mod jobs;
mod sandbox;
mod snapshot;
mod text;

use child::{Answer, CODE_FILE, For, Job};
use std::path::Path;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;
use vesta_nn::{LoadError, ModelInfo, ModelLimits, OnnxRuntime, PrepareError};

/// The child's whole life; returns the exit code of its process.
pub fn child_main() -> u8 {
    child::main(open, work)
}

/// What is opened before the child is confined.
type Opened = Option<Result<OnnxRuntime, LoadError>>;

fn open(job: &Job) -> Opened {
    job.library().map(OnnxRuntime::open)
}

fn work(job: Job, opened: Opened) -> Answer {
    match job {
        Job::Compile { source, out, snapshot } => {
            match sandbox::compile(&source, &out.join(CODE_FILE), snapshot) {
                Ok(()) => Answer::Compiled,
                Err(e) => Answer::Refused { code: e.code().into(), detail: e.to_string() },
            }
        }
        Job::Model { engine, source, encoding, samples, out, limits } => {
            answer(model(&engine, opened, (&source, encoding), &samples, &out, &limits))
        }
        Job::Try { engine, dir, samples, limits } => answer(tried(&engine, opened, &dir, &samples, &limits)),
    }
}

fn model(
    engine: &For,
    opened: Opened,
    (source, encoding): (&Path, Encoding),
    samples: &[Sample],
    out: &Path,
    limits: &ModelLimits,
) -> Result<ModelInfo, PrepareError> {
    match engine {
        For::Rten { keep_trial: None } => vesta_nn::prepare(source, encoding, samples, out, limits),
        For::Rten { keep_trial: Some(folder) } => {
            vesta_nn::prepare_kept(source, encoding, samples, out, folder, limits)
        }
        For::OnnxRuntime { version, reference, .. } => {
            let reference = reference.as_deref();
            library(opened)?.prepare(version, (source, encoding), samples, reference, out, limits)
        }
    }
}

fn tried(
    engine: &For,
    opened: Opened,
    dir: &Path,
    samples: &[Sample],
    limits: &ModelLimits,
) -> Result<ModelInfo, PrepareError> {
    match engine {
        For::Rten { keep_trial: None } => vesta_nn::try_prepared(dir, samples, limits),
        For::Rten { keep_trial: Some(folder) } => vesta_nn::try_kept(dir, samples, folder, limits),
        For::OnnxRuntime { reference, .. } => {
            library(opened)?.try_prepared(dir, samples, reference.as_deref(), limits)
        }
    }
}

fn library(opened: Opened) -> Result<OnnxRuntime, PrepareError> {
    match opened {
        Some(Ok(library)) => Ok(library),
        Some(Err(e)) => Err(PrepareError::Library(e.to_string())),
        None => Err(PrepareError::Library("it was not opened".into())),
    }
}

fn answer(result: Result<ModelInfo, PrepareError>) -> Answer {
    match result {
        Ok(info) => Answer::Prepared(Box::new(info)),
        Err(e) => Answer::Refused { code: e.code().into(), detail: e.to_string() },
    }
}
