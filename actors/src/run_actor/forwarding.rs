//! Which text the ranks forward: one setting for all of them.

use expman_model::WriterId;
use expman_model::forwarding::{Forwarding, ForwardingChange};

use super::{LinkId, RunActorState};
use crate::commit::Command;
use crate::link::frame::Frame;

impl RunActorState {
    /// A process wants it otherwise.
    pub(super) async fn forward(&mut self, link: LinkId, change: ForwardingChange) {
        let Some((WriterId { rank, .. }, _)) = self.member(link) else {
            return;
        };
        self.forwards(rank, change.apply(self.forwarding)).await;
    }

    /// From now on.
    pub(super) async fn forwards(&mut self, rank: u32, forwarding: Forwarding) {
        self.forwarding = forwarding;
        self.tell(Command::Forwarding { rank, forwarding }).await;
        for to in self.members.values().filter_map(|m| m.to.as_ref()) {
            to.tell(Frame::Forwarding(forwarding));
        }
    }
}
