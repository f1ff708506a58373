//! Which engine the host has chosen for a model whose manifest leaves that open.
//!
//! A choice is made at deploy, from what the engines made of the model and of its samples; so models of the
//! same bytes with other samples, or another precision, have choices of their own. A choice that is lost is
//! made again.

use crate::engines::Engine;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vesta_core::Digest;
use vesta_core::manifest::ModelRef;
use vesta_nn::{Batching, Faster};

/// An engine, and the reason for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Choice {
    pub engine: Engine,
    pub why: String,
    /// What ONNX Runtime gains where the embedded engine was chosen, and both give the same outputs.
    #[serde(default)]
    pub faster: Option<Gained>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gained {
    /// The versions of both engines that were compared.
    pub engines: [String; 2],
    pub gain: Faster,
    /// What merging runs gains in that engine.
    pub batching: Option<Batching>,
}

pub(crate) struct Choices {
    dir: PathBuf,
    /// Those that were made or read.
    known: Mutex<HashMap<PathBuf, Choice>>,
    writing: Mutex<()>,
}

impl Choices {
    /// Keeps them in a private directory, which exists.
    pub fn new(dir: PathBuf) -> Choices {
        Choices { dir, known: Mutex::default(), writing: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Choice>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, model: &ModelRef) -> Option<Choice> {
        let path = self.path(model);
        if let Some(choice) = self.known().get(&path) {
            return Some(choice.clone());
        }
        let choice: Choice = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        self.known().insert(path, choice.clone());
        Some(choice)
    }

    /// Keeps a choice, which is on disk when this returns.
    pub fn set(&self, model: &ModelRef, choice: Choice) -> io::Result<()> {
        let path = self.path(model);
        let temporary = path.with_extension("new");
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&choice)?)?;
        file.sync_all()?;
        std::fs::rename(temporary, &path)?;
        File::open(&self.dir)?.sync_all()?;
        self.known().insert(path, choice);
        Ok(())
    }

    /// Forgets those of a blob that is removed.
    pub fn discard(&self, digest: &Digest) {
        let is_of =
            |path: &Path| path.file_name().is_some_and(|name| is_choice_of(digest, &name.to_string_lossy()));
        self.known().retain(|path, _| !is_of(path));
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| is_of(path)) {
            let _ = std::fs::remove_file(path);
        }
    }

    fn path(&self, model: &ModelRef) -> PathBuf {
        let asked = serde_json::to_vec(&(&model.samples, model.precision)).unwrap_or_default();
        let asked = blake3::hash(&asked).to_hex();
        self.dir.join(format!("{}-{}.engine", model.blob.digest.hex(), &asked[..16]))
    }
}

fn is_choice_of(digest: &Digest, name: &str) -> bool {
    name.strip_suffix(".engine").is_some_and(|name| name.starts_with(&digest.hex().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vesta_core::manifest::{BlobRef, Encoding};
    use vesta_core::sample::Sample;

    fn model(digest: u8, fill: Option<f64>) -> ModelRef {
        let sample = |fill| Sample { input: "x".into(), shape: vec![1], values: None, fill: Some(fill) };
        ModelRef {
            name: "m".into(),
            encoding: Encoding::Onnx,
            blob: BlobRef { digest: Digest::from_bytes([digest; 32]), size: 1 },
            threads: 1,
            batch: Default::default(),
            precision: Default::default(),
            engine: Default::default(),
            samples: fill.map(sample).into_iter().collect(),
        }
    }

    #[test]
    fn a_choice_is_of_a_model_with_its_samples_and_outlives_the_process() {
        let dir = tempfile::tempdir().expect("dir");
        let choices = Choices::new(dir.path().into());
        let choice = Choice { engine: Engine::OnnxRuntime, why: "because".into(), faster: None };
        choices.set(&model(1, Some(0.5)), choice.clone()).expect("written");
        for choices in [choices, Choices::new(dir.path().into())] {
            assert_eq!(choices.get(&model(1, Some(0.5))), Some(choice.clone()));
            for other in [model(1, None), model(1, Some(0.25)), model(2, Some(0.5))] {
                assert_eq!(choices.get(&other), None);
            }
        }
    }

    #[test]
    fn choices_go_with_their_blob() {
        let dir = tempfile::tempdir().expect("dir");
        let choices = Choices::new(dir.path().into());
        for digest in [1, 2] {
            let choice = Choice { engine: Engine::Rten, why: String::new(), faster: None };
            choices.set(&model(digest, None), choice).expect("written");
        }
        choices.discard(&model(1, None).blob.digest);
        for choices in [choices, Choices::new(dir.path().into())] {
            assert_eq!(choices.get(&model(1, None)), None);
            assert!(choices.get(&model(2, None)).is_some());
        }
    }
}
