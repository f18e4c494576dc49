//! A profile for people to read.

use std::fmt;

use crate::Profile;

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
        row(
            "global requests",
            c.global.requests,
            format!("{} bytes asked for", grouped(c.global.bytes)),
        )?;
        row(
            "  sectors of 32 bytes",
            c.global.units,
            format!("{:.1} % coalesced", 100.0 * c.global.efficiency()),
        )?;
        row(
            "shared requests",
            c.shared.requests,
            format!("{} bytes asked for", grouped(c.shared.bytes)),
        )?;
        let ways = c.shared.units as f64 / c.shared.ideal_units.max(1) as f64;
        row(
            "  wavefronts",
            c.shared.units,
            format!("{ways:.2}-way bank conflicts"),
        )?;
        row("atomic requests", c.atomic.requests, String::new())?;
        row("  serialised steps", c.atomic.units, String::new())?;
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
