//! Events as signed HTTP requests.
//!
//! | file | what it is for |
//! |---|---|
//! | `settings.rs` | where requests go, and with what |
//! | `message.rs` | bodies and ids |
//! | `signature.rs` | signatures |
//! | `client.rs` | one request |
//! | `answer.rs` | what its answer means |

mod answer;
mod client;
mod message;
mod settings;
mod signature;

use std::cell::RefCell;
use std::collections::HashSet;

use anyhow::Context as _;
use reqwest::Client;

use self::client::{client, post};
use self::message::Message;
pub use self::settings::{WebhookBody, WebhookSettings};
use super::{Disabled, Down, Plugin};
use crate::event::Deliver;

/// A plugin that sends each event, or each batch, as a request with a body of JSON, signed by the
/// [Standard Webhooks](https://www.standardwebhooks.com) scheme.
///
/// 2xx acknowledges. 410 is [`Disabled`]; 408, 429, 5xx, a connection that fails and an answer that
/// breaks off before its status are [`Down`], with the wait that `Retry-After` asks for. Any other
/// status, 3xx among them, rejects the event; of a batch of several nobody knows which, and they are
/// tried one by one. Redirects are not followed, and proxies of the environment not used. Of the body
/// of an answer a little is read, for a short time.
///
/// Requests go side by side as far as deliveries do, see
/// [`max_in_flight`](crate::DeliveryPolicy::max_in_flight); within a delivery one goes after the other.
/// Connections are used again.
#[derive(Debug)]
pub struct WebhookPlugin {
    settings: WebhookSettings,
    /// None before the first delivery.
    client: RefCell<Option<Client>>,
}

impl WebhookPlugin {
    /// A plugin that sends requests as `settings` say.
    pub fn new(settings: WebhookSettings) -> Self {
        Self {
            settings,
            client: RefCell::default(),
        }
    }

    fn client(&self) -> anyhow::Result<Client> {
        let mut slot = self.client.borrow_mut();
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let made = client(&self.settings).map_err(Down::new)?;
        Ok(slot.insert(made).clone())
    }

    async fn send(&self, message: Message) -> anyhow::Result<()> {
        post(&self.client()?, &self.settings, message)
            .await
            .with_context(|| self.settings.origin())
    }

    /// Sends the events one after the other. Where one is rejected, the later ones of its incarnation
    /// wait for it.
    async fn send_each(&self, delivery: &Deliver) -> anyhow::Result<()> {
        let mut rejected = HashSet::new();
        for (index, event) in delivery.events.iter().enumerate() {
            let incarnation = event.session().map(|session| session.incarnation);
            if rejected.contains(&incarnation) {
                continue;
            }
            match self.send(Message::of_event(delivery, event)?).await {
                Ok(()) => delivery.acks.acknowledge(index),
                Err(error) if error.is::<Down>() || error.is::<Disabled>() => return Err(error),
                Err(error) => {
                    delivery.acks.reject(index, error);
                    rejected.insert(incarnation);
                }
            }
        }
        Ok(())
    }
}

impl Plugin for WebhookPlugin {
    async fn deliver(&self, delivery: &Deliver) -> anyhow::Result<()> {
        let origin = self.settings.origin();
        delivery.acks.remark(format!("no answer from {origin}"));
        match self.settings.body {
            WebhookBody::Event => self.send_each(delivery).await,
            WebhookBody::Batch => self.send(Message::of_batch(delivery)?).await,
        }
    }
}
