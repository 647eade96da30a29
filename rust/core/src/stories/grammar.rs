//! The story and its words.
//!
//! Each list is prefix-free and ASCII, checked by a test. Lists that line up belong together entry by entry.

use super::{Kind, Table, Teller};

// 16 x 16 x 8 names (7.6 nats). The second name never begins as the first does, so the two are never equal.
const HEADS: Table = &["Ba", "Be", "Bo", "Da", "De", "Fa", "Fe", "Go", "Ju", "Ka", "Ko", "Lo", "Mi", "Po", "Su", "Ta"];
const MIDDLES: Table =
    &["ba", "da", "di", "fo", "ga", "go", "ki", "la", "me", "mo", "na", "pa", "ri", "ro", "sa", "to"];
const TAILS: Table = &["da", "ki", "la", "mo", "ni", "ru", "si", "vo"];

// Lines up with SUBJECTS and CAPITAL_SUBJECTS.
const ROLES: Table = &[
    "a girl",
    "a queen",
    "a witch",
    "a lady",
    "a princess",
    "an old woman",
    "a boy",
    "a king",
    "a wizard",
    "a knight",
    "a giant",
    "an old man",
    "a robot",
    "a dragon",
    "a rabbit",
    "an owl",
];
const SUBJECTS: Table =
    &["she", "she", "she", "she", "she", "she", "he", "he", "he", "he", "he", "he", "it", "it", "it", "it"];
const CAPITAL_SUBJECTS: Table =
    &["She", "She", "She", "She", "She", "She", "He", "He", "He", "He", "He", "He", "It", "It", "It", "It"];

// Line up.
const HOMES: Table = &[
    "in the mill",
    "in the castle",
    "in the cave",
    "in the tower",
    "in the barn",
    "in the garden",
    "in the valley",
    "in the swamp",
    "by the lake",
    "by the sea",
    "by the well",
    "by the waterfall",
    "on the hill",
    "on the island",
    "on the farm",
    "under the bridge",
];
const HOMES_AGAIN: Table = &[
    "the mill",
    "the castle",
    "the cave",
    "the tower",
    "the barn",
    "the garden",
    "the valley",
    "the swamp",
    "the lake",
    "the sea",
    "the well",
    "the waterfall",
    "the hill",
    "the island",
    "the farm",
    "the bridge",
];
const MEETING_PLACES: Table = &[
    " In the forest",
    " In the village",
    " In the meadow",
    " At the market",
    " At the fair",
    " By the river",
    " On the road",
    " On the beach",
];

// Line up.
const COLOURS: Table =
    &["red", "blue", "green", "pink", "white", "black", "yellow", "purple", "orange", "amber", "ivory", "indigo"];
const ARTICLES: Table = &["a", "a", "a", "a", "a", "a", "a", "a", "an", "an", "an", "an"];

const OBJECTS: Table = &[
    "drum", "kite", "bell", "lamp", "hat", "ball", "boat", "cup", "flute", "ribbon", "book", "scarf", "coat", "key",
    "ring", "spoon",
];

// Line up: one, two, ...
const NUMBERS: Table = &["one", "two", "three", "four", "five"];
const PLURALS: Table = &["", "s", "s", "s", "s"];
const VERBS: Table = &["was", "were", "were", "were", "were"];
// Row by row: one and one, one and two, ...
#[rustfmt::skip]
const SUMS: Table = &[
    "two", "three", "four", "five", "six",
    "three", "four", "five", "six", "seven",
    "four", "five", "six", "seven", "eight",
    "five", "six", "seven", "eight", "nine",
    "six", "seven", "eight", "nine", "ten",
];
const FOODS: Table = &["plum", "pear", "fig", "apple", "carrot", "bun", "cake", "egg", "tart", "pie", "nut", "muffin"];

const ANIMALS: Table = &["fox", "hen", "cow", "frog", "goat", "horse", "duck", "cat", "dog", "bee", "pig", "mouse"];
// Line up; opposites are neighbours.
const COMPARATIVES: Table = &["bigger", "smaller", "older", "younger", "faster", "slower"];
const SUPERLATIVES: Table = &["biggest", "smallest", "oldest", "youngest", "fastest", "slowest"];

const MAGIC_WORDS: Table = &[
    "moon", "pepper", "leaf", "button", "rain", "honey", "stone", "feather", "candle", "bread", "cloud", "thunder",
    "whistle", "ginger", "snow", "basket", "acorn", "marble", "violin", "sugar", "lantern", "ivy", "clover", "wind",
];
const NUM_MAGIC_WORDS: Table = &["two", "three", "four"];

const OPENINGS: Table =
    &["Once upon a time, ", "Long ago, ", "Far away, ", "Many years ago, ", "This is the story of "];
