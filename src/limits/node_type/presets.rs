//! The numbers of each type of node, and how they grow.
//!
//! A pair is a base and an increase per GiB of the budget: `(64, 128)` is 64, and 192 at a budget
//! of 1 GiB. Memory is in MiB. `NONE` leaves it to the scopes above. What is allow-listed gets the
//! same once more. Nothing may exceed what its parent has, in base or increase.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::limit::Limit;
use crate::limits::{Host, Limits, NodeType, PrefixLimits, Rate, ScopeLimits, SubnetLimits};

pub(super) const fn of(node_type: NodeType) -> &'static Preset {
    match node_type {
        NodeType::Light => &LIGHT,
        NodeType::Full => &FULL,
        NodeType::Relay => &RELAY,
        NodeType::Bootstrap => &BOOTSTRAP,
        NodeType::Validator => &VALIDATOR,
        NodeType::Gateway => &GATEWAY,
    }
}

/// The numbers of one type of node.
pub(super) struct Preset {
    system: Row,
    transient: Row,
    class: Row,
    class_peer: Row,
    peer: Row,
    connection: Row,
    stream: Row,
    subnets: fn() -> SubnetLimits,
}

/// The numbers of one scope.
struct Row {
    connections: Option<Counts>,
    streams: Option<Counts>,
    memory: Grown,
    fds: Option<Share>,
}

/// Inbound, outbound, and both together.
type Counts = [Grown; 3];

/// A base, and the increase per GiB of the budget.
type Grown = (u64, u64);

/// A base, and how many of every 64 descriptors.
type Share = (u64, u64);

const NONE: Option<Counts> = None;

/// One connection with a descriptor, or one stream.
const ONE: Option<Counts> = Some([(1, 0), (1, 0), (1, 0)]);

/// Writes a [`Preset`] as a table.
macro_rules! preset {
    ($subnets:path; $($scope:ident: $connections:expr, $streams:expr, $memory:expr, $fds:expr;)+) => {
        Preset {
            $($scope: Row {
                connections: $connections,
                streams: $streams,
                memory: $memory,
                fds: $fds,
            },)+
            subnets: $subnets,
        }
    };
}

// Columns: connections in, out, total; streams in, out, total; memory; descriptors.

#[rustfmt::skip]
const LIGHT: Preset = preset! { SubnetLimits::standard;
    system:     Some([(16, 8), (64, 64), (64, 64)]),         Some([(128, 64), (512, 512), (512, 512)]),    (32, 256), Some((64, 16));
    transient:  Some([(8, 4), (16, 16), (16, 16)]),          Some([(32, 16), (64, 64), (64, 64)]),         (8, 32),   Some((16, 4));
    class:      NONE,                                        Some([(64, 32), (256, 256), (256, 256)]),     (16, 128), None;
    class_peer: NONE,                                        Some([(16, 4), (64, 16), (64, 16)]),          (8, 4),    None;
    peer:       Some([(4, 0), (4, 0), (4, 0)]),              Some([(32, 16), (128, 64), (128, 64)]),       (16, 32),  Some((4, 1));
    connection: ONE,                                         NONE,                                         (8, 0),    Some((1, 0));
    stream:     NONE,                                        ONE,                                          (4, 0),    None;
};

#[rustfmt::skip]
const FULL: Preset = preset! { SubnetLimits::standard;
    system:     Some([(64, 64), (128, 128), (128, 128)]),    Some([(1024, 1024), (2048, 2048), (2048, 2048)]), (128, 1024), Some((256, 64));
    transient:  Some([(32, 16), (64, 32), (64, 32)]),        Some([(128, 128), (256, 256), (256, 256)]),       (32, 128),   Some((64, 16));
    class:      NONE,                                        Some([(1024, 512), (2048, 2048), (2048, 2048)]),  (64, 164),   None;
    class_peer: NONE,                                        Some([(64, 4), (128, 8), (256, 16)]),             (16, 4),     None;
    peer:       Some([(8, 0), (8, 0), (8, 0)]),              Some([(256, 128), (512, 256), (512, 256)]),       (64, 128),   Some((4, 1));
    connection: ONE,                                         NONE,                                             (32, 0),     Some((1, 0));
    stream:     NONE,                                        ONE,                                              (16, 0),     None;
};

