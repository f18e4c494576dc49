//! curves.csv: one line a point, `arm,task,setting,seed,curve,step,value`.

use crate::experiment::Cube;

/// All curves of a cube, in its order.
pub(super) fn curves(cube: &Cube) -> String {
    let mut text = String::from("arm,task,setting,seed,curve,step,value\n");
    for (id, cell) in cube.cells() {
        let place = [&id.arm, &id.task, &id.setting]
            .map(|s| quoted(s))
            .join(",");
        for (name, points) in &cell.curves {
            let name = quoted(name);
            for (step, value) in points {
                text += &format!("{place},{},{name},{step},{value}\n", id.seed);
            }
        }
    }
    text
}

/// RFC 4180: quotes around what has a comma, a quote or a line's end, and quotes doubled.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Cell, CellId};

    #[test]
    fn a_point_a_line_and_commas_quoted() {
        let mut cube = Cube::default();
        let cell = Cell::new().curve("loss", vec![(0, 1.5), (10, 0.25)]);
        cube.insert(CellId::new("lora, r=2", "say \"hi\"", 3), cell)
            .unwrap();
        let expected = "arm,task,setting,seed,curve,step,value\n\
                        \"lora, r=2\",\"say \"\"hi\"\"\",,3,loss,0,1.5\n\
                        \"lora, r=2\",\"say \"\"hi\"\"\",,3,loss,10,0.25\n";
        assert_eq!(curves(&cube), expected);
    }
}
