//! How processes join: who may, as which rank, with how much credit.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use expman_model::WriterId;
use expman_model::limits::{CREDIT_BYTES_MAX, CREDIT_BYTES_MIN, OWNER_BUDGET_BYTES};
use expman_model::time::now_us;
use tokio::sync::oneshot;

use super::{FINISHING, FOREIGN, LinkId, Process, RunActorState};
use crate::barrier::Standing;
use crate::client_actor::ClientMsg;
use crate::commit::Command;
use crate::link::carrier::FrameSender;
use crate::link::frame::{Frame, Hello, PROTOCOL, Welcome};
use crate::ring::receipt::Receipt;

impl RunActorState {
    /// Why a process may not join, if so.
    fn objection(&self, hello: &Hello) -> Option<String> {
        if hello.protocol != PROTOCOL {
            return Some(format!(
                "it speaks protocol {}, the run's owner speaks {PROTOCOL}: use one version of expman-mesh in all ranks",
                hello.protocol
            ));
        }
        if let Some(why) = hello.nonsense() {
            return Some(why);
        }
        if self.finishing {
            return Some(FINISHING.to_owned());
        }
        let known = self.args.meta.launch_key.as_ref();
        if !hello.resume && known != Some(&hello.launch_key) {
            return Some(FOREIGN.to_owned());
        }
        None
    }

    /// A rank for a process that has none: the first free one when it belongs to a launch of known size,
    /// else one behind all that are announced or taken.
    fn free_rank(&self, launch: Option<u32>) -> u32 {
        let taken = &self.args.ranks;
        let behind = taken.last().map_or(0, |r| r + 1);
        match launch {
            Some(n) => (0..n)
                .find(|r| !taken.contains(r))
                .unwrap_or_else(|| behind.max(n)),
            None => behind.max(self.args.meta.world_size.unwrap_or(0)),
        }
    }

    pub(super) async fn hello(
        &mut self,
        link: LinkId,
        hello: Hello,
        ring: Option<OwnedFd>,
        to: FrameSender,
    ) {
        if let Some(why) = self.objection(&hello) {
            to.tell(Frame::Refused(why));
            return;
        }
        let rank = hello
            .rank
            .unwrap_or_else(|| self.free_rank(hello.world_size));
        let writer = WriterId {
            rank,
            incarnation: hello.incarnation,
        };
        let known = hello.forwarding;
        let (reply, registered) = oneshot::channel();
        let ring = ring.map(Arc::new);
        let epoch = self.args.meta.owner_epoch;
        let receipt = ring
            .as_ref()
            .and_then(|ring| Receipt::new(Arc::clone(ring), epoch));
        let process = Process {
            host: hello.host.clone(),
            pid: hello.pid,
            lived: SystemTime::now(),
            ring,
        };
        self.tell(Command::Register {
            id: writer,
            host: hello.host,
            pid: hello.pid,
            receipt,
            reply,
        })
        .await;
        let Ok(registered) = registered.await else {
            return;
        };
        if hello.world_size > self.args.meta.world_size
            && let Some(n) = hello.world_size
        {
            self.args.meta.world_size = Some(n);
            self.tell(Command::WorldSize(n)).await;
        }
        self.args.ranks.insert(rank);
        let member = self.members.remove(&writer);
        let mut standing = member.map_or_else(Standing::default, |m| m.standing);
        standing.durable_seq = registered.durable_seq;
        standing.last_seen_us = now_us();
        self.estranged.remove(&registered.index);
        self.insert(writer, registered.index, standing, process);
        self.by_link.insert(link, writer);
        if let Some(member) = self.members.get_mut(&writer) {
            (member.link, member.to) = (link, Some(to.clone()));
        }
        self.client(ClientMsg::Joined {
            writer,
            standing,
            link: to.clone(),
        });
        if known.version > self.forwarding.version {
            self.forwards(rank, known).await;
        }
        let ranks = self
            .args
            .meta
            .world_size
            .unwrap_or(1)
            .max(u32::try_from(self.members.len()).unwrap_or(u32::MAX));
        let welcome = Welcome {
            run_id: self.args.run_id,
            rank,
            attempt: registered.attempt,
            world_size: self.args.meta.world_size,
            epoch,
            durable_seq: registered.durable_seq,
            forwarding: self.forwarding,
            credit: (OWNER_BUDGET_BYTES / ranks as usize).clamp(CREDIT_BYTES_MIN, CREDIT_BYTES_MAX),
        };
        to.tell(Frame::Welcome(welcome));
        if !self.trouble.is_empty() {
            to.tell(Frame::Trouble(self.trouble.clone()));
        }
    }
}