const NAME_FIRST: usize = 4; // the opening that begins with the name
const LIKINGS: Table = &[" loved everything ", " dreamed only in ", " painted every door ", " liked all things "];
const DAYS: Table = &[" One morning, ", " One windy day, ", " After the rain, ", " One summer, "];
const EVENTS: Table = &["they sat down to eat: ", "a storm came, and ", "three animals came by: the "];
const MEAL: usize = 0;
const STORM: usize = 1;
const TURNS: Table = &[" Then ", " In the end, ", " At last, "];
const ANOTHER_EVENT: usize = 0;
const LAST_TURNS: Table = &[" In the end, ", " At last, "];
const THIRD_ANIMALS: Table = &[", but the ", ", and the "];
const BUT: usize = 0;
const FAREWELLS: Table = &[" gave the ", " lent the ", " sold the ", " showed the "];
const EVENINGS: Table = &[
    " slept well.",
    " sang softly.",
    " was happy.",
    " danced alone.",
    " drank warm milk.",
    " looked at the stars.",
    " wrote it all down.",
    " told the tale.",
];

#[derive(Clone, Copy)]
struct Name([usize; 3]);

fn name<T: Teller>(teller: &mut T, taken_heads: &[usize]) -> Result<Name, T::Stop> {
    Ok(Name([
        teller.choose(Kind::Name, HEADS, taken_heads)?,
        teller.choose(Kind::Name, MIDDLES, &[])?,
        teller.choose(Kind::Name, TAILS, &[])?,
    ]))
}

fn name_again<T: Teller>(teller: &mut T, Name([head, middle, tail]): Name) -> Result<(), T::Stop> {
    teller.recall(Kind::NameCopy, HEADS, head)?;
    teller.recall(Kind::NameCopy, MIDDLES, middle)?;
    teller.recall(Kind::NameCopy, TAILS, tail)
}

/// "two plums were for Fepala": returns the number and the food, which is drawn when it is not given.
fn share<T: Teller>(teller: &mut T, food: Option<usize>, eater: Name) -> Result<(usize, usize), T::Stop> {
    let number = teller.choose(Kind::Number, NUMBERS, &[])?;
    teller.text(" ")?;
    let food = match food {
        None => teller.choose(Kind::Detail, FOODS, &[])?,
        Some(food) => {
            teller.recall(Kind::DetailRecall, FOODS, food)?;
            food
        }
    };
    teller.recall(Kind::Agreement, PLURALS, number)?;
    teller.text(" ")?;
    teller.recall(Kind::Agreement, VERBS, number)?;
    teller.text(" for ")?;
    name_again(teller, eater)?;
    Ok((number, food))
}

/// Number words, agreement, and a sum of one to five and one to five.
fn meal<T: Teller>(teller: &mut T, hero: Name, friend: Name) -> Result<(), T::Stop> {
    let (mine, food) = share(teller, None, hero)?;
    teller.text(" and ")?;
    let (yours, _) = share(teller, Some(food), friend)?;
    teller.text(", ")?;
    teller.recall(Kind::Sum, SUMS, mine * NUMBERS.len() + yours)?;
    teller.text(" ")?;
    teller.recall(Kind::DetailRecall, FOODS, food)?;
    teller.text("s in all.")
}

/// The magic words that the story's end repeats.
struct Saying {
    words: [usize; 4],
    num_words: usize,
}

fn storm<T: Teller>(teller: &mut T, hero: Name, friend: Name) -> Result<Saying, T::Stop> {
    name_again(teller, friend)?;
    teller.text(" taught ")?;
    name_again(teller, hero)?;
    teller.text(" ")?;
    let num_words = 2 + teller.branch(Kind::Number, NUM_MAGIC_WORDS, &[])?;
    teller.text(" magic words: \"")?;
    let mut words = [0; 4];
    for (i, word) in words[..num_words].iter_mut().enumerate() {
        if i > 0 {
            teller.text(" ")?;
        }
        *word = teller.choose(Kind::Saying, MAGIC_WORDS, &[])?;
    }
    teller.text("\".")?;
    Ok(Saying { words, num_words })
}

fn say_again<T: Teller>(teller: &mut T, saying: &Saying) -> Result<(), T::Stop> {
    for (i, &word) in saying.words[..saying.num_words].iter().enumerate() {
        if i > 0 {
            teller.text(" ")?;
        }
        teller.recall(Kind::Copy, MAGIC_WORDS, word)?;
    }
    Ok(())
}

