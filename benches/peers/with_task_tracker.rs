//! The drain as tasks that are waited for, as programs do it that have nothing but tokio.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::TaskTracker;

use super::common::{CHUNK, PLUGINS};
use super::{Items, Told};

pub(crate) async fn round(items: Items, told: Told) -> Duration {
    let tracker = TaskTracker::new();
    let began = Instant::now();
    match told {
        Told::PerPair => {
            for item in items.iter() {
                for _ in 0..PLUGINS {
                    let item = Arc::clone(item);
                    tracker.spawn(async move { black_box(item.len()) });
                }
            }
        }
        Told::InChunks => {
            for chunk in items.chunks(CHUNK) {
                let chunk = Items::from(chunk);
                for _ in 0..PLUGINS {
                    let chunk = Arc::clone(&chunk);
                    tracker.spawn(async move { black_box(chunk.len()) });
                }
            }
        }
    }
    tracker.close();
    tracker.wait().await;
    began.elapsed()
}
