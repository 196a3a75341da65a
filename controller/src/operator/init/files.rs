//! What is in the folders of a new cluster.

use std::net::IpAddr;
use std::path::Path;

use dugong_topology::Address;

use super::{AUTHORITY_DAYS, Authority, MACHINE_DAYS, Machine, Options, Signed};
use crate::config::Network;
use crate::credentials::{Credentials, Password};
use crate::run::Failure;

const POSTGRES_PORT: u16 = 5432;
const HTTP_PORT: u16 = 8008;
const ETCD_PORT: u16 = 2379;
const DNS_PORT: u16 = 53;

/// A folder, and its files with their content.
pub(super) struct Folder {
    pub(super) name: String,
    pub(super) files: Vec<(String, String)>,
}

/// A cluster to be.
pub(super) struct Plan<'a> {
    options: &'a Options,
    authority: Authority,
    credentials: String,
    /// Whoever has it may change things.
    token: String,
    /// Whoever has it may read.
    read_token: String,
}

impl<'a> Plan<'a> {
    pub(super) fn new(options: &'a Options) -> Result<Self, Failure> {
        let name = format!("Dugong cluster {}", options.cluster);
        let token = || Ok(format!("{}\n", Password::fresh().map_err(Failure::runtime)?.expose()));
        let credentials = Credentials::generate().map_err(Failure::runtime)?;
        let credentials = serde_json::to_string_pretty(&credentials).map_err(Failure::runtime)?;
        Ok(Self {
            options,
            authority: Authority::new(&name).map_err(Failure::runtime)?,
            credentials: credentials + "\n",
            token: token()?,
            read_token: token()?,
        })
    }

    pub(super) fn folders(&self) -> Result<Vec<Folder>, Failure> {
        let machines = self.options.instances.iter().map(|machine| self.machine(machine));
        let mut folders = machines.collect::<Result<Vec<_>, _>>()?;
        folders.push(self.proxy());
        folders.push(self.authority());
        Ok(folders)
    }

    fn machine(&self, machine: &Machine) -> Result<Folder, Failure> {
        let Options { cluster, zone, .. } = self.options;
        let id = machine.id.as_str();
        let roles = [id, "controller", "primary", "sync", "replica"];
        let names = roles.map(|role| format!("{role}.{cluster}.{zone}"));
        let names = [id, &machine.host].into_iter().chain(names.iter().map(String::as_str));
        let names: Vec<_> = names.collect();
        let Signed { certificate, key } =
            self.authority.sign(&names).map_err(|error| unsigned(machine, &error))?;
        let files = [
            ("controller.toml".to_owned(), self.controller_toml(machine)),
            ("credentials.json".to_owned(), self.credentials.clone()),
            (format!("{id}.crt"), certificate),
            (format!("{id}.key"), key),
            ("ca.crt".to_owned(), self.authority.certificate()),
            ("token".to_owned(), self.token.clone()),
            ("read-token".to_owned(), self.read_token.clone()),
            ("dugong-controller.service".to_owned(), self.controller_service(machine)),
        ];
        Ok(Folder { name: id.to_owned(), files: files.into() })
    }

    fn controller_toml(&self, machine: &Machine) -> String {
        let Options { instances, etcd, networks, proxies, cluster, .. } = self.options;
        let id = machine.id.as_str();
        let folder = self.config_dir(id);
        let path = |name: &str| quoted(&format!("{folder}/{name}"));
        let listen = |port| quoted(&at(machine, port));
        let addresses = instances.iter().filter_map(|m| m.host.parse::<IpAddr>().ok());
        let mut from = networks.clone();
        for address in addresses.chain(proxies.iter().copied()) {
            if !from.iter().any(|network| network.contains(address)) {
                from.push(Network::of(address));
            }
        }
        let members = instances.iter().map(|m| format!("http://{}", at(m, ETCD_PORT)));
        let etcd = if etcd.is_empty() { members.collect() } else { etcd.clone() };
        // Of an etcd with TLS nothing is known here but that it needs one.
        let hidden = if etcd.iter().any(|url| url.starts_with("https:")) { "" } else { "#" };
        let data = self.options.data_dir.join(id);
        fill(
            include_str!("controller.toml"),
            &[
                ("instance", id.to_owned()),
                ("host", machine.host.clone()),
                ("config_file", format!("{folder}/controller.toml")),
                ("cluster", quoted(cluster.as_str())),
                ("instance_text", quoted(id)),
                ("dir", quoted(&data.to_string_lossy())),
                ("credentials", path("credentials.json")),
                ("count", instances.len().to_string()),
                ("postgres_listen", listen(POSTGRES_PORT)),
                ("networks", list(from.iter().map(ToString::to_string))),
                ("cert", path(&format!("{id}.crt"))),
                ("key", path(&format!("{id}.key"))),
                ("ca", path("ca.crt")),
                ("http_listen", listen(HTTP_PORT)),
                ("token", path("token")),
                ("read_token", path("read-token")),
                ("etcd", list(etcd.into_iter())),
                ("etcd_ca", format!("{hidden}ca = {}", path("etcd-ca.crt"))),
                ("etcd_password", path("etcd-password")),
                ("dns_listen", listen(DNS_PORT)),
                ("zone", quoted(&self.options.zone)),
            ],
        )
    }

