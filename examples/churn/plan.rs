//! Who will do what: a function of the seed and of nothing else.
//!
//! The plan is a list of *waves*; a wave is a list of *visits* that happen at the same time; a
//! visit is what one peer does, on one connection or a few. No peer comes twice, and the server is
//! empty between two waves. So whether a visit is refused depends on the visit alone, and the
//! number of refusals by kind is known before the first connection opens.

use std::fmt;
use std::ops::AddAssign;

use fastrand::Rng;

use crate::budget::PEER_CONNECTIONS;

/// From this many connections on, every kind of conduct takes part.
pub const SHOWCASE_CONNECTIONS: u32 = 100;

/// The concurrency that the largest visit needs.
pub const SHOWCASE_CONCURRENCY: u32 = PEER_CONNECTIONS + 1;

/// Of every thousand connections, how many misbehave in which way.
const PER_MILLE: [(Conduct, u32); 9] = [
    (Conduct::NeverReads, 20),
    (Conduct::Resets, 20),
    (Conduct::HalfCloses, 20),
    (Conduct::FallsSilent, 20),
    (Conduct::NeverSpeaks, 10),
    (Conduct::Crowds, 20),
    (Conduct::KnocksOnRetired, 10),
    (Conduct::SendsHugeFrame, 5),
    (Conduct::WantsHugeWindow, 5),
];

/// What one peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Opens a few connections, exchanges frames on each, and closes them in order.
    Behaves {
        /// How many connections; never more than a peer may have.
        connections: u32,
    },
    /// Sends frames and never reads an echo, until the server ends it.
    NeverReads,
    /// Resets the connection in the middle of a frame.
    Resets,
    /// Closes its sending side in the middle of a frame, then reads what it is owed.
    HalfCloses,
    /// Introduces itself, then says nothing until the server ends it.
    FallsSilent,
    /// Connects and doesn't even introduce itself.
    NeverSpeaks,
    /// Opens as many connections as a peer may have, and then one more.
    Crowds,
    /// Connects to the listener that takes no connections any more.
    KnocksOnRetired,
    /// Sends a frame that is larger than all the memory a connection may have.
    SendsHugeFrame,
    /// Asks for a window that is larger than all the memory a connection may have.
    WantsHugeWindow,
}

impl Conduct {
    /// How many connections the peer opens.
    pub fn connections(self) -> u32 {
        match self {
            Conduct::Behaves { connections } => connections,
            Conduct::Crowds => PEER_CONNECTIONS + 1,
            _ => 1,
        }
    }

    /// Whether it is the server that has to end the visit.
    pub fn lingers(self) -> bool {
        matches!(self, Conduct::NeverReads | Conduct::FallsSilent | Conduct::NeverSpeaks)
    }

    /// What a governor refuses the peer, once in the visit.
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            Conduct::Crowds => Some(Refusal::CrowdedPeer),
            Conduct::KnocksOnRetired => Some(Refusal::RetiredClass),
            Conduct::SendsHugeFrame | Conduct::WantsHugeWindow => Some(Refusal::HugeRequest),
            _ => None,
        }
    }
}

impl fmt::Display for Conduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Conduct::Behaves { .. } => "behaves",
            Conduct::NeverReads => "never reads",
            Conduct::Resets => "resets",
            Conduct::HalfCloses => "half-closes",
            Conduct::FallsSilent => "falls silent",
            Conduct::NeverSpeaks => "never speaks",
            Conduct::Crowds => "opens too many connections",
            Conduct::KnocksOnRetired => "knocks on the retired listener",
            Conduct::SendsHugeFrame => "sends a huge frame",
            Conduct::WantsHugeWindow => "wants a huge window",
        })
    }
}

/// A kind of refusal that the plan contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The class takes no connections: refused at admission.
    RetiredClass,
    /// The peer has too many connections: refused when the connection is bound to it.
    CrowdedPeer,
    /// More memory than a connection may have: refused when it is leased or reserved.
    HugeRequest,
}

impl Refusal {
    /// Every kind, in the order of a connection's life.
    pub const ALL: [Self; 3] = [Self::RetiredClass, Self::CrowdedPeer, Self::HugeRequest];
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::RetiredClass => "class: inbound connections",
            Refusal::CrowdedPeer => "peer: inbound connections",
            Refusal::HugeRequest => "connection: memory",
        })
    }
}

