//! The drain as messages to actors of kameo, whose mailboxes hold as much as those of the supervisor's
//! bus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kameo::actor::{Actor, ActorRef, Spawn as _};
use kameo::error::Infallible;
use kameo::mailbox;
use kameo::message::{Context, Message as Handles};

use super::common::CHUNK;
use super::{Items, Message, Plugin, Told};

impl Actor for Plugin {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(plugin: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(plugin)
    }
}

impl Handles<Message> for Plugin {
    type Reply = ();

    async fn handle(&mut self, message: Message, _: &mut Context<Self, ()>) {
        self.told(&message);
    }
}

pub(crate) async fn round(items: Items, told: Told) -> Duration {
    let spawn = |plugin| Plugin::spawn_with_mailbox(plugin, mailbox::bounded(CHUNK));
    let (actors, over): (Vec<_>, Vec<_>) = Plugin::all(items.len())
        .map(|(plugin, over)| (spawn(plugin), over))
        .unzip();
    let began = Instant::now();
    match told {
        Told::PerPair => {
            for item in items.iter() {
                for actor in &actors {
                    let pair = Message::Pair(Arc::clone(item));
                    actor.tell(pair).await.expect("it runs");
                }
            }
        }
        Told::InChunks => {
            for chunk in items.chunks(CHUNK) {
                let chunk = Items::from(chunk);
                for actor in &actors {
                    let chunk = Message::Chunk(Arc::clone(&chunk));
                    actor.tell(chunk).await.expect("it runs");
                }
            }
        }
    }
    for over in over {
        over.await.expect("it is told of everything");
    }
    began.elapsed()
}
