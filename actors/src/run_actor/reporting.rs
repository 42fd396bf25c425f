//! What the commit thread reports, told to those whom it concerns.

use expman_model::time::now_us;

use super::{Member, RunActorState, standing};
use crate::client_actor::ClientMsg;
use crate::commit::{Committed, Report};
use crate::link::frame::{Ack, Frame};

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
        for (index, progress) in committed.writers {
            if let Some(member) = self.by_index(index) {
                member.standing = standing(progress, member.standing.last_seen_us);
            }
            self.ack(index, progress.durable_seq, progress.durable_seq);
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
