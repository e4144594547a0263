//! The members of a cluster, and changes of them.

use crate::{
    arguments::{Cluster, ClusterCommand, Output},
    data::written,
    failure::Failure,
    form::{render, table},
    print,
    session::Session,
};
use quantadb::client::{ClusterMember, ClusterStatus, MemberProgress, NodeId};
use serde_json::{Value, json};

pub async fn cluster(session: &Session, arguments: &Cluster) -> Result<(), Failure> {
    let client = session.connect().await?;
    let cluster = client.cluster();
    let done = match &arguments.command {
        ClusterCommand::Status(_) => {
            let status = cluster.status().await.map_err(|error| session.read_failed(error))?;
            return print(&shown(session.form.output, &status));
        }
        ClusterCommand::Add(add) => {
            let added = cluster.add(&add.address).await.map_err(|error| session.write_failed(error))?;
            let (node, version) = (added.node.0, added.version);
            return print(&match session.form.output {
                Output::Table => format!("node {node}, version {version}"),
                Output::Json => format!(r#"{{"node":{node},"version":{version}}}"#),
                Output::Raw => node.to_string(),
            });
        }
        ClusterCommand::Remove(remove) => cluster.remove(NodeId(remove.node)).await,
        ClusterCommand::Transfer(transfer) => cluster.transfer(transfer.node.map(NodeId)).await,
        ClusterCommand::Promote(promote) => cluster.promote(NodeId(promote.node)).await,
    };
    written(session, done.map_err(|error| session.write_failed(error))?)
}

const HEADERS: &[&str] =
    &["NODE", "ROLE", "LEADER", "PEER", "CLIENT", "MATCH", "LAG", "LAST CONTACT", "VERSION", "CHAIN", "LEVEL"];

fn shown(output: Output, status: &ClusterStatus) -> String {
    let cells = status.members.iter().map(|member| cells(status, member));
    match output {
        Output::Json => json(status).to_string(),
        Output::Raw => cells.map(|cells| cells.join("\t") + "\n").collect(),
        Output::Table => {
            let leader = status.leader.map_or("not known".to_owned(), |leader| leader.0.to_string());
            let mut rows = table(HEADERS);
            rows.add_rows(cells);
            format!("leader {leader}, term {}, version {}\n{}", status.term.0, status.version, render(&rows))
        }
    }
}

fn role(member: &ClusterMember) -> &'static str {
    if member.voter { "voter" } else { "learner" }
}

fn chain(progress: &MemberProgress) -> String {
    format!("{:016x}", progress.chain)
}

/// A member as a row; what is not known is a dash.
fn cells(status: &ClusterStatus, member: &ClusterMember) -> Vec<String> {
    let known = |show: &dyn Fn(&MemberProgress) -> String| member.progress.as_ref().map_or("-".to_owned(), show);
    let contact = |progress: &MemberProgress| {
        progress.last_contact.map_or("never".to_owned(), |since| format!("{} ms", since.as_millis()))
    };
    vec![
        member.node.0.to_string(),
        role(member).to_owned(),
        if status.leader == Some(member.node) { "yes" } else { "no" }.to_owned(),
        member.peer_address.clone(),
        member.client_address.clone(),
        known(&|progress| progress.matched.to_string()),
        known(&|progress| progress.lag.to_string()),
        known(&contact),
        known(&|progress| progress.version.to_string()),
        known(&chain),
        known(&|progress| progress.level.to_string()),
    ]
}

/// The status as JSON; what is not known is null.
fn json(status: &ClusterStatus) -> Value {
    let member = |member: &ClusterMember| {
        let known = member.progress.as_ref();
        json!({
            "node": member.node.0,
            "role": role(member),
            "leader": status.leader == Some(member.node),
            "peer_address": member.peer_address,
            "client_address": member.client_address,
            "match": known.map(|progress| progress.matched),
            "lag": known.map(|progress| progress.lag),
            "last_contact_ms": known.and_then(|progress| progress.last_contact).map(|since| since.as_millis() as u64),
            "version": known.map(|progress| progress.version.0),
            "chain": known.map(chain),
            "level": known.map(|progress| progress.level),
        })
    };
    json!({
        "leader": status.leader.map(|leader| leader.0),
        "term": status.term.0,
        "version": status.version.0,
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
    })
}
