//! What the workload writes: the certificates of each SVID, our line under them, and each change of the connection.

use std::io::{self, Write};
use std::path::Path;

use jiff::tz::TimeZone;
use spiffe::X509Context;
use tokio::time::Instant;

use crate::error::{Failure, Kind, io_failure};
use crate::workload::record::{Connection, Line, SCHEMA, State, Update};
use crate::workload::svid;
use crate::world::Clock;

/// The log, and what was last said in it.
pub(super) struct Log<'a> {
    clock: &'a dyn Clock,
    out: &'a mut dyn Write,
    sequence: u64,
    attempts: u64,
    since: Instant,
    last: Option<(State, String)>,
}

impl<'a> Log<'a> {
    /// A log in which nothing was said yet.
    pub(super) fn new(clock: &'a dyn Clock, out: &'a mut dyn Write) -> Self {
        Log { clock, out, sequence: 0, attempts: 0, since: Instant::now(), last: None }
    }

    /// How many updates were written.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// An attempt to connect begins.
    pub(super) fn attempt(&mut self) {
        self.attempts += 1;
    }

    /// Writes an update: for each SVID the certificates in PEM under the line that the lab's Go workload writes,
    /// then our line.
    ///
    /// # Errors
    /// Outside: it cannot be written. Inside: what came are no certificates; nothing was written.
    pub(super) fn update(&mut self, context: &X509Context) -> Result<Result<(), svid::Unreadable>, Failure> {
        let received_at = self.clock.now();
        let mut updates = Vec::with_capacity(context.svids().len());
        for (position, svid) in context.svids().iter().enumerate() {
            let chain: Vec<&[u8]> = svid.cert_chain().iter().map(spiffe::Certificate::as_bytes).collect();
            let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain());
            let authorities: Vec<&[u8]> =
                bundle.iter().flat_map(|bundle| bundle.authorities()).map(spiffe::Certificate::as_bytes).collect();
            let facts = match svid::read(&chain, &authorities) {
                Ok(facts) => facts,
                Err(unreadable) => return Ok(Err(unreadable)),
            };
            let update = Update {
                schema: SCHEMA,
                sequence: self.sequence + 1,
                svid: position,
                received_at: Some(received_at),
                spiffe_id: svid.spiffe_id().to_string(),
                hint: svid.hint().map(str::to_owned),
                serial: Some(facts.serial),
                not_before: facts.not_before,
                not_after: facts.not_after,
                issuer_key_id: facts.issuer_key_id,
                anchor_key_id: facts.anchor_key_id,
                bundle_key_ids: facts.bundle_key_ids,
                authorities: authorities.len(),
                verified: Some(facts.verified),
            };
            updates.push((svid::pem(&chain), update));
        }
        self.change(State::Following, "receiving SVIDs")?;
        self.sequence += 1;
        (self.attempts, self.since) = (0, Instant::now());
        let time = received_at.to_zoned(TimeZone::UTC).strftime("%Y/%m/%d %H:%M:%S").to_string();
        for (pem, update) in updates {
            writeln!(self.out, "{time} SVID updated for \"{}\":\n{pem}", update.spiffe_id)
                .and_then(|()| Line::Update(update).write(self.out))
                .map_err(|error| cannot_write(&error))?;
        }
        Ok(Ok(()))
    }

    /// Writes that the connection changed, if it did.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn change(&mut self, state: State, message: &str) -> Result<(), Failure> {
        if self.last.as_ref().is_some_and(|(last, said)| *last == state && said == message) {
            return Ok(());
        }
        self.last = Some((state, message.to_owned()));
        let connection = Connection {
            schema: SCHEMA,
            at: self.clock.now(),
            state,
            message: message.to_owned(),
            attempts: self.attempts,
            after_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Line::Connection(connection).write(self.out).map_err(|error| cannot_write(&error))
    }
}

fn cannot_write(error: &io::Error) -> Failure {
    let failure = io_failure("write", Path::new("standard output"), error);
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Kind::Unexpected, "nobody reads the log any more"),
        _ => failure,
    }
}
