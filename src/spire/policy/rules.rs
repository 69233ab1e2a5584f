//! The rules by name.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A rule of SPIRE or of its chart. The ids are stable: scripts and tickets name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleId {
    /// It is known what runs, and what shall run.
    UnknownVersion,
    /// What shall run exists.
    Unpublished,
    /// Servers are at most one minor version apart.
    SkewServer,
    /// A step goes at most one minor version.
    OneMinor,
    /// Servers before agents on the way up, agents before servers on the way down.
    Order,
    /// No agent is newer than the oldest server, patch included.
    AgentNewer,
    /// No agent is more than one minor version older than the newest server.
    AgentTooOld,
    /// A server can open the database that a newer one wrote.
    SchemaAhead,
    /// A server can migrate the database.
    SchemaTooOld,
    /// It is known what the running chart writes.
    ChartUnknown,
    /// The chart that is asked for exists.
    ChartUnpublished,
    /// There are values for the chart.
    ChartValues,
    /// A chart step goes at most one minor version of the chart.
    ChartOneMinor,
    /// SPIRE is not too old for what the chart writes.
    ChartFloor,
    /// SPIRE is not too new for what the chart writes.
    ChartCeiling,
}

impl RuleId {
    /// All rules, each with its id, whether it can be skipped, and what it says.
    pub const TABLE: &'static [(RuleId, &'static str, bool, &'static str)] = &[
        (Self::UnknownVersion, "SPIRE-UNKNOWN-VERSION", false, "every running version and the target is a version"),
        (Self::Unpublished, "SPIRE-UNPUBLISHED", false, "every running version and the target was published"),
        (Self::SkewServer, "SPIRE-SKEW-SERVER", false, "servers are at most one minor version apart"),
        (Self::OneMinor, "SPIRE-ONE-MINOR", false, "a step goes at most one minor version"),
        (Self::Order, "SPIRE-ORDER", false, "up: servers, then agents; down: agents, then servers"),
        (Self::AgentNewer, "SPIRE-AGENT-NEWER", false, "no agent is newer than the oldest server, patch included"),
        (
            Self::AgentTooOld,
            "SPIRE-AGENT-TOO-OLD",
            false,
            "no agent is more than one minor version older than the newest server",
        ),
        (Self::SchemaAhead, "SPIRE-SCHEMA-AHEAD", false, "a server opens no database that is too new for it"),
        (Self::SchemaTooOld, "SPIRE-SCHEMA-TOO-OLD", false, "a server migrates no database that is too old for it"),
        (Self::ChartUnknown, "CHART-UNKNOWN", true, "it is known what the running chart writes"),
        (Self::ChartUnpublished, "CHART-UNPUBLISHED", false, "the chart that is asked for was published"),
        (Self::ChartValues, "CHART-VALUES", false, "there are values for the chart that is asked for"),
        (Self::ChartOneMinor, "CHART-ONE-MINOR", true, "a chart step goes at most one minor version of the chart"),
        (Self::ChartFloor, "CHART-FLOOR", false, "SPIRE is new enough for what the chart writes"),
        (Self::ChartCeiling, "CHART-CEILING", false, "SPIRE is old enough for what the chart writes"),
    ];

    fn row(self) -> &'static (RuleId, &'static str, bool, &'static str) {
        // The table is in the order of the variants: a test compares.
        &Self::TABLE[self as usize]
    }

    /// Its id.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// What it says.
    #[must_use]
    pub fn says(self) -> &'static str {
        self.row().3
    }

    /// Whether nothing lifts it.
    #[must_use]
    pub fn is_mandatory(self) -> bool {
        !self.row().2
    }

    /// The flag that lifts it.
    #[must_use]
    pub fn skip_flag(self) -> Option<String> {
        (!self.is_mandatory()).then(|| format!("--skip-rule {self}"))
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RuleId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(text)).map(|row| row.0);
        known.ok_or_else(|| {
            let ids: Vec<&str> = Self::TABLE.iter().filter(|row| row.2).map(|row| row.1).collect();
            format!("there is no such rule; rules that can be skipped: {}", ids.join(", "))
        })
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A rule that is or would be broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub rule: RuleId,
    /// Whether nothing lifts it.
    pub mandatory: bool,
    /// What breaks it, one line each.
    pub facts: Vec<String>,
    /// What can be done instead, in one sentence.
    pub way_out: String,
    /// The flag that lifts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_with: Option<String>,
}

impl Violation {
    /// `rule` broken by `facts`.
    #[must_use]
    pub fn new(rule: RuleId, facts: Vec<String>, way_out: impl Into<String>) -> Self {
        let way_out = way_out.into();
        Violation { rule, mandatory: rule.is_mandatory(), facts, way_out, skip_with: rule.skip_flag() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_rules() {
        for (n, (rule, id, skippable, says)) in RuleId::TABLE.iter().enumerate() {
            assert_eq!(*rule as usize, n);
            assert_eq!(rule.as_str().parse::<RuleId>().as_ref(), Ok(rule));
            assert_eq!(rule.is_mandatory(), !skippable);
            assert!(id.starts_with("SPIRE-") || id.starts_with("CHART-"), "{id}");
            assert!(!says.is_empty() && !says.ends_with('.'), "{id}");
        }
    }

    #[test]
    fn no_rule_of_spire_can_be_skipped() {
        for (rule, id, ..) in RuleId::TABLE {
            assert!(rule.is_mandatory() || id.starts_with("CHART-"), "{id}");
        }
        assert_eq!(RuleId::ChartOneMinor.skip_flag().as_deref(), Some("--skip-rule CHART-ONE-MINOR"));
        assert_eq!(RuleId::OneMinor.skip_flag(), None);
        assert!("SPIRE-NOTHING".parse::<RuleId>().unwrap_err().contains("CHART-ONE-MINOR"));
    }
}
