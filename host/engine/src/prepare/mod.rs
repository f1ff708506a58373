//! Uploads become what the host loads: in a child process, which is confined before it reads them.

pub(crate) mod bulk;
pub(crate) mod child;
pub(crate) mod jobs;
mod sandbox;
mod snapshot;
mod text;

use child::{Answer, CODE_FILE, Job};
use vesta_nn::{ModelInfo, PrepareError};

/// The child's whole life; returns the exit code of its process.
pub fn child_main() -> u8 {
    child::main(work)
}

fn work(job: Job) -> Answer {
    match job {
        Job::Compile { source, out, snapshot } => {
            match sandbox::compile(&source, &out.join(CODE_FILE), snapshot) {
                Ok(()) => Answer::Compiled,
                Err(e) => Answer::Refused { code: e.code().into(), detail: e.to_string() },
            }
        }
        Job::Model { source, encoding, samples, out, limits } => {
            prepared(vesta_nn::prepare(&source, encoding, &samples, &out, &limits))
        }
        Job::Try { dir, samples, limits } => prepared(vesta_nn::try_prepared(&dir, &samples, &limits)),
    }
}

fn prepared(result: Result<ModelInfo, PrepareError>) -> Answer {
    match result {
        Ok(info) => Answer::Prepared(Box::new(info)),
        Err(e) => Answer::Refused { code: e.code().into(), detail: e.to_string() },
    }
}