/// Three animals on one scale; the answer may be any of the three, so no position gives it away.
fn animals<T: Teller>(teller: &mut T) -> Result<(), T::Stop> {
    let first = teller.choose(Kind::Detail, ANIMALS, &[])?;
    teller.text(" was ")?;
    let scale = teller.choose(Kind::Detail, COMPARATIVES, &[])?;
    teller.text(" than the ")?;
    let second = teller.choose(Kind::Detail, ANIMALS, &[first])?;
    let seen = [first.min(second), first.max(second)];
    let (most, least) = if teller.branch(Kind::Plot, THIRD_ANIMALS, &[])? == BUT {
        let third = teller.choose(Kind::Detail, ANIMALS, &seen)?;
        teller.text(" was even ")?;
        teller.recall(Kind::DetailRecall, COMPARATIVES, scale)?;
        (third, second)
    } else {
        teller.recall(Kind::DetailRecall, ANIMALS, second)?;
        teller.text(" was ")?;
        teller.recall(Kind::DetailRecall, COMPARATIVES, scale)?;
        teller.text(" than the ")?;
        let third = teller.choose(Kind::Detail, ANIMALS, &seen)?;
        (first, third)
    };
    teller.text(". So the ")?;
    let mut off_scale = [0; 4];
    let others = (0..SUPERLATIVES.len()).filter(|other| other / 2 != scale / 2);
    off_scale.iter_mut().zip(others).for_each(|(slot, other)| *slot = other);
    let asked = teller.choose(Kind::Detail, SUPERLATIVES, &off_scale)?;
    teller.text(" was the ")?;
    teller.recall(Kind::Order, ANIMALS, if asked == scale { most } else { least })?;
    teller.text(".")
}

/// Tells one story. Nothing can follow its last sentence, so an end token after it has probability one.
pub(super) fn story<T: Teller>(teller: &mut T) -> Result<(), T::Stop> {
    let role;
    let hero;
    if teller.branch(Kind::Plot, OPENINGS, &[])? == NAME_FIRST {
        hero = name(teller, &[])?;
        teller.text(", ")?;
        role = teller.choose(Kind::Role, ROLES, &[])?;
        teller.text(" who lived ")?;
    } else {
        role = teller.choose(Kind::Role, ROLES, &[])?;
        teller.text(" named ")?;
        hero = name(teller, &[])?;
        teller.text(" lived ")?;
    }
    let home = teller.choose(Kind::Place, HOMES, &[])?;
    teller.text(". ")?;

    teller.recall(Kind::Pronoun, CAPITAL_SUBJECTS, role)?;
    teller.choose(Kind::Plot, LIKINGS, &[])?;
    let colour = teller.choose(Kind::Colour, COLOURS, &[])?;
    teller.text(".")?;

    teller.choose(Kind::Plot, DAYS, &[])?;
    name_again(teller, hero)?;
    teller.text(" found ")?;
    teller.recall(Kind::Agreement, ARTICLES, colour)?;
    teller.text(" ")?;
    teller.recall(Kind::ColourRecall, COLOURS, colour)?;
    teller.text(" ")?;
    let object = teller.choose(Kind::Object, OBJECTS, &[])?;
    teller.text(".")?;

    teller.choose(Kind::Place, MEETING_PLACES, &[])?;
    teller.text(", ")?;
    teller.recall(Kind::Pronoun, SUBJECTS, role)?;
    teller.text(" met ")?;
    teller.choose(Kind::Role, ROLES, &[])?;
    teller.text(" named ")?;
    let friend = name(teller, &[hero.0[0]])?;
    teller.text(". Soon ")?;

    let mut saying = None;
    let mut tell_event = |teller: &mut T, event: usize| match event {
        MEAL => meal(teller, hero, friend),
        STORM => storm(teller, hero, friend).map(|words| saying = Some(words)),
        _ => animals(teller),
    };
    let event = teller.branch(Kind::Plot, EVENTS, &[])?;
    tell_event(teller, event)?;
    if teller.branch(Kind::Plot, TURNS, &[])? == ANOTHER_EVENT {
        let event = teller.branch(Kind::Plot, EVENTS, &[event])?;
        tell_event(teller, event)?;
        teller.choose(Kind::Plot, LAST_TURNS, &[])?;
    }

    name_again(teller, hero)?;
    teller.choose(Kind::Plot, FAREWELLS, &[])?;
    teller.recall(Kind::ColourRecall, COLOURS, colour)?;
    teller.text(" ")?;
    teller.recall(Kind::ObjectRecall, OBJECTS, object)?;
    teller.text(" to ")?;
    name_again(teller, friend)?;
    teller.text(".")?;
    if let Some(saying) = saying {
        teller.text(" ")?;
        name_again(teller, friend)?;
        teller.text(" said again: \"")?;
        say_again(teller, &saying)?;
        teller.text("\".")?;
    }

    teller.text(" That night, ")?;
    name_again(teller, hero)?;
    teller.text(" went home to ")?;
    teller.recall(Kind::PlaceRecall, HOMES_AGAIN, home)?;
    teller.text(", where ")?;
    teller.recall(Kind::Pronoun, SUBJECTS, role)?;
    teller.choose(Kind::Plot, EVENINGS, &[])?;
    Ok(())
}
