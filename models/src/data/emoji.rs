//! 1,906 emoji drawn by four hands, 32×32 on white: four visual domains with the same labels.

use super::embedded::{
    self, Cell, EMOJI_LINES, EMOJI_NOTO, EMOJI_OPENMOJI, EMOJI_TABLE, EMOJI_TWEMOJI, cached,
};
use super::error::{Result, unknown};

/// Height and width of an emoji in pixels.
pub const SIDE: usize = 32;

/// Who drew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Style {
    /// Noto Emoji: shaded, RGB.
    Noto,
    /// Twemoji: flat, RGB.
    Twemoji,
    /// OpenMoji: outlined, RGB.
    Openmoji,
    /// OpenMoji's line drawings, grey.
    Lines,
}

impl Style {
    /// All four.
    pub const ALL: [Style; 4] = [Style::Noto, Style::Twemoji, Style::Openmoji, Style::Lines];

    /// The style's name: `noto`, `twemoji`, `openmoji` or `openmoji-black`.
    pub fn name(self) -> &'static str {
        match self {
            Style::Noto => "noto",
            Style::Twemoji => "twemoji",
            Style::Openmoji => "openmoji",
            Style::Lines => "openmoji-black",
        }
    }

    /// The style of that name.
    pub fn from_name(name: &str) -> Result<Self> {
        let names = Style::ALL.map(Style::name);
        let found = Style::ALL.into_iter().find(|s| s.name() == name);
        found.ok_or_else(|| unknown("emoji style", name, &names))
    }
}

/// One emoji, whatever its style.
#[derive(Debug, Clone, PartialEq)]
pub struct Emoji {
    /// Unicode code points in hexadecimal, joined by `-`.
    pub codepoints: &'static str,
    /// Index into [`Table::groups`].
    pub group: u32,
    /// Index into [`Table::subgroups`].
    pub subgroup: u32,
    /// The name, a short caption.
    pub name: &'static str,
    /// Keywords.
    pub tags: Vec<&'static str>,
}

impl Emoji {
    /// The identity that keeps look-alikes in one split: the code points without joiners, variation
    /// selectors and gender, so that `man juggling`, `woman juggling` and `person juggling` are one item.
    pub fn identity(&self) -> String {
        let neutral = |point: &'static str| match point {
            "200D" | "FE0F" | "2640" | "2642" => None,
            "1F468" | "1F469" => Some("1F9D1"),
            other => Some(other),
        };
        let kept: Vec<&str> = self.codepoints.split('-').filter_map(neutral).collect();
        if kept.is_empty() {
            return self.codepoints.into(); // the gender signs themselves
        }
        kept.join("-")
    }
}

/// All emoji with the names of their classes.
#[derive(Debug)]
pub struct Table {
    /// In the order of the images.
    pub emoji: Vec<Emoji>,
    /// The 9 groups, in order of first appearance.
    pub groups: Vec<&'static str>,
    /// The 98 subgroups, in order of first appearance.
    pub subgroups: Vec<&'static str>,
}

/// The embedded table.
pub fn table() -> Result<&'static Table> {
    static CELL: Cell<Table> = Cell::new();
    cached(&CELL, || {
        let header = ["index", "codepoints", "group", "subgroup", "name", "tags"];
        let rows = embedded::rows(&EMOJI_TABLE, EMOJI_TABLE.text()?, header)?;
        let (mut groups, mut subgroups) = (Vec::new(), Vec::new());
        let class = |names: &mut Vec<&'static str>, name: &'static str| {
            let index = names.iter().position(|n| *n == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            index as u32
        };
        let emoji = rows
            .into_iter()
            .map(|[_, codepoints, group, subgroup, name, tags]| Emoji {
                codepoints,
                group: class(&mut groups, group),
                subgroup: class(&mut subgroups, subgroup),
                name,
                tags: tags.split(", ").collect(),
            })
            .collect();
        Ok(Table {
            emoji,
            groups,
            subgroups,
        })
    })
}

/// The images of one style.
#[derive(Debug)]
pub struct Images {
    /// 3 for RGB, 1 for grey.
    pub channels: usize,
    /// [emoji, channels, 32, 32] in the order of the table, 255 is white.
    pub pixels: Vec<u8>,
}

/// The embedded images of a style.
pub fn images(style: Style) -> Result<&'static Images> {
    static CELLS: [Cell<Images>; 4] = [const { Cell::new() }; 4];
    let (cell, file) = match style {
        Style::Noto => (&CELLS[0], EMOJI_NOTO),
        Style::Twemoji => (&CELLS[1], EMOJI_TWEMOJI),
        Style::Openmoji => (&CELLS[2], EMOJI_OPENMOJI),
        Style::Lines => (&CELLS[3], EMOJI_LINES),
    };
    cached(cell, || {
        let tiles = file.tiles(SIDE, table()?.emoji.len())?;
        Ok(Images {
            channels: tiles.channels,
            pixels: tiles.pixels,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_its_classes() {
        let table = table().unwrap();
        let sizes = (table.emoji.len(), table.groups.len(), table.subgroups.len());
        assert_eq!(sizes, (1_906, 9, 98));
        assert_eq!(table.emoji[0].name, "grinning face");
        assert_eq!(table.emoji[0].tags[..3], ["cheerful", "cheery", "face"]);
        assert_eq!(
            table.groups[table.emoji[0].group as usize],
            "smileys-emotion"
        );
    }

    #[test]
    fn genders_of_one_emoji_share_an_identity() {
        let table = table().unwrap();
        let identity = |name: &str| {
            let found = table.emoji.iter().find(|e| e.name == name);
            found.unwrap().identity()
        };
        assert_eq!(identity("man juggling"), identity("person juggling"));
        assert_eq!(identity("woman farmer"), identity("man farmer"));
        assert_ne!(identity("man farmer"), identity("man cook"));
        assert!(!identity("female sign").is_empty());
    }

    #[test]
    fn four_styles_draw_the_same_things_on_white() {
        for style in Style::ALL {
            let images = images(style).unwrap();
            assert_eq!(images.channels, if style == Style::Lines { 1 } else { 3 });
            assert_eq!(images.pixels.len(), 1_906 * images.channels * SIDE * SIDE);
            let corners = images
                .pixels
                .iter()
                .step_by(SIDE * SIDE)
                .filter(|&&p| p > 250)
                .count();
            assert!(corners * 10 > 9 * 1_906 * images.channels, "{style:?}");
            assert_eq!(Style::from_name(style.name()), Ok(style));
        }
        // The red heart is red in every coloured style: its centre has more red than blue.
        let heart = table()
            .unwrap()
            .emoji
            .iter()
            .position(|e| e.name == "red heart")
            .unwrap();
        for style in &Style::ALL[..3] {
            let centre = |channel| {
                images(*style).unwrap().pixels[((heart * 3 + channel) * SIDE + 16) * SIDE + 16]
            };
            assert!(centre(0) > 150 && centre(2) < 120, "{style:?}");
        }
        let error = Style::from_name("nota").unwrap_err().to_string();
        assert!(
            error.starts_with("no emoji style `nota`; nearest: `noto`"),
            "{error}"
        );
    }
}
