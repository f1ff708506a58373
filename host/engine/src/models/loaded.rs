//! The models that are loaded on a host.

use super::model::Model;
use super::worker::Settings;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Where a model is kept while somebody refers to it.
type Place = Mutex<Weak<Model>>;

/// Loaded models, shared by every function that uses the same bytes under the same limits.
#[derive(Default)]
pub(crate) struct LoadedModels(Mutex<HashMap<(PathBuf, Settings), Arc<Place>>>);

impl LoadedModels {
    /// A model's place: held while it is loaded, so that two functions that start at once load it once, and
    /// others do not wait.
    pub fn place(&self, dir: &Path, settings: Settings) -> Arc<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody loads those that nobody else refers to.
        let is_used = |place: &Arc<Place>| {
            Arc::strong_count(place) > 1
                || place.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
        };
        places.retain(|_, place| is_used(place));
        places.entry((dir.to_path_buf(), settings)).or_default().clone()
    }

    /// All that are loaded.
    pub fn all(&self) -> Vec<Arc<Model>> {
        let places: Vec<_> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        // One that is being loaded has its place locked, and is not loaded yet.
        places.iter().filter_map(|place| place.try_lock().ok()?.upgrade()).collect()
    }

    /// Its files were made anew: whoever loads the model from now on maps those, and not what others may
    /// still have of the old.
    pub fn forget(&self, dir: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != dir);
    }
}
