//! Tasks and threads that live as long as the host, and whoever is told when one of them ends.
//!
//! A host whose reaper or poster has panicked would otherwise go on for days without it.

use std::fmt;
use std::sync::Arc;

/// Tells of each task and thread that ends.
#[derive(Clone)]
pub struct Vitals(Arc<dyn Fn(&'static str) + Send + Sync>);

impl Vitals {
    /// `ended` is called with the name of each that ends, by the thread on which it ends.
    pub fn new(ended: impl Fn(&'static str) + Send + Sync + 'static) -> Vitals {
        Vitals(Arc::new(ended))
    }

    /// For a task or thread to hold for as long as it lives.
    pub fn hold(&self, name: &'static str) -> Vital {
        Vital { name, vitals: Some(self.clone()) }
    }
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vitals")
    }
}

/// Held by a task or thread that must not end; its drop, in a panic too, is its end.
#[derive(Debug)]
pub struct Vital {
    name: &'static str,
    vitals: Option<Vitals>,
}

impl Vital {
    /// One whose end matters to nobody.
    pub fn unwatched() -> Vital {
        Vital { name: "", vitals: None }
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if let Some(Vitals(ended)) = &self.vitals {
            ended(self.name);
        }
    }
}
