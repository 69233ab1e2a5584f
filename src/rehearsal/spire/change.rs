//! What administrators change through a server: entries that are deleted, agents that are banned or evicted.

use jiff::{SignedDuration, Timestamp};

use super::Spire;

/// The controller manager puts a deleted entry back so long after (facts, section 9).
const BACK_AFTER: SignedDuration = SignedDuration::from_secs(9);

impl Spire {
    /// Deletes the entry of that id; whether there was one.
    pub(in crate::rehearsal) fn delete_entry(&mut self, database: &str, id: &str, now: Timestamp) -> bool {
        let Some(database) = self.databases.get_mut(database) else { return false };
        let Some(uid) = database.entries.iter().find(|(_, entry)| entry.id == id).map(|(uid, _)| uid.clone()) else {
            return false;
        };
        database.entries.remove(&uid);
        self.since.insert(format!("{uid}/entry"), now + BACK_AFTER - super::manager::ENTRY_DELAY);
        true
    }

    /// Bans the agent with that path; whether there is one.
    pub(in crate::rehearsal) fn ban_agent(&mut self, database: &str, path: &str) -> bool {
        let Some(database) = self.databases.get_mut(database) else { return false };
        let Some(agent) = database.agents.values_mut().find(|agent| agent.path == path) else { return false };
        agent.banned = true;
        let node = agent.node.clone();
        // It learns of it at its next sync, and ends; started again, it is not let in.
        self.agents.retain(|_, agent| agent.node != node);
        true
    }

    /// Forgets the agent with that path; whether there was one.
    pub(in crate::rehearsal) fn evict_agent(&mut self, database: &str, path: &str) -> bool {
        let Some(database) = self.databases.get_mut(database) else { return false };
        let Some(uid) = database.agents.iter().find(|(_, agent)| agent.path == path).map(|(uid, _)| uid.clone()) else {
            return false;
        };
        let node = database.agents.remove(&uid).map(|agent| agent.node).unwrap_or_default();
        // It attests again.
        self.agents.retain(|_, agent| agent.node != node);
        true
    }
}
