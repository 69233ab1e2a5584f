//! SVIDs can live as long as they are meant to.

use jiff::SignedDuration;
use serde_json::Value;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};

/// A server signs with an authority until a sixth of its life is left (SPIRE, `MaxSVIDTTLForCATTL`), and cuts off what
/// would outlive it.
const PART: i32 = 6;
/// SPIRE's defaults.
const CA: SignedDuration = SignedDuration::from_hours(24);
const X509: SignedDuration = SignedDuration::from_hours(1);

pub(super) const CHECK: Check = Check {
    id: "spire-svid-ttl",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "SVIDs are meant to live at most a sixth as long as the authorities",
    why: "A server cuts off an SVID that would outlive its authority; the time that agents and workloads have when servers are down is then shorter than it looks.",
    hint: "raise `ca_ttl` or lower `default_x509_svid_ttl` (`spire-server.caTTL`, `defaultX509SvidTTL` in the values file)",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let conf = &evidence.server_conf.as_ref()?["server"];
    let time = |field: &str, default: SignedDuration| match &conf[field] {
        Value::Null => Ok(default),
        Value::String(text) => text.parse().map_err(|_| format!("{field} is `{text}`, which is no time")),
        _ => Err(format!("{field} is no text")),
    };
    let (ca, svid) = (time("ca_ttl", CA)?, time("default_x509_svid_ttl", X509)?);
    if svid > ca / PART {
        failed(format!("SVIDs are meant to live {svid:#}, and a sixth of an authority's life is {:#}", ca / PART))
            .verdict()
    } else {
        passed(format!("{svid:#} of {ca:#}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases};

    fn times(evidence: &mut Evidence, ca: &str, svid: &str) {
        evidence.server_conf = Ok(json!({"server": {"ca_ttl": ca, "default_x509_svid_ttl": svid}}));
    }

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| times(e, "24h", "5h"), Expect::Fails("live 5h, and a sixth of an authority's life is 4h")),
                (&|e| times(e, "24h", "4h"), Expect::Passes),
                (&|e| times(e, "soon", "4h"), Expect::Unknown("which is no time")),
                (&|e| e.server_conf = Err("no such ConfigMap".into()), Expect::Unknown("no such ConfigMap")),
            ],
        );
    }
}
