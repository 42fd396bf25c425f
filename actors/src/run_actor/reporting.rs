//! What the commit thread reports, told to those whom it concerns.

use std::time::Duration;

use expman_model::time::now_us;

use super::{Member, RunActorState, standing};
use crate::client_actor::ClientMsg;
use crate::commit::{Committed, Report};
use crate::link::carrier::FrameSender;
use crate::link::frame::{Ack, Frame};

/// How long acknowledgements wait for the answer to a flush.
const ANSWERS_FIRST: Duration = Duration::from_millis(2);

impl RunActorState {
    pub(super) fn reported(&mut self, report: Report) {
        match report {
            Report::Written(writers) => {
                for (index, written_seq) in writers {
                    let durable_seq = self.by_index(index).map_or(0, |m| m.standing.durable_seq);
                    self.ack(index, durable_seq, written_seq);
                }
            }
            Report::Committed(committed) => self.committed(committed),
            Report::Trouble(what) => {
                for to in self.members.values().filter_map(|m| m.to.as_ref()) {
                    to.tell(Frame::Trouble(what.clone()));
                }
                self.trouble = what;
            }
        }
    }

    fn by_index(&mut self, index: u32) -> Option<&mut Member> {
        let writer = self.by_index.get(&index)?;
        self.members.get_mut(writer)
    }

    fn ack(&mut self, index: u32, durable_seq: u64, written_seq: u64) {
        if let Some(to) = self.by_index(index).and_then(|m| m.to.as_ref()) {
            to.tell(Frame::Ack(Ack {
                durable_seq,
                written_seq,
            }));
        }
    }

    fn committed(&mut self, committed: Committed) {
        self.args.rows = committed.rows;
        // Where a flush is under way its answers go first, and take what is left here with them.
        let is_flush = !committed.tokens.is_empty();
        let mut left = Vec::new();
        for (index, progress) in committed.writers {
            let Some(member) = self.by_index(index) else {
                continue;
            };
            member.standing = standing(progress, member.standing.last_seen_us);
            let Some(to) = &member.to else { continue };
            let ack = Frame::Ack(Ack {
                durable_seq: progress.durable_seq,
                written_seq: progress.durable_seq,
            });
            if is_flush {
                to.leave(ack);
                left.push(to.clone());
            } else {
                to.tell(ack);
            }
        }
        if !left.is_empty() {
            tokio::spawn(async move {
                tokio::time::sleep(ANSWERS_FIRST).await;
                left.iter().for_each(FrameSender::nudge);
            });
        }
        for (token, progress) in committed.tokens {
            let seen = self
                .members
                .get(&token.writer)
                .map_or_else(now_us, |m| m.standing.last_seen_us);
            let msg = ClientMsg::Durable {
                version: token.version,
                writer: token.writer,
                seq: progress.durable_seq,
                standing: standing(progress, seen),
                rows: committed.rows,
            };
            self.client(msg);
        }
        for (index, why) in committed.rejected {
            tracing::error!("batch refused: {why}");
            if let Some(to) = self.by_index(index).and_then(|m| m.to.as_ref()) {
                to.tell(Frame::Refused(why));
            }
        }
    }
}