    fn controller_service(&self, machine: &Machine) -> String {
        fill(
            include_str!("dugong-controller.service"),
            &[
                ("instance", machine.id.to_string()),
                ("host", machine.host.clone()),
                (
                    "config_file",
                    format!("{}/controller.toml", self.config_dir(machine.id.as_str())),
                ),
                ("config_dir", self.config_dir(machine.id.as_str())),
                ("data_dir", self.options.data_dir.display().to_string()),
            ],
        )
    }

    fn proxy(&self) -> Folder {
        let Options { instances, cluster, .. } = self.options;
        let folder = self.proxy_dir();
        let path = |name: &str| quoted(&format!("{folder}/{name}"));
        let file = ("config_file", format!("{folder}/proxy.toml"));
        let controllers = instances.iter().map(|m| format!("https://{}", at(m, HTTP_PORT)));
        let toml = fill(
            include_str!("proxy.toml"),
            &[
                ("cluster", cluster.to_string()),
                file.clone(),
                ("controllers", list(controllers)),
                ("ca", path("ca.crt")),
                ("cert", path("proxy.crt")),
                ("key", path("proxy.key")),
                ("read_token", path("read-token")),
            ],
        );
        let service = include_str!("dugong-proxy.service");
        let service = fill(service, &[("cluster", cluster.to_string()), file]);
        let files = [
            ("proxy.toml".to_owned(), toml),
            ("ca.crt".to_owned(), self.authority.certificate()),
            ("read-token".to_owned(), self.read_token.clone()),
            ("dugong-proxy.service".to_owned(), service),
        ];
        Folder { name: "proxy".to_owned(), files: files.into() }
    }

    fn authority(&self) -> Folder {
        let readme = format!(
            "ca.key signs the certificates of the cluster {}: whoever has it can pass for any of \
             its machines.\n\
             Keep this folder where no machine of the cluster can read it. It is needed again for a \
             new machine, and\nto renew certificates (docs/machines.md): those of the machines count for {} \
             days, that of the\nauthority for {}.\n",
            self.options.cluster, MACHINE_DAYS, AUTHORITY_DAYS
        );
        let files = [
            ("ca.crt".to_owned(), self.authority.certificate()),
            ("ca.key".to_owned(), self.authority.key()),
            ("README".to_owned(), readme),
        ];
        Folder { name: "ca".to_owned(), files: files.into() }
    }

    /// Where the folder of an instance will be on its machine.
    fn config_dir(&self, id: &str) -> String {
        self.options.config_dir.trim_end_matches('/').replace("{}", id)
    }

    /// Where the proxies' folder will be: not in an instance's, which may be on the same machine.
    fn proxy_dir(&self) -> String {
        let dir = self.options.config_dir.trim_end_matches('/');
        if dir.contains("{}") { self.config_dir("proxy") } else { format!("{dir}-proxy") }
    }

    pub(super) fn next_steps(&self, out: &Path) -> String {
        let Options { instances, data_dir, .. } = self.options;
        let (out, data) = (out.display(), data_dir.display());
        let width = instances.iter().map(|m| out.to_string().len() + 1 + m.id.as_str().len()).max();
        let width = width.unwrap_or(0);
        let copies = instances.iter().map(|m| {
            let from = format!("{out}/{}", m.id);
            format!("     {from:width$}  to {}, as {}\n", m.host, self.config_dir(m.id.as_str()))
        });
        let copies: String = copies.collect();
        let folder = self.config_dir(instances.first().map_or("", |m| m.id.as_str()));
        let proxy = self.proxy_dir();
        format!(
            "Written to {out}. What comes next:\n\n\
             1. Keep {out}/ca for yourself: its key can sign a machine that passes for any other.\n\
             2. Copy each folder to its machine, and give it to PostgreSQL's user:\n{copies}     \
             chown -R postgres: {folder} && install -d -o postgres -g postgres -m 700 {data}\n\
             3. See that etcd answers, and start each controller as that user, or by the unit file:\n     \
             dugong-controller --config {folder}/controller.toml\n\
             4. Copy {out}/proxy to each proxy's machine, as {proxy}, and start it:\n     \
             dugong-proxy --config {proxy}/proxy.toml\n\
             5. Connect as app to its database app, with the password in credentials.json:\n     \
             psql 'host=PROXY port=6432 user=app dbname=app'\n"
        )
    }
}

fn unsigned(machine: &Machine, error: &rcgen::Error) -> Failure {
    Failure::Usage(format!("no certificate can be made for {}: {error}", machine.host))
}

fn at(machine: &Machine, port: u16) -> String {
    Address { host: machine.host.clone(), port }.to_string()
}

/// As TOML writes a text.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// As TOML writes a list of texts.
fn list(items: impl Iterator<Item = String>) -> String {
    toml::Value::Array(items.map(Into::into).collect()).to_string()
}

/// Puts values into the places of a template.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    text
}