/// How many refusals there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals([u64; Refusal::ALL.len()]);

impl Refusals {
    /// Counts `more` refusals of one kind.
    pub fn add(&mut self, kind: Refusal, more: u64) {
        self.0[kind as usize] += more;
    }

    /// How many there are of one kind.
    pub fn of(&self, kind: Refusal) -> u64 {
        self.0[kind as usize]
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl AddAssign for Refusals {
    fn add_assign(&mut self, more: Self) {
        for kind in Refusal::ALL {
            self.add(kind, more.of(kind));
        }
    }
}

/// One peer's visit.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// Tells this peer from all others.
    pub peer: u32,
    /// Decides sizes and content of what the peer sends.
    pub seed: u64,
    /// What the peer does.
    pub conduct: Conduct,
}

/// What some visits must come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Connections opened.
    pub connections: u64,
    /// Of these, connections of peers that behave: each must be served in full.
    pub well_behaved: u64,
    /// Connections that the server has to end.
    pub lingering: u64,
    /// What a governor refuses.
    pub refusals: Refusals,
}

impl Expected {
    /// Counts one visit in.
    pub fn add(&mut self, visit: &Visit) {
        let connections = u64::from(visit.conduct.connections());
        self.connections += connections;
        if let Conduct::Behaves { .. } = visit.conduct {
            self.well_behaved += connections;
        }
        if visit.conduct.lingers() {
            self.lingering += connections;
        }
        if let Some(kind) = visit.conduct.refusal() {
            self.refusals.add(kind, 1);
        }
    }
}

/// Everything that will happen.
#[derive(Debug)]
pub struct Plan {
    /// The most connections that are open at a time.
    pub concurrency: u32,
    /// How many connections there are in all.
    pub connections: u32,
    /// What happens one after another.
    pub waves: Vec<Vec<Visit>>,
}

impl Plan {
    /// The plan that `seed` stands for.
    pub fn new(seed: u64, connections: u32, concurrency: u32) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut conducts = misbehaviours(connections, concurrency);
        let rest = connections - conducts.iter().map(|conduct| conduct.connections()).sum::<u32>();
        conducts.extend(good_behaviour(&mut rng, rest, concurrency));
        rng.shuffle(&mut conducts);

        let visits = conducts.into_iter().zip(0..).map(|(conduct, peer)| Visit {
            peer,
            seed: rng.u64(..),
            conduct,
        });
        Self { concurrency, connections, waves: into_waves(visits, concurrency) }
    }
}

/// The share of `connections` that misbehaves.
fn misbehaviours(connections: u32, concurrency: u32) -> Vec<Conduct> {
    let at_least = u32::from(connections >= SHOWCASE_CONNECTIONS);
    let mut conducts = Vec::new();
    for (conduct, per_mille) in PER_MILLE {
        if conduct.connections() <= concurrency {
            let visits = connections * per_mille / 1000 / conduct.connections();
            let count = visits.max(at_least) as usize;
            conducts.extend(std::iter::repeat_n(conduct, count));
        }
    }
    conducts
}

/// Well-behaved peers that open `rest` connections between them.
fn good_behaviour(rng: &mut Rng, mut rest: u32, concurrency: u32) -> Vec<Conduct> {
    let mut conducts = Vec::new();
    while rest > 0 {
        let connections = rng.u32(1..=PEER_CONNECTIONS.min(concurrency).min(rest));
        conducts.push(Conduct::Behaves { connections });
        rest -= connections;
    }
    conducts
}

/// Cuts the visits, in their order, into waves of at most `concurrency` connections.
fn into_waves(visits: impl Iterator<Item = Visit>, concurrency: u32) -> Vec<Vec<Visit>> {
    let mut waves = Vec::new();
    let mut wave = Vec::new();
    let mut open = 0;
    for visit in visits {
        let more = visit.conduct.connections();
        if open + more > concurrency {
            waves.push(std::mem::take(&mut wave));
            open = 0;
        }
        open += more;
        wave.push(visit);
    }
    waves.push(wave);
    waves
}
