//! What contenders are meant to cost, beside a floor and an alternative.

use crate::turns::{self, Turns};

/// What a contender is meant to cost. Printed, never enforced.
#[derive(Clone, Copy)]
pub struct Target {
    /// At most so many times the floor.
    pub floor: Option<f64>,
    /// At least so many times as fast as the alternative: on one thread, on two.
    pub speedup: Option<[f64; 2]>,
}

impl Target {
    /// No target.
    pub const NONE: Self = Self { floor: None, speedup: None };

    /// Prints [rows](Self::rows).
    pub fn print(title: &str, rows: Vec<[String; 6]>) {
        turns::print([title, "ns", "p10 .. p90", "floor ×", "alternative ÷", "target"], rows);
    }

    /// A row for each of the contenders that took turns, with its ratios to the first of them,
    /// the floor, and to the second, the alternative.
    pub fn rows<C>(
        rows: &[Turns<C>],
        threads: usize,
        contender: impl Fn(&C) -> (String, Target),
    ) -> Vec<[String; 6]> {
        let [floor, alternative] = [0, 1].map(|index: usize| rows[index].paces.median());
        let row = |row: &Turns<C>| {
            let (name, target) = contender(&row.contender);
            let median = row.paces.median();
            let (over_floor, speedup) = (median / floor, alternative / median);
            [
                name,
                format!("{median:.1}"),
                row.paces.spread(1),
                format!("{over_floor:.2}"),
                format!("{speedup:.2}"),
                target.verdict(threads, over_floor, speedup),
            ]
        };
        rows.iter().map(row).collect()
    }

    /// Says what is aimed at, and marks what is missed.
    fn verdict(self, threads: usize, over_floor: f64, speedup: f64) -> String {
        let floor = self.floor.map(|most| turns::at_most(most, over_floor));
        let speedup = self.speedup.map(|least| turns::at_least(least[threads - 1], speedup));
        floor.into_iter().chain(speedup).collect::<Vec<_>>().join(", ")
    }
}
