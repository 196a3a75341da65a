//! PgBouncer, which always follows the protocol, and logs in at the server by itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::account::{self, Account};
use crate::proxies::contenders::{Pooling, Stage};

/// What is said beside the pooling and the ports, and as many server connections as clients.
///
/// Nothing is logged while connections come and go.
pub(super) const SETTINGS: &str = "\
unix_socket_dir =
auth_type = any
client_tls_sslmode = allow
server_idle_timeout = 0
log_connections = 0
log_disconnections = 0
listen_backlog = 4096
ignore_startup_parameters = extra_float_digits
";

pub(super) fn command(
    pooling: Pooling,
    stage: &Stage,
    [port, server]: [u16; 2],
    prefix: &Path,
) -> anyhow::Result<Command> {
    let pooling = match pooling {
        Pooling::Session => "session",
        Pooling::Transaction => "transaction",
    };
    let (connections, certificate) = (stage.connections, &stage.certificate);
    let users = prefix.with_extension("users");
    fs::write(&users, "\"postgres\" \"\"\n")?;
    let file = prefix.with_extension("ini");
    let text = format!(
        "[databases]\npostgres = host=127.0.0.1 port={server} dbname=postgres user=postgres\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_file = {}\n\
         pool_mode = {pooling}\n\
         max_client_conn = {connections}\ndefault_pool_size = {connections}\n\
         client_tls_cert_file = {}\nclient_tls_key_file = {}\n{SETTINGS}",
        users.display(),
        certificate.cert.display(),
        certificate.key.display(),
    );
    fs::write(&file, text)?;
    let mut command = account::command("pgbouncer", Account::Server)?;
    command.arg(file).current_dir("/");
    Ok(command)
}
