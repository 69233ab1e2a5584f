//! Ports of this machine: taking one to listen on, and who has it if it is taken.
//!
//! Both loopback addresses are taken, because a browser may try either for `localhost`: with only one of them ours, a
//! page could quietly be somebody else's.

use std::fmt::Write;
use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::error::Failure;

/// How many ports after the usual one are tried before any is taken.
const NEIGHBOURS: u16 = 10;
/// The state LISTEN in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Which port is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// This one if it is free, else the next that is.
    Usual(u16),
    /// This one and no other. 0 is any.
    Exactly(u16),
}

/// A port that is ours.
#[derive(Debug)]
pub struct Taken {
    /// Its number.
    pub port: u16,
    /// One for each loopback address of this machine.
    pub listeners: Vec<TcpListener>,
    /// Who has the port that was wanted, if another was taken.
    pub instead_of: Option<(u16, String)>,
}

/// Takes a port. Must be called on a tokio runtime.
///
/// # Errors
/// It is somebody else's and no other would do, or this user may not have it.
pub async fn take(wish: Wish) -> Result<Taken, Failure> {
    let (wanted, others) = match wish {
        Wish::Usual(port) => (port, true),
        Wish::Exactly(port) => (port, false),
    };
    let refused = match listen(wanted).await {
        Ok((port, listeners)) => return Ok(Taken { port, listeners, instead_of: None }),
        Err(error) => error,
    };
    if refused.kind() != ErrorKind::AddrInUse {
        return Err(failure(wanted, &refused));
    }
    let holder = holder(wanted).unwrap_or_else(|| "another program".to_owned());
    if !others {
        return Err(Failure::prerequisite(format!("port {wanted} is taken by {holder}")).next(format!(
            "end it, then run the same command again; `lsof -nP -iTCP:{wanted} -sTCP:LISTEN` shows more"
        )));
    }
    for port in (1..=NEIGHBOURS).filter_map(|step| wanted.checked_add(step)).chain([0]) {
        if let Ok((port, listeners)) = listen(port).await {
            return Ok(Taken { port, listeners, instead_of: Some((wanted, holder)) });
        }
    }
    Err(failure(wanted, &refused))
}

fn failure(port: u16, error: &Error) -> Failure {
    let failure = Failure::prerequisite(format!("port {port} cannot be listened on: {error}"));
    match error.kind() {
        ErrorKind::PermissionDenied => failure.next("ports below 1024 are root's: choose another with `--port`"),
        _ => failure.next("choose another with `--port`"),
    }
}

/// Listens on both loopback addresses; a machine without IPv6 has only the one.
async fn listen(port: u16) -> Result<(u16, Vec<TcpListener>), Error> {
    let first = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let port = first.local_addr()?.port();
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await {
        Ok(second) => Ok((port, vec![first, second])),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(error),
        Err(_) => Ok((port, vec![first])),
    }
}

/// Who listens on `port`, as far as this user may know: `nginx (pid 4711)`, or `a program of user id 0`.
#[must_use]
pub fn holder(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let sockets = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let (inode, user) = sockets.into_iter().find_map(|table| listener(&table, port))?;
    Some(process_of(&inode).unwrap_or_else(|| {
        let mut words = format!("a program of user id {user}");
        if user == "0" {
            // docker-proxy runs as root.
            let _ = write!(words, " (perhaps a container's port: `docker ps` shows them)");
        }
        words
    }))
}

/// Inode and user id of the socket that listens on `port`, in the format of `/proc/net/tcp` (proc(5)).
fn listener(table: &str, port: u16) -> Option<(String, String)> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, user, _, inode, ..] = fields.as_slice() else { return None };
        let (_, number) = local.rsplit_once(':')?;
        let is_it = *state == LISTEN && u16::from_str_radix(number, 16) == Ok(port);
        is_it.then(|| ((*inode).to_owned(), (*user).to_owned()))
    })
}

/// The process that holds a socket; only this user's own can be looked at.
fn process_of(inode: &str) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid =
            process.file_name().into_string().ok().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
        let mut open = std::fs::read_dir(process.path().join("fd")).ok()?.flatten();
        open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == socket.as_str())).then(|| {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{} (pid {pid})", name.trim())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0000 100 0 0 10 0
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000 20 4 30 10 -1
   2: garbage
";

    #[test]
    fn who_listens_is_read_from_the_table_of_sockets() {
        assert_eq!(listener(TABLE, 8080), Some(("31337".into(), "1000".into())));
        // A connection is no listener.
        assert_eq!(listener(TABLE, 8081), None);
        assert_eq!(listener("", 8080), None);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_holder() {
        let ours = take(Wish::Exactly(0)).await.unwrap();
        assert!(ours.port > 0 && ours.instead_of.is_none());
        let failure = take(Wish::Exactly(ours.port)).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Prerequisite);
        assert!(failure.message.starts_with(&format!("port {} is taken by ", ours.port)), "{failure}");
        if cfg!(target_os = "linux") {
            assert!(failure.message.contains(&format!("(pid {})", std::process::id())), "{failure}");
        }
        let other = take(Wish::Usual(ours.port)).await.unwrap();
        assert_ne!(other.port, ours.port);
        assert_eq!(other.instead_of.map(|(port, _)| port), Some(ours.port));
    }

    #[tokio::test]
    async fn a_port_of_only_one_loopback_address_is_not_free() {
        let Ok(half) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else { return };
        let port = half.local_addr().unwrap().port();
        assert!(take(Wish::Exactly(port)).await.is_err());
    }
}