#[rustfmt::skip]
const RELAY: Preset = preset! { SubnetLimits::standard;
    system:     Some([(512, 2048), (128, 512), (512, 2048)]), Some([(2048, 16384), (2048, 16384), (4096, 32768)]), (128, 1024), Some((512, 64));
    transient:  Some([(128, 256), (64, 128), (128, 256)]),    Some([(256, 1024), (256, 1024), (512, 2048)]),       (32, 128),   Some((128, 16));
    class:      NONE,                                         Some([(2048, 16384), (2048, 16384), (4096, 32768)]), (96, 768),   None;
    class_peer: NONE,                                         Some([(64, 16), (64, 16), (128, 32)]),               (4, 4),      None;
    peer:       Some([(8, 0), (8, 0), (8, 0)]),               Some([(128, 32), (128, 32), (256, 64)]),             (8, 8),      Some((8, 1));
    connection: ONE,                                          NONE,                                                (4, 0),      Some((1, 0));
    stream:     NONE,                                         ONE,                                                 (1, 0),      None;
};

#[rustfmt::skip]
const BOOTSTRAP: Preset = preset! { SubnetLimits::standard;
    system:     Some([(1024, 4096), (128, 512), (1024, 4096)]), Some([(2048, 8192), (512, 2048), (2048, 8192)]), (128, 1024), Some((1024, 64));
    transient:  Some([(512, 2048), (64, 256), (512, 2048)]),    Some([(1024, 4096), (256, 1024), (1024, 4096)]), (64, 512),   Some((512, 32));
    class:      NONE,                                           Some([(2048, 8192), (512, 2048), (2048, 8192)]), (96, 768),   None;
    class_peer: NONE,                                           Some([(8, 0), (8, 0), (8, 0)]),                  (1, 0),      None;
    peer:       Some([(2, 0), (2, 0), (2, 0)]),                 Some([(16, 0), (16, 0), (16, 0)]),               (2, 0),      Some((2, 0));
    connection: ONE,                                            NONE,                                            (1, 0),      Some((1, 0));
    stream:     NONE,                                           ONE,                                             (1, 0),      None;
};

#[rustfmt::skip]
const VALIDATOR: Preset = preset! { SubnetLimits::standard;
    system:     Some([(64, 32), (64, 32), (96, 48)]),        Some([(1024, 1024), (1024, 1024), (2048, 2048)]), (128, 1024), Some((256, 32));
    transient:  Some([(8, 4), (16, 8), (16, 8)]),            Some([(32, 16), (64, 32), (64, 32)]),             (64, 32),    Some((32, 4));
    class:      NONE,                                        Some([(1024, 1024), (1024, 1024), (2048, 2048)]), (96, 768),   None;
    class_peer: NONE,                                        Some([(128, 32), (128, 32), (256, 64)]),          (64, 96),    None;
    peer:       Some([(4, 0), (4, 0), (4, 0)]),              Some([(256, 64), (256, 64), (512, 128)]),         (96, 192),   Some((4, 1));
    connection: ONE,                                         NONE,                                             (64, 0),     Some((1, 0));
    stream:     NONE,                                        ONE,                                              (32, 0),     None;
};

