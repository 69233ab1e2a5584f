//! The report in one line.

use std::fmt;

use crate::workload::meter::report::{Figure, Report};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = &self.total;
        let ms = |figure: &Figure| match figure.why_unknown() {
            None => format!("{} ms", figure.at_least()),
            Some(why) if figure.at_least() == 0 => format!("unknown ({why})"),
            Some(why) => format!("at least {} ms, the rest unknown ({why})", figure.at_least()),
        };
        write!(f, "without a valid SVID: {}", ms(&total.no_valid_svid_ms))?;
        write!(f, "; {} pods, Workload API silent: {}", total.pods, ms(&total.api_silent_ms))?;
        if let Some(renewals) = total.renewals.known() {
            write!(f, "; {renewals} renewals")?;
        }
        if total.new_pods.started > 0 {
            write!(
                f,
                "; {} starts, waiting for an SVID: {}",
                total.new_pods.started,
                ms(&total.new_pods.without_identity_ms)
            )?;
        }
        Ok(())
    }
}
