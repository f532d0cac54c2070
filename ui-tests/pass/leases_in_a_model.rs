//! A model that lives for ever can hold leases, send them to other threads, and ask before use.

use std::sync::Arc;
use std::thread::JoinHandle;

use vram_residency::error::{CheckError, ReclaimError, Revoked};
use vram_residency::shard::Verified;
use vram_residency::{Host, Lease, Shard, Shared};

struct Layer {
    weights: Lease<Host>,
}

struct Model {
    shared: Shared<Host>,
    layers: Arc<[Layer]>,
}

impl Model {
    fn new(shard: Shard<Verified, Host>, layers: usize) -> Result<Self, Revoked> {
        let shared = shard.share();
        let lease = shared.lease()?;
        let layers = (0..layers)
            .map(|_| Layer {
                weights: lease.clone(),
            })
            .collect();
        Ok(Self { shared, layers })
    }

    fn serve(&self) -> JoinHandle<Option<u64>> {
        let layers = Arc::clone(&self.layers);
        std::thread::spawn(move || {
            layers
                .iter()
                .map(|layer| layer.weights.is_current().then(|| layer.sum()))
                .sum()
        })
    }

    fn check(&self) -> Result<(), CheckError> {
        self.shared.check()
    }

    fn retire(self) -> Result<Shard<Verified, Host>, ReclaimError<Host>> {
        drop(self.layers);
        self.shared.reclaim()
    }
}

impl Layer {
    fn sum(&self) -> u64 {
        self.weights
            .view()
            .iter()
            .map(|byte| u64::from(*byte))
            .sum()
    }
}

fn main() {
    let _uses = (Model::new, Model::serve, Model::check, Model::retire);
}
