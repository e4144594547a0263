//! The members of a cluster: who they are, how far they have come, and changes of them.

use super::call::Nature;
use super::error::Error;
use super::handle::Client;
use super::options::CallOptions;
use crate::types::limits::ADDRESS_BYTES_MAX;
use crate::types::{NodeId, Term, Version};
use crate::wire::{self, ClusterAddReply, ClusterStatusReply, ErrorCode, RequestBody, VersionReply};
use std::time::Duration;

/// Asks about the members of a cluster, and changes them: see [`Client::cluster`].
///
/// Every change is one step that is done when its call returns, while the cluster goes on serving. A change that would leave
/// too few voters to commit anything is refused with QUORUM_AT_RISK, which tells how many are needed and how many would be
/// heard. A server that is of no cluster refuses all of it with UNSUPPORTED.
///
/// ```no_run
/// # use quantadb::client::{Client, Error};
/// # async fn example(client: Client) -> Result<(), Error> {
/// let cluster = client.cluster();
/// let status = cluster.status().await?;
/// for member in status.members.iter().filter(|member| !member.voter) {
///     println!("{} learns from {:?}", member.client_address, status.leader);
///     cluster.promote(member.node).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cluster(Client);

/// A cluster, as the node that answers knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The last version that the node has applied.
    pub version: Version,
    /// Who leads; `None` if that is not known.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: Term,
    /// The members, learners included, by id.
    pub members: Vec<ClusterMember>,
}

/// A member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMember {
    /// Who it is.
    pub node: NodeId,
    /// Whether it votes; a learner does not.
    pub voter: bool,
    /// Where its peer listener is.
    pub peer_address: String,
    /// Where its client listener is.
    pub client_address: String,
    /// How far it has come; `None` if the node that answers does not know. A leader knows of every member.
    pub progress: Option<MemberProgress>,
}

/// How far a member has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberProgress {
    /// The index of the last log entry that it holds.
    pub matched: u64,
    /// How many entries it is behind the leader.
    pub lag: u64,
    /// How long ago it was last heard; `None` if it never was.
    pub last_contact: Option<Duration>,
    /// The last version that it has applied, as it last told.
    pub version: Version,
    /// The chain hash after it: members that have applied the same version have the same.
    pub chain: u64,
    /// The greatest state-machine level that it knows.
    pub level: u16,
}

/// An identity that is reserved for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedNode {
    /// The version that reserved it.
    pub version: Version,
    /// The identity.
    pub node: NodeId,
}

impl Cluster {
    pub(super) fn new(client: Client) -> Cluster {
        Cluster(client)
    }

    /// Who is a member, and how far each has come.
    pub async fn status(&self) -> Result<ClusterStatus, Error> {
        let payload = self.call(RequestBody::ClusterStatus, Nature::Repeatable).await?;
        let reply = ClusterStatusReply::decode(&payload).map_err(Error::reply)?;
        Ok(ClusterStatus {
            version: reply.version,
            leader: Some(reply.leader).filter(|leader| *leader != NodeId(0)),
            term: reply.term,
            members: reply.members.iter().map(member).collect(),
        })
    }

    /// Takes a member out of the cluster; UNKNOWN_NODE if there is none of this id. Returns the version as of which it is
    /// out.
    pub async fn remove(&self, node: NodeId) -> Result<Version, Error> {
        self.change(RequestBody::ClusterRemove { node }).await
    }

    /// Hands the leader's office to a member, or with `None` to whoever is best.
    pub async fn transfer(&self, node: Option<NodeId>) -> Result<Version, Error> {
        self.change(RequestBody::ClusterTransfer { node: node.unwrap_or(NodeId(0)) }).await
    }

    /// Makes a learner a voter.
    pub async fn promote(&self, node: NodeId) -> Result<Version, Error> {
        self.change(RequestBody::ClusterPromote { node }).await
    }

    /// Reserves an identity for the node that will join from this address, `host:port` of its peer listener in 1 to 255
    /// bytes.
    pub async fn add(&self, peer_address: &str) -> Result<AddedNode, Error> {
        if peer_address.is_empty() || peer_address.len() > ADDRESS_BYTES_MAX {
            return Err(Error::over(ErrorCode::MALFORMED, ADDRESS_BYTES_MAX, peer_address.len()));
        }
        let payload = self.call(RequestBody::ClusterAdd { peer_address }, Nature::Write).await?;
        let reply = ClusterAddReply::decode(&payload).map_err(Error::reply)?;
        self.0.link().saw(reply.version);
        Ok(AddedNode { version: reply.version, node: reply.node })
    }

    async fn change(&self, body: RequestBody<'_>) -> Result<Version, Error> {
        let payload = self.call(body, Nature::Write).await?;
        let reply = VersionReply::decode(&payload).map_err(Error::reply)?;
        self.0.link().saw(reply.version);
        Ok(reply.version)
    }

    async fn call(&self, body: RequestBody<'_>, nature: Nature) -> Result<bytes::Bytes, Error> {
        self.0.link().call(body, &CallOptions::new(), nature).await
    }
}

fn member(told: wire::ClusterMember<'_>) -> ClusterMember {
    let heard = told.contact_ms != wire::ClusterMember::NEVER;
    let progress = MemberProgress {
        matched: told.matched,
        lag: told.lag,
        last_contact: heard.then(|| Duration::from_millis(told.contact_ms)),
        version: told.version,
        chain: told.chain,
        level: told.level,
    };
    ClusterMember {
        node: told.node,
        voter: told.voter,
        peer_address: told.peer_address.to_owned(),
        client_address: told.client_address.to_owned(),
        progress: told.known.then_some(progress),
    }
}
