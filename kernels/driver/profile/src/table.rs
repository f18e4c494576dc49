//! A profile for people to read.

use std::fmt;

use deltaw_emulator::Traffic;

use crate::{Code, Profile};

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let launch = &self.launch;
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        writeln!(
            f,
            "{}  grid {gx}×{gy}×{gz}  block {bx}×{by}×{bz}  shared {} B",
            launch.kernel, launch.shared
        )?;
        let c = &launch.counters;
        let mut row = |name: &str, value: u64, note: String| {
            writeln!(f, "  {name:<28}{:>16}   {note}", grouped(value))
        };
        let lanes = 32.0 * c.warp_instructions as f64;
        row(
            "warp instructions",
            c.warp_instructions,
            format!(
                "{:.1} % of the lanes active",
                percent(c.thread_instructions as f64, lanes)
            ),
        )?;
        row("lanes predicated off", c.predicated_off, String::new())?;
        for (class, &count) in &c.classes {
            row(
                &format!("  {class:?}").to_lowercase(),
                count,
                format!("{:.1} %", percent(count as f64, c.warp_instructions as f64)),
            )?;
        }
        // What there was none of has no efficiency.
        for (name, t, units, quality) in [
            (
                "global requests",
                &c.global,
                "  sectors of 32 bytes",
                Quality::Coalescing,
            ),
            (
                "shared requests",
                &c.shared,
                "  wavefronts",
                Quality::Conflicts,
            ),
            (
                "atomic requests",
                &c.atomic,
                "  serialised steps",
                Quality::Steps,
            ),
        ] {
            let bytes = format!("{} bytes asked for", grouped(t.bytes));
            row(
                name,
                t.requests,
                if t.requests > 0 { bytes } else { String::new() },
            )?;
            if t.requests > 0 {
                row(units, t.units, quality.of(t))?;
            }
        }
        row("barriers", c.barriers, "once a warp".into())?;
        row("float operations", c.float_flops, "an FMA is 2".into())?;
        row("matrix operations", c.matrix_flops, String::new())?;
        if self.predicted.is_empty() {
            return writeln!(f, "no ptxas: registers, spills and occupancy are not known");
        }
        writeln!(
            f,
            "by ptxas and data sheets (times are predicted lower bounds, not measured)"
        )?;
        writeln!(
            f,
            "  {:<10}{:>6}{:>11}{:>12}{:>8}{:>11}  {:<11}{:>12}",
            "GPU", "sm", "registers", "spill bytes", "blocks", "occupancy", "limit", "at least"
        )?;
        for p in &self.predicted {
            let spills = p.resources.spill_stores + p.resources.spill_loads;
            let occupancy = format!("{:.0} %", 100.0 * p.occupancy.fraction);
            let limit = format!("{:?}", p.occupancy.limit).to_lowercase();
            writeln!(
                f,
                "  {:<10}{:>6}{:>11}{spills:>12}{:>8}{occupancy:>11}  {limit:<11}{:>9.3} µs by {}",
                p.gpu,
                p.capability,
                p.resources.registers,
                p.occupancy.blocks,
                p.bound.microseconds,
                p.bound.peak
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.resources;
        write!(
            f,
            "{} sm_{}: {} registers, {} B stack, {} B spilled, {} B static shared, {} instructions",
            self.kernel,
            self.capability,
            r.registers,
            r.stack,
            r.spill_stores + r.spill_loads,
            r.static_shared,
            self.instructions
        )?;
        match &self.occupancy {
            Some(o) => writeln!(
                f,
                ", occupancy {:.0} % by {:?}",
                100.0 * o.fraction,
                o.limit
            )?,
            None => writeln!(f, ", occupancy unknown without --threads")?,
        }
        for l in self.loops.iter().filter(|l| l.innermost) {
            let mix = l
                .mix
                .iter()
                .map(|(group, count)| format!("{count} {group:?}"));
            let mix = mix.collect::<Vec<_>>().join(", ").to_lowercase();
            let (length, share) = (l.instructions, 100.0 * l.share());
            writeln!(f, "  loop of {length}: {share:.0} % tensor or fma; {mix}")?;
        }
        Ok(())
    }
}

/// What the units of some traffic say about it.
enum Quality {
    Coalescing,
    Conflicts,
    Steps,
}

impl Quality {
    fn of(self, t: &Traffic) -> String {
        let ratio = t.units as f64 / t.ideal_units.max(1) as f64;
        match self {
            Quality::Coalescing => format!("{:.1} % coalesced", 100.0 * t.efficiency()),
            Quality::Conflicts => format!("{ratio:.2}-way bank conflicts"),
            Quality::Steps => format!("{ratio:.2} a request"),
        }
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole == 0.0 {
        0.0
    } else {
        100.0 * part / whole
    }
}

/// Digits in groups of three.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1234567].map(grouped),
            ["0", "999", "1 000", "1 234 567"]
        );
    }
}
