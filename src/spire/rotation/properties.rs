//! The slot machine against a model of the servers' real rules: whatever the servers' own rotator, restarts, losses and
//! crashes of ours have left, a rotation ends, is never refused, and says exactly what it could not do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Action, Authority, Held, KeyType, Next, Phase, Record, Slots, Verb, View, next_actions};

/// SPIRE 1.11, as far as it counts (facts, section 4; the errors are the server's).
#[derive(Debug, Clone)]
struct Model {
    key: KeyType,
    servers: Vec<Slots>,
    bundle: BTreeMap<String, Held>,
    made: u32,
    /// Authorities that were put out of reach while they were in the bundle, by whoever it was.
    lost: BTreeSet<String>,
}

impl Model {
    fn new(key: KeyType, servers: usize) -> Self {
        let mut model = Model { key, servers: Vec::new(), bundle: BTreeMap::new(), made: 0, lost: BTreeSet::new() };
        for _ in 0..servers {
            let active = model.make();
            model.servers.push(Slots { active, next: Next::Empty });
        }
        model
    }

    fn make(&mut self) -> Authority {
        self.made += 1;
        let id = format!("k{}", self.made);
        self.bundle.insert(id.clone(), Held::default());
        Authority { id, expires_at: None, upstream: None }
    }

    /// Whatever is in the next slot is overwritten.
    fn prepare(&mut self, server: usize) {
        if let Next::Prepared(out) | Next::Old(out) = self.servers[server].next.clone()
            && self.bundle.contains_key(&out.id)
        {
            self.lost.insert(out.id);
        }
        self.servers[server].next = Next::Prepared(self.make());
    }

