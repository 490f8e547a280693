//! One picture of the terminal: cells that are drawn into, and written out where
//! they differ from the picture before.

use std::io::{self, Write};

use crossterm::cursor::MoveTo;
use crossterm::queue;
use crossterm::style::{Attribute, Color, Print, SetAttribute, SetForegroundColor};
use unicode_width::UnicodeWidthChar as _;

/// How a cell looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) colour: Option<Color>,
    pub(super) bold: bool,
    pub(super) reverse: bool,
}

pub(super) const PLAIN: Style = Style { colour: None, bold: false, reverse: false };
pub(super) const BOLD: Style = Style { bold: true, ..PLAIN };
pub(super) const REVERSE: Style = Style { reverse: true, ..PLAIN };
pub(super) const DIM: Style = Style { colour: Some(Color::DarkGrey), ..PLAIN };
pub(super) const GOOD: Style = Style { colour: Some(Color::Green), ..PLAIN };
pub(super) const BAD: Style = Style { colour: Some(Color::Red), ..PLAIN };
pub(super) const GUEST: Style = Style { colour: Some(Color::Cyan), ..PLAIN };
pub(super) const WORLD: Style = Style { colour: Some(Color::Yellow), ..PLAIN };

/// A rectangle of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Area {
    /// The first so many rows, and the rest.
    pub(super) fn split_rows(self, rows: usize) -> (Self, Self) {
        let rows = rows.min(self.height);
        let rest = Self { y: self.y + rows, height: self.height - rows, ..self };
        (Self { height: rows, ..self }, rest)
    }

    /// The first so many columns, and the rest behind a free one.
    pub(super) fn split_columns(self, columns: usize) -> (Self, Self) {
        let columns = columns.min(self.width);
        let gap = usize::from(self.width > columns);
        let rest = Self { x: self.x + columns + gap, width: self.width - columns - gap, ..self };
        (Self { width: columns, ..self }, rest)
    }
}

/// The picture. A character two columns wide has an empty cell behind it.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    width: usize,
    height: usize,
    cells: Vec<(char, Style)>,
}

/// What stands behind a wide character.
const BEHIND: char = '\0';

impl Frame {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self { width, height, cells: vec![(' ', PLAIN); width * height] }
    }

    pub(super) fn area(&self) -> Area {
        Area { x: 0, y: 0, width: self.width, height: self.height }
    }

    /// Text in one row of an area, cut where that ends. Returns the columns used.
    pub(super) fn text(&mut self, area: Area, row: usize, column: usize, text: &str, style: Style) -> usize {
        if row >= area.height {
            return 0;
        }
        let mut at = column;
        for c in text.chars() {
            let c = if c == '\t' { ' ' } else { c };
            let wide = c.width().unwrap_or(0);
            if wide == 0 {
                // Nothing that guests chose may move the cursor.
                continue;
            }
            if at + wide > area.width {
                if area.width > column {
                    self.put(area, row, area.width - 1, '…', style);
                }
                break;
            }
            self.put(area, row, at, c, style);
            if wide == 2 {
                self.put(area, row, at + 1, BEHIND, style);
            }
            at += wide;
        }
        at - column
    }

    /// One row in a style.
    pub(super) fn fill(&mut self, area: Area, row: usize, style: Style) {
        for column in 0..area.width {
            self.put(area, row, column, ' ', style);
        }
    }

    /// A pane's heading over a line, in its first row; what is left of it.
    pub(super) fn pane(&mut self, area: Area, title: &str) -> Area {
        let (head, body) = area.split_rows(1);
        for column in 0..area.width {
            self.put(head, 0, column, '─', DIM);
        }
        self.text(head, 0, 1, &format!(" {title} "), BOLD);
        body
    }

    fn put(&mut self, area: Area, row: usize, column: usize, c: char, style: Style) {
        let (x, y) = (area.x + column, area.y + row);
        if x < self.width && y < self.height && row < area.height && column < area.width {
            self.cells[y * self.width + x] = (c, style);
        }
    }

    /// Writes the cells that differ from `before`; all of them if that is of another size.
    pub(super) fn write(&self, before: Option<&Self>, to: &mut impl Write) -> io::Result<()> {
        let before = before.filter(|before| (before.width, before.height) == (self.width, self.height));
        let mut style = None;
        let mut cursor = None;
        for (at, &(c, look)) in self.cells.iter().enumerate() {
            if c == BEHIND || before.is_some_and(|before| before.cells[at] == (c, look)) {
                continue;
            }
            let place = (at % self.width, at / self.width);
            if cursor != Some(place) {
                queue!(to, MoveTo(place.0 as u16, place.1 as u16))?;
            }
            if style != Some(look) {
                queue!(to, SetAttribute(Attribute::Reset))?;
                if look.bold {
                    queue!(to, SetAttribute(Attribute::Bold))?;
                }
                if look.reverse {
                    queue!(to, SetAttribute(Attribute::Reverse))?;
                }
                if let Some(colour) = look.colour {
                    queue!(to, SetForegroundColor(colour))?;
                }
                style = Some(look);
            }
            queue!(to, Print(c))?;
            cursor = Some((place.0 + c.width().unwrap_or(1), place.1));
        }
        queue!(to, SetAttribute(Attribute::Reset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(frame: &Frame) -> String {
        let rows = frame.cells.chunks(frame.width);
        let row = |row: &[(char, Style)]| row.iter().map(|(c, _)| c).filter(|c| **c != BEHIND).collect::<String>();
        rows.map(row).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn text_is_cut_at_its_area_and_cannot_move_the_cursor() {
        let mut frame = Frame::new(8, 2);
        let (left, right) = frame.area().split_columns(4);
        frame.text(left, 0, 0, "abcdef", PLAIN);
        frame.text(right, 0, 0, "x\u{1b}[2Jy", PLAIN);
        frame.text(left, 5, 0, "below", PLAIN);
        assert_eq!(shown(&frame), "abc… x[…\n        ");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut frame = Frame::new(5, 1);
        let area = frame.area();
        assert_eq!(frame.text(area, 0, 0, "日本x", PLAIN), 5);
        assert_eq!(shown(&frame), "日本x");
        frame.text(area, 0, 0, "日本日", PLAIN);
        assert_eq!(shown(&frame), "日本…");
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut frame = Frame::new(20, 2);
        let area = frame.area();
        frame.text(area, 0, 0, "one two", PLAIN);
        let mut next = frame.clone();
        next.text(area, 0, 4, "six", PLAIN);
        let (mut all, mut some) = (Vec::new(), Vec::new());
        frame.write(None, &mut all).unwrap();
        next.write(Some(&frame), &mut some).unwrap();
        let (all, some) = (String::from_utf8(all).unwrap(), String::from_utf8(some).unwrap());
        assert!(all.contains("one two"), "{all:?}");
        assert!(some.contains("six") && !some.contains("one"), "{some:?}");
    }
}
