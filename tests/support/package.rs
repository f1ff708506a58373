//! Packages made in a test and deployed over the API, the way any client would.

use crate::{Api, PATIENCE, Reply, wait_for};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A function's package in the making.
#[derive(Clone)]
pub struct Package {
    manifest: Value,
    blobs: Vec<Vec<u8>>,
}

/// `sha256:` and 64 hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_string(), |s, b| s + &format!("{b:02x}"))
}

fn blob_ref(bytes: &[u8]) -> Value {
    json!({ "digest": digest(bytes), "size": bytes.len() })
}

impl Package {
    pub fn new(name: &str, component: &[u8]) -> Self {
        let manifest = json!({
            "format": "vesta-package/1",
            "name": name,
            "component": blob_ref(component),
            "models": [],
            "limits": {
                "memory_bytes": 128 << 20, "cpu_ms": 1_000, "wall_ms": 30_000,
                "request_body_bytes": 4 << 20, "response_body_bytes": 16 << 20, "concurrency": 64,
            },
            "scaling": { "minimum": 0, "keep_alive_ms": 60_000 },
            "outbound": [],
            "variables": {},
            "public": false,
            "snapshot": true,
        });
        Self { manifest, blobs: vec![component.to_vec()] }
    }

    /// The fixture that misbehaves by path, under a name of the test's own.
    pub fn rogue(name: &str) -> Self {
        Self::new(name, &crate::guests::fixture("rogue"))
    }

    /// A component in WebAssembly's text format.
    pub fn wat(name: &str, text: &str) -> Self {
        Self::new(name, &wat::parse_str(text).unwrap_or_else(|e| panic!("{e}")))
    }

    pub fn model(mut self, name: &str, bytes: &[u8]) -> Self {
        let entry = json!({ "name": name, "encoding": "onnx", "blob": blob_ref(bytes) });
        self.manifest["models"].as_array_mut().expect("an array").push(entry);
        self.blobs.push(bytes.to_vec());
        self
    }

    /// A sample input for the last model.
    pub fn sample(mut self, input: &str, shape: &[u32]) -> Self {
        let models = self.manifest["models"].as_array_mut().expect("an array");
        let model = models.last_mut().expect("a model").as_object_mut().expect("an object");
        let samples = model.entry("samples").or_insert_with(|| json!([]));
        samples.as_array_mut().expect("an array").push(json!({ "input": input, "shape": shape }));
        self
    }

    /// A key of the last model.
    pub fn of_model(mut self, key: &str, value: Value) -> Self {
        let models = self.manifest["models"].as_array_mut().expect("an array");
        models.last_mut().expect("a model")[key] = value;
        self
    }

    /// One of the manifest's limits.
    pub fn limit(mut self, field: &str, value: u64) -> Self {
        self.manifest["limits"][field] = json!(value);
        self
    }

    pub fn keep_alive_ms(self, ms: u64) -> Self {
        self.set("/scaling/keep_alive_ms", json!(ms))
    }

    /// Most requests that one instance serves.
    pub fn reuse(mut self, most: u64) -> Self {
        self.manifest["scaling"]["reuse"] = json!(most);
        self
    }

    /// Any place of the manifest, by JSON pointer.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        *self.manifest.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
        self
    }

    /// The same package under another name.
    pub fn named(&self, name: &str) -> Self {
        self.clone().set("/name", json!(name))
    }

    /// The same package with another digest: its component has one more custom section, which says nothing.
    pub fn distinct(&self, number: u32) -> Self {
        let mut this = self.clone();
        let old = blob_ref(&this.blobs[0]);
        // Section 0 of 8 bytes: the name "nth", and the number.
        this.blobs[0].extend_from_slice(&[0, 8, 3, b'n', b't', b'h']);
        this.blobs[0].extend_from_slice(&number.to_le_bytes());
        assert_eq!(this.manifest["component"], old, "the component is the first blob");
        this.manifest["component"] = blob_ref(&this.blobs[0]);
        this
    }

    /// `None` where the host does not know one of the manifest's keys.
    pub fn if_known(self, api: &Api) -> Option<Self> {
        let begun = self.begin(api);
        if begun.status != 201 && begun.text().contains("unknown field") {
            return None;
        }
        begun.expect(201);
        Some(self)
    }

    pub fn manifest(&self) -> &Value {
        &self.manifest
    }
    pub fn blobs(&self) -> &[Vec<u8>] {
        &self.blobs
    }
    pub fn name(&self) -> &str {
        self.manifest["name"].as_str().expect("a name")
    }

    /// Begins a deployment; the host's answer.
    pub fn begin(&self, api: &Api) -> Reply {
        api.post_json("/api/v1/deployments", &self.manifest)
    }

    /// Uploads and commits, and does not wait for the end. The deployment's id.
    pub fn commit(&self, api: &Api) -> String {
        let begun = self.begin(api).expect(201).json();
        let id = begun["id"].as_str().expect("a deployment's id").to_string();
        for missing in begun["missing"].as_array().expect("missing blobs") {
            let wanted = missing["digest"].as_str().expect("a digest");
            let blob = self.blobs.iter().find(|b| digest(b) == wanted).expect("a blob of this package");
            api.put(&format!("/api/v1/deployments/{id}/blobs/{wanted}"), blob).expect(204);
        }
        api.post_json(&format!("/api/v1/deployments/{id}/commit"), &json!({ "alias": "live" })).expect(202);
        id
    }

    /// Deploys to the end, whatever it is: the deployment, `ready` or `failed`.
    pub fn try_deploy(&self, api: &Api) -> Value {
        finished(api, &self.commit(api))
    }

    /// Deploys; panics unless it becomes ready. The new version's number.
    #[track_caller]
    pub fn deploy(&self, api: &Api) -> u64 {
        let done = self.try_deploy(api);
        assert_eq!(done["state"], "ready", "{done}");
        done["version"].as_u64().expect("a version")
    }

    /// Deploys; panics unless it fails. The problem.
    #[track_caller]
    pub fn refused(&self, api: &Api) -> Value {
        let done = self.try_deploy(api);
        assert_eq!(done["state"], "failed", "{done}");
        assert!(done["version"].is_null(), "a failed deployment makes no version: {done}");
        done["error"].clone()
    }
}

/// Waits for a deployment to be `ready` or `failed`.
pub fn finished(api: &Api, id: &str) -> Value {
    wait_for(&format!("deployment {id}"), PATIENCE, || {
        let json = api.get(&format!("/api/v1/deployments/{id}")).expect(200).json();
        matches!(json["state"].as_str(), Some("ready" | "failed")).then_some(json)
    })
}
