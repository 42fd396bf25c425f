//! How ranks leave: in good order, by vanishing, and the last one by closing the run.

use expman_model::limits::LEASE;
use expman_model::{RankOutcomeState, RankState, RunStatus, WriterId};
use expman_storage::run_writer::Progress;
use ractor::ActorRef;
use tokio::sync::oneshot;

use super::{GONE, LINGER, LinkId, Member, RunActorState, RunMsg, after, lost};
use crate::client_actor::ClientMsg;
use crate::commit::{Command, Remains};
use crate::link::frame::{Ack, Frame};
use crate::reply::cast;

impl RunActorState {
    pub(super) async fn bye(&mut self, myself: &ActorRef<RunMsg>, link: LinkId, status: RunStatus) {
        let Some((writer, member)) = self.member(link) else {
            return;
        };
        member.leaving = true;
        let index = member.index;
        let (done, left) = oneshot::channel();
        self.tell(Command::Leave {
            writer: index,
            state: RankState::Left,
            status,
            reason: String::new(),
            remains: None,
            done: Some(done),
        })
        .await;
        let myself = myself.clone();
        tokio::spawn(async move {
            if let Ok(progress) = left.await {
                cast(&myself, RunMsg::Left { writer, progress });
            }
        });
    }

    pub(super) async fn left(
        &mut self,
        myself: &ActorRef<RunMsg>,
        writer: WriterId,
        progress: Progress,
    ) {
        let Some(member) = self.remove(writer) else {
            return;
        };
        self.client(ClientMsg::Left {
            writer,
            state: RankOutcomeState::Durable,
            standing: member.standing,
        });
        let Some(to) = member.to else { return };
        // Closing the run may take longer than the process waits; that its own records are safe it learns now.
        to.tell(Frame::Ack(Ack {
            durable_seq: progress.durable_seq,
            written_seq: progress.durable_seq,
        }));
        self.farewells.push(to);
        self.finish_if_empty(myself, false).await;
        if !self.finishing {
            // Others go on: this one need not wait for the end of the run.
            for to in self.farewells.drain(..) {
                to.tell(Frame::Farewell(false));
            }
        }
    }

    pub(super) fn remove(&mut self, writer: WriterId) -> Option<Member> {
        let member = self.members.remove(&writer)?;
        self.by_link.remove(&member.link);
        self.by_index.remove(&member.index);
        Some(member)
    }

    pub(super) async fn gone(&mut self, myself: &ActorRef<RunMsg>, link: LinkId, dead: bool) {
        let Some((writer, member)) = self.member(link) else {
            self.by_link.remove(&link);
            return;
        };
        member.to = None;
        if member.leaving {
            // It waits for nothing any more, and so need nobody.
            self.finish_if_empty(myself, false).await;
        } else if dead {
            self.lose(myself, writer, GONE, true).await;
        } else {
            after(myself, LEASE, RunMsg::LeaseOver { writer, link });
        }
    }

    pub(super) async fn lease_over(
        &mut self,
        myself: &ActorRef<RunMsg>,
        writer: WriterId,
        link: LinkId,
    ) {
        let silent = |m: &&Member| m.link == link && m.to.is_none() && !m.leaving;
        if let Some(member) = self.members.get(&writer).filter(silent) {
            let dead = member.process.is_gone();
            self.lose(myself, writer, "no word from it within its lease", dead)
                .await;
        }
    }

    /// Gives a process up. If it is dead, what it left is brought in first; if not, it may come back with all it has.
    async fn lose(
        &mut self,
        myself: &ActorRef<RunMsg>,
        writer: WriterId,
        reason: &str,
        dead: bool,
    ) {
        let Some(member) = self.remove(writer) else {
            return;
        };
        tracing::warn!("{writer} is lost: {reason}");
        let remains = if dead {
            let ring = member.process.ring;
            Some(Remains { ring })
        } else {
            self.estranged.insert(member.index, member.process);
            None
        };
        self.tell(Command::Seen {
            writer: member.index,
            at_us: member.standing.last_seen_us,
        })
        .await;
        self.tell(lost(member.index, reason, remains)).await;
        self.client(ClientMsg::Left {
            writer,
            state: RankOutcomeState::Dead,
            standing: member.standing,
        });
        self.finish_if_empty(myself, false).await;
    }

    /// Closes the run when no rank is left; unless `anyway`, announced ranks that never came are waited for.
    pub(super) async fn finish_if_empty(&mut self, myself: &ActorRef<RunMsg>, anyway: bool) {
        let there = |m: &Member| !m.leaving || m.to.is_some();
        if self.finishing || self.members.values().any(there) {
            return;
        }
        let all_came = self
            .args
            .meta
            .world_size
            .is_none_or(|n| (0..n).all(|rank| self.args.ranks.contains(&rank)));
        if !all_came && !anyway {
            after(myself, LINGER, RunMsg::LingerOver);
            return;
        }
        self.finishing = true;
        self.args.closing.send_replace(true);
        for (writer, process) in std::mem::take(&mut self.estranged) {
            if process.is_gone() {
                let ring = process.ring;
                let remains = Remains { ring };
                self.tell(Command::Import { writer, remains }).await;
            }
        }
        let (reply, finished) = oneshot::channel();
        self.tell(Command::Finish(reply)).await;
        let myself = myself.clone();
        tokio::spawn(async move {
            let done = finished
                .await
                .unwrap_or_else(|_gone| Err("the commit thread ended".to_owned()));
            cast(&myself, RunMsg::Finished(done));
        });
    }

    pub(super) fn finished(&mut self, done: Result<(), String>) {
        if let Err(e) = &done {
            tracing::error!("closing the run failed: {e}");
        }
        for to in self.farewells.drain(..) {
            to.tell(Frame::Farewell(done.is_ok()));
        }
        self.args.done.send_replace(Some(done));
    }

    /// Lets go of every link without a word: whoever is at its other end looks for the run's owner.
    pub(super) fn ended(&mut self, myself: &ActorRef<RunMsg>) {
        self.args.closing.send_replace(true);
        self.members.clear();
        self.farewells.clear();
        let client = self.args.client.drain();
        if client.and_then(|()| myself.drain()).is_err() {
            tracing::debug!("the actors ended before");
        }
    }
}