    fn activate(&mut self, server: usize, id: &str) -> Result<(), &'static str> {
        let slots = &mut self.servers[server];
        match &slots.next {
            Next::Prepared(next) if next.id == id => {
                let next = next.clone();
                slots.next = Next::Old(std::mem::replace(&mut slots.active, next));
                Ok(())
            }
            Next::Old(next) if next.id == id => Err("only Prepared authorities can be activated"),
            _ => Err("unexpected authority ID"),
        }
    }

    fn taint(&mut self, server: usize, id: &str) -> Result<(), &'static str> {
        let slots = &self.servers[server];
        match &slots.next {
            _ if slots.active.id == id => return Err("unable to taint current local authority"),
            Next::Old(old) if old.id == id => {}
            Next::Prepared(next) if next.id == id => return Err("only Old local authorities can be tainted"),
            _ => return Err("unexpected authority ID"),
        }
        match self.bundle.get_mut(id) {
            None => Err("no ca found with provided subject key ID"),
            Some(held) if held.tainted => Err("root CA is already tainted"),
            Some(held) => {
                held.tainted = true;
                Ok(())
            }
        }
    }

    fn revoke(&mut self, server: usize, id: &str) -> Result<(), &'static str> {
        let slots = &self.servers[server];
        match &slots.next {
            _ if slots.active.id == id => return Err("unable to use current authority"),
            Next::Old(old) if old.id == id => {}
            Next::Prepared(next) if next.id == id => return Err("only Old local authority can be revoked"),
            _ if self.key == KeyType::Jwt => {}
            _ => return Err("only Old local authority can be revoked"),
        }
        match self.bundle.get(id) {
            None => Err("no ca found with provided subject key ID"),
            Some(held) if !held.tainted => Err("it is not possible to revoke an untainted root CA"),
            Some(_) => {
                self.bundle.remove(id);
                Ok(())
            }
        }
    }

    /// The journal keeps both slots, but what is not in the bundle is dropped.
    fn restart(&mut self, server: usize) {
        if let Next::Old(old) = &self.servers[server].next
            && !self.bundle.contains_key(&old.id)
        {
            self.servers[server].next = Next::Empty;
        }
    }

    /// The keys are gone with the claim, or were in memory only.
    fn lose(&mut self, server: usize) {
        let gone: Vec<String> = self.servers[server].authorities().map(|authority| authority.id.clone()).collect();
        self.lost.extend(gone.into_iter().filter(|id| self.bundle.contains_key(id)));
        let active = self.make();
        self.servers[server] = Slots { active, next: Next::Empty };
    }

    /// What the ordinary rotator does when it is time: an old authority counts as an empty slot to it.
    fn rotator(&mut self, server: usize) {
        match self.servers[server].next.clone() {
            Next::Prepared(next) => self.activate(server, &next.id).unwrap(),
            Next::Old(_) | Next::Empty => self.prepare(server),
        }
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        let count = self.servers.len();
        match disturbance {
            Disturbance::Rotator(server) => self.rotator(server % count),
            Disturbance::Restart(server) => self.restart(server % count),
            Disturbance::Lose(server) => self.lose(server % count),
        }
    }

    fn view(&self) -> View {
        let servers = (0..).zip(&self.servers).map(|(number, slots)| (format!("s{number}"), Ok(slots.clone())));
        View { servers: servers.collect(), bundle: self.bundle.clone(), stale: BTreeSet::new() }
    }

    fn apply(&mut self, action: &Action) -> Result<(), &'static str> {
        let server: usize = action.pod[1..].parse().unwrap();
        let id = action.id.as_deref().unwrap_or_default();
        match action.verb {
            Verb::Prepare => {
                let lost = self.lost.len();
                self.prepare(server);
                assert_eq!(self.lost.len(), lost, "prepared over what was still in the bundle: {action:?}");
                Ok(())
            }
            Verb::Activate => self.activate(server, id),
            Verb::Taint => self.taint(server, id),
            Verb::Revoke => self.revoke(server, id),
            Verb::TaintUpstream | Verb::RevokeUpstream | Verb::Restart => Err("there is no upstream authority"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Disturbance {
    Rotator(usize),
    Restart(usize),
    Lose(usize),
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        6 => (0..3_usize).prop_map(Disturbance::Rotator),
        3 => (0..3_usize).prop_map(Disturbance::Restart),
        1 => (0..3_usize).prop_map(Disturbance::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// `before`: how the servers got where they are. `during`: after so many actions of ours the world acts, or we are
    /// killed amid a phase; the next run knows nothing but the record.
    #[test]
    fn from_any_slots_a_rotation_ends_or_says_why_it_cannot(
        jwt: bool,
        count in 1..=3_usize,
        alone: bool,
        before in prop::collection::vec(disturbance(), 0..12),
        during in prop::collection::vec((0..4_usize, disturbance()), 0..8),
    ) {
        let key = if jwt { KeyType::Jwt } else { KeyType::X509 };
        let mut model = Model::new(key, count);
        for disturbance in before {
            model.disturb(disturbance);
        }
        let server = alone.then(|| "s0".to_owned());
        let record = Record::open(&model.view(), server);
        let mut during = during.into_iter();
        let mut next = during.next();
        let mut since = 0;
        let mut phase = Phase::Done;
        for _ in 0..200 {
            let plan = next_actions(key, &model.view(), &record);
            prop_assert!(plan.blocked.is_empty());
            phase = plan.phase;
            // One at a time, and then it is decided anew: as if each action were the last one of a run.
            let Some(action) = plan.actions.first() else { break };
            if let Err(refusal) = model.apply(action) {
                prop_assert!(false, "{:?} was refused: {} in {:?}", action, refusal, model);
            }
            since += 1;
            if let Some((after, disturbance)) = next && since >= after {
                model.disturb(disturbance);
                (next, since) = (during.next(), 0);
            }
        }
        let plan = next_actions(key, &model.view(), &record);
        prop_assert_eq!((phase, plan.phase), (Phase::Done, Phase::Done), "it does not end: {:?}", model);
        for (number, slots) in model.servers.iter().enumerate().filter(|(number, _)| !alone || *number == 0) {
            prop_assert!(!record.is_compromised(&slots.active), "s{} signs with what is to go: {:?}", number, model);
        }
        let left: BTreeSet<&String> = model.bundle.keys().filter(|id| record.compromised.contains(*id)).collect();
        let told: BTreeSet<&String> = plan.orphans.iter().map(|orphan| &orphan.id).collect();
        prop_assert_eq!(&left, &told, "what is left in the bundle is what is said to be left");
        prop_assert!(left.iter().all(|id| model.lost.contains(*id)), "left without need: {:?} {:?}", left, model);
    }

    /// Without a loss and without the rotator, nothing is left over, wherever we are killed.
    #[test]
    fn undisturbed_nothing_is_left(
        jwt: bool,
        slots in prop::collection::vec(0..3_u8, 1..=3),
        restarts in prop::collection::vec(0..3_usize, 0..40),
    ) {
        let key = if jwt { KeyType::Jwt } else { KeyType::X509 };
        let mut model = Model::new(key, slots.len());
        for (server, rotations) in slots.iter().enumerate() {
            // Empty, prepared, or old.
            for _ in 0..*rotations {
                model.rotator(server);
            }
        }
        let record = Record::open(&model.view(), None);
        let mut restarts = restarts.into_iter();
        while let Some(action) = next_actions(key, &model.view(), &record).actions.last() {
            prop_assert_eq!(model.apply(action), Ok(()));
            if let Some(server) = restarts.next() {
                model.restart(server % slots.len());
            }
        }
        prop_assert!(model.bundle.keys().all(|id| !record.compromised.contains(id)), "{:?}", model);
        prop_assert_eq!(model.bundle.len(), slots.len());
    }
}
