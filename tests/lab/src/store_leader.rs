//! Which member of the store leads: its loss costs an election, and gives every lease its full time
//! again.
//!
//! Source: etcd 3.4, `lease.Lessor.Promote`: "extends the expiry time of all leases".

use std::process::{Command, Stdio};

use crate::cluster::Cluster;
use crate::network::HostId;
use crate::papers;
use crate::plan::STORE_CLIENT;

/// The host whose member says of itself that it leads; none while there is an election, or where
/// the store has no members.
pub fn leader(cluster: &Cluster) -> Option<HostId> {
    cluster.hosts().store.iter().copied().find(|host| leads(cluster, *host).unwrap_or(false))
}

fn leads(cluster: &Cluster, host: HostId) -> Option<bool> {
    let network = cluster.network();
    let folder = cluster.root().join(network.name(host));
    let file = |name: &str| folder.join(name).display().to_string();
    let (scheme, papers) = match papers::believed(cluster.root()) {
        None => ("http", Vec::new()),
        Some(ca) => {
            let [ca, cert, key] = [ca.display().to_string(), file("host.crt"), file("host.key")];
            let papers =
                [format!("--cacert={ca}"), format!("--cert={cert}"), format!("--key={key}")];
            ("https", papers.to_vec())
        }
    };
    let output = Command::new("nsenter")
        .arg(format!("--net={}", network.namespace(host).handle().display()))
        .args(["--", "etcdctl", "--command-timeout=1s", "--dial-timeout=1s"])
        .arg(format!("--endpoints={scheme}://{}:{STORE_CLIENT}", network.address(host)))
        .args(papers)
        .args(["endpoint", "status", "--write-out=fields"])
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    leads_by(&String::from_utf8_lossy(&output.stdout))
}

/// Whether the fields of a member's status name itself as the leader.
fn leads_by(fields: &str) -> Option<bool> {
    let field = |name: &str| {
        let line = fields.lines().find(|line| line.starts_with(&format!("\"{name}\"")))?;
        line.split(':').nth(1).map(str::trim)
    };
    Some(field("Leader")? == field("MemberID")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_leads_where_it_names_itself() {
        let fields = |member: u64, leader: u64| {
            format!("\"ClusterID\" : 9\n\"MemberID\" : {member}\n\"Leader\" : {leader}\n")
        };
        assert_eq!(leads_by(&fields(3, 3)), Some(true));
        assert_eq!(leads_by(&fields(3, 4)), Some(false));
        assert_eq!(leads_by("Error: context deadline exceeded"), None);
    }
}
