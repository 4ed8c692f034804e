//! The drain as messages to actors of ractor, whose mailboxes have no bounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::common::CHUNK;
use super::{Items, Message, Plugin, Told};

struct Handler;

impl Actor for Handler {
    type Msg = Message;
    type State = Plugin;
    type Arguments = Plugin;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        plugin: Plugin,
    ) -> Result<Plugin, ActorProcessingErr> {
        Ok(plugin)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        plugin: &mut Plugin,
    ) -> Result<(), ActorProcessingErr> {
        plugin.told(&message);
        Ok(())
    }
}

pub(crate) async fn round(items: Items, told: Told) -> Duration {
    let (mut actors, mut over) = (Vec::new(), Vec::new());
    for (plugin, is_over) in Plugin::all(items.len()) {
        let (actor, _) = Actor::spawn(None, Handler, plugin)
            .await
            .expect("it starts");
        actors.push(actor);
        over.push(is_over);
    }
    let began = Instant::now();
    match told {
        Told::PerPair => {
            for item in items.iter() {
                for actor in &actors {
                    let pair = Message::Pair(Arc::clone(item));
                    actor.cast(pair).expect("it runs");
                }
            }
        }
        Told::InChunks => {
            for chunk in items.chunks(CHUNK) {
                let chunk = Items::from(chunk);
                for actor in &actors {
                    let chunk = Message::Chunk(Arc::clone(&chunk));
                    actor.cast(chunk).expect("it runs");
                }
            }
        }
    }
    for over in over {
        over.await.expect("it is told of everything");
    }
    let took = began.elapsed();
    for actor in actors {
        actor.stop(None);
    }
    took
}
