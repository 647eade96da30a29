//! The embedded corpus: a seeded story grammar in which the probability of every span is exactly known.
//!
//! The story is one procedure (`grammar::story`), told to a `Teller`. The writer draws and writes, the reader finds
//! the one derivation of a text, the survey adds up entropies: none of them can disagree with another about what a
//! story is. Three rules make -log p exact, span by span:
//!
//! - text is emitted at the choice itself, and no option is a prefix of another: what is read so far decides every
//!   choice made so far, and nothing leaks into a later span;
//! - nothing is drawn again: a word that may not come twice is left out of the second list;
//! - `choose` may change which words follow but never how many options a later choice has; what does is a `branch`,
//!   of which there are few enough to visit every combination (170).
//!
//! One core writes about 700 MB/s and reads 250 MB/s.

mod grammar;
mod reader;
mod survey;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod writer;

pub use reader::{Span, spans};
pub use survey::{Survey, survey};
pub use writer::Stories;

/// Changes whenever any story's text changes: (version, seed, split, index) names a text for good.
pub const GRAMMAR_VERSION: u32 = 1;

type Table = &'static [&'static str];

/// What a span tests. Drawn kinds carry the entropy; determined kinds have none, and follow from text before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Fixed text.
    Text,
    /// Drawn: which way the story goes, sentence by sentence.
    Plot,
    /// Drawn: who somebody is, with the article: "a girl", "an owl".
    Role,
    /// Determined by the role: he, she or it.
    Pronoun,
    /// Drawn: a name of three syllables, at its first mention.
    Name,
    /// Determined: a later mention.
    NameCopy,
    /// Drawn: a home, a meeting place.
    Place,
    /// Determined: the home again, at the story's end.
    PlaceRecall,
    /// Drawn.
    Colour,
    /// Determined: the colour again, one and many sentences later.
    ColourRecall,
    /// Drawn: what was found.
    Object,
    /// Determined: the object again, many sentences later.
    ObjectRecall,
    /// Drawn: a number word.
    Number,
    /// Determined by the words beside it: a or an, was or were, the plural's s.
    Agreement,
    /// Determined: one number word plus another.
    Sum,
    /// Drawn: a food, an animal, a comparative.
    Detail,
    /// Determined: the same again, within a sentence or two.
    DetailRecall,
    /// Drawn: two to four magic words.
    Saying,
    /// Determined: the magic words, verbatim, at the story's end.
    Copy,
    /// Determined: the biggest or smallest (oldest, ...) of three, after two comparisons.
    Order,
}

impl Kind {
    pub const ALL: [Kind; 20] = [
        Kind::Text,
        Kind::Plot,
        Kind::Role,
        Kind::Pronoun,
        Kind::Name,
        Kind::NameCopy,
        Kind::Place,
        Kind::PlaceRecall,
        Kind::Colour,
        Kind::ColourRecall,
        Kind::Object,
        Kind::ObjectRecall,
        Kind::Number,
        Kind::Agreement,
        Kind::Sum,
        Kind::Detail,
        Kind::DetailRecall,
        Kind::Saying,
        Kind::Copy,
        Kind::Order,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Plot => "plot",
            Kind::Role => "role",
            Kind::Pronoun => "pronoun",
            Kind::Name => "name",
            Kind::NameCopy => "name_copy",
            Kind::Place => "place",
            Kind::PlaceRecall => "place_recall",
            Kind::Colour => "colour",
            Kind::ColourRecall => "colour_recall",
            Kind::Object => "object",
            Kind::ObjectRecall => "object_recall",
            Kind::Number => "number",
            Kind::Agreement => "agreement",
            Kind::Sum => "sum",
            Kind::Detail => "detail",
            Kind::DetailRecall => "detail_recall",
            Kind::Saying => "saying",
            Kind::Copy => "copy",
            Kind::Order => "order",
        }
    }
}

/// Somebody the story is told to.
trait Teller {
    /// Why a telling ends early: never for the writer, a text that does not fit for the reader.
    type Stop;

    /// One of `options` except those `taken` (sorted), all equally likely; its text is told now. No later choice may
    /// have more or fewer options for it.
    fn choose(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize, Self::Stop>;

    /// A choice on which the rest of the story may depend in any way.
    fn branch(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize, Self::Stop>;

    /// The text that earlier choices determine. Over all stories on one path of branches, each entry of `table` must
    /// be equally frequent: the survey takes its mean length from that.
    fn recall(&mut self, kind: Kind, table: Table, index: usize) -> Result<(), Self::Stop>;

    /// Text that is always the same here.
    fn text(&mut self, text: &'static str) -> Result<(), Self::Stop>;
}

/// The place in the whole table of entry `free` of those not taken.
fn skip_taken(free: usize, taken: &[usize]) -> usize {
    debug_assert!(taken.is_sorted());
    taken.iter().fold(free, |index, &other| index + usize::from(index >= other))
}