#[rustfmt::skip]
const GATEWAY: Preset = preset! { shared_addresses;
    system:     Some([(1024, 4096), (256, 512), (1024, 4096)]), Some([(8192, 32768), (1024, 4096), (8192, 32768)]), (128, 1024), Some((1024, 64));
    transient:  Some([(768, 3072), (128, 256), (768, 3072)]),   Some([(6144, 24576), (512, 2048), (6144, 24576)]),  (96, 768),   Some((768, 48));
    class:      NONE,                                           Some([(8192, 32768), (1024, 4096), (8192, 32768)]), (96, 768),   None;
    class_peer: NONE,                                           Some([(1024, 256), (128, 32), (1024, 256)]),        (16, 16),    None;
    peer:       Some([(64, 0), (16, 0), (64, 0)]),              Some([(2048, 512), (256, 64), (2048, 512)]),        (32, 32),    Some((64, 4));
    connection: ONE,                                            NONE,                                               (4, 0),      Some((1, 0));
    stream:     NONE,                                           ONE,                                                (1, 0),      None;
};

/// Limits by address for clients many of which share one: the standard ones would shut out a school
/// or a mobile carrier. Still no address can have more than a quarter of the smallest system, and
/// no /48 more than half.
fn shared_addresses() -> SubnetLimits {
    let each = |connections: u64, per_second: u32, burst| {
        let rate = Rate::new(Duration::from_secs(1) / per_second, burst);
        PrefixLimits::unlimited().connections(connections).rate(rate)
    };
    const AT_ONCE: NonZeroU32 = NonZeroU32::new(256).unwrap();
    const AT_ONCE_OF_MANY: NonZeroU32 = NonZeroU32::new(512).unwrap();
    SubnetLimits::standard()
        .ipv4(32, each(256, 20, AT_ONCE))
        .ipv6(56, each(256, 20, AT_ONCE))
        .ipv6(48, each(512, 40, AT_ONCE_OF_MANY))
}

impl Preset {
    /// The limits on one host.
    pub(super) fn on(&self, host: &Host) -> Limits {
        let system = self.system.on(host);
        let transient = self.transient.on(host);
        Limits::unlimited()
            .system(system)
            .transient(transient)
            .allowlisted_system(system)
            .allowlisted_transient(transient)
            .class_default(self.class.on(host))
            .class_peer_default(self.class_peer.on(host))
            .peer(self.peer.on(host))
            .connection(self.connection.on(host))
            .stream(self.stream.on(host))
            .subnets((self.subnets)())
    }
}

impl Row {
    fn on(&self, host: &Host) -> ScopeLimits {
        let budget = host.budget();
        let (base, increase) = self.memory;
        let mut limits =
            ScopeLimits::unlimited().memory(grown((base << 20, increase << 20), budget));
        if let Some(counts) = self.connections {
            let [inbound, outbound, total] = counts.map(|count| grown(count, budget));
            limits = limits
                .connections_inbound(inbound)
                .connections_outbound(outbound)
                .connections(total);
        }
        if let Some(counts) = self.streams {
            let [inbound, outbound, total] = counts.map(|count| grown(count, budget));
            limits = limits.streams_inbound(inbound).streams_outbound(outbound).streams(total);
        }
        if let Some(share) = self.fds {
            limits = limits.fds(shared(share, host.fds()));
        }
        limits
    }
}

/// A budget for which the base is right, in bytes: nothing grows before it is exceeded.
const SMALLEST: u64 = 128 << 20;

fn grown((base, increase): Grown, budget: u64) -> Limit {
    let mib = if budget > SMALLEST { budget >> 20 } else { 0 };
    // Wide enough for any machine: a TiB of increase on every GiB of the largest number there is.
    let grown = u128::from(base) + u128::from(increase) * u128::from(mib) / 1024;
    Limit::Max(u64::try_from(grown).unwrap_or(u64::MAX))
}

/// Half of the descriptors, of which so many in 64; but at least the base, if there are as many.
fn shared((base, of_64): Share, fds: u64) -> Limit {
    let share = u128::from(fds / 2) * u128::from(of_64) / 64;
    let share = u64::try_from(share).expect("a part of a u64");
    Limit::Max(share.max(base).min(fds))
}
