use super::grammar::story;
use super::reader::Reader;
use super::*;
use crate::error::Error;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

const MANY: u64 = 20_000;

/// Passes everything on to another teller, and watches what the story asks of it.
struct Watched<T> {
    inner: T,
    nats: f64,
    derivation: Vec<usize>,
    path: Vec<usize>,
    /// The number of options at every choice.
    counts: Vec<usize>,
    checked: HashSet<*const &'static str>,
}

impl<T: Teller> Watched<T> {
    fn tell(inner: T) -> Result<Self, T::Stop> {
        let mut watched =
            Self { inner, nats: 0.0, derivation: vec![], path: vec![], counts: vec![], checked: HashSet::new() };
        story(&mut watched)?;
        Ok(watched)
    }

    fn watch(&mut self, options: Table, taken: &[usize], index: usize) {
        if self.checked.insert(options.as_ptr()) {
            for (i, a) in options.iter().enumerate() {
                assert!(!a.is_empty() && a.is_ascii(), "{a:?}");
                assert!(options.iter().skip(i + 1).all(|b| !a.starts_with(b) && !b.starts_with(a)), "{a:?}");
            }
        }
        assert!(taken.iter().all(|&other| other < options.len() && other != index));
        assert!(taken.windows(2).all(|pair| pair[0] < pair[1]), "{taken:?} is not sorted");
        self.nats += ((options.len() - taken.len()) as f64).ln();
        self.derivation.push(index);
        self.counts.push(options.len() - taken.len());
    }
}

impl<T: Teller> Teller for Watched<T> {
    type Stop = T::Stop;

    fn choose(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize, T::Stop> {
        let index = self.inner.choose(kind, options, taken)?;
        self.watch(options, taken, index);
        Ok(index)
    }

    fn branch(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize, T::Stop> {
        let index = self.inner.branch(kind, options, taken)?;
        self.watch(options, taken, index);
        self.path.push(index);
        Ok(index)
    }

    fn recall(&mut self, kind: Kind, table: Table, index: usize) -> Result<(), T::Stop> {
        assert!(table.iter().all(|text| text.is_ascii()));
        self.inner.recall(kind, table, index)
    }

    fn text(&mut self, text: &'static str) -> Result<(), T::Stop> {
        assert!(text.is_ascii());
        self.inner.text(text)
    }
}

fn one(stories: &Stories, index: u64) -> String {
    let mut text = String::new();
    stories.write(index, &mut text);
    text
}

#[test]
fn every_text_has_the_derivation_that_wrote_it() {
    let stories = Stories::new(3, "train");
    let mut texts = HashSet::new();
    for index in 0..MANY {
        let mut text = String::new();
        let Ok(wrote) = Watched::tell(stories.writer(index, &mut text));
        let (derivation, nats) = (wrote.derivation, wrote.nats);
        let read = Watched::tell(Reader::new(&text)).unwrap();
        assert_eq!(read.derivation, derivation, "{text}");
        assert_eq!(read.nats, nats);

        let spans = read.inner.finish().unwrap();
        assert!(spans.first().is_some_and(|span| span.start == 0));
        assert!(spans.last().is_some_and(|span| span.end == text.len()));
        assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].kind != pair[1].kind));
        assert!(spans.iter().all(|span| span.start < span.end));
        let sum: f64 = spans.iter().map(|span| span.nats).sum();
        assert!((sum - nats).abs() < 1e-9, "{sum} and {nats}"); // the same terms, added in another order
        texts.insert(text);
    }
    assert_eq!(texts.len() as u64, MANY);
}

#[test]
fn option_counts_depend_on_branches_only() {
    let stories = Stories::new(4, "train");
    let mut shapes: HashMap<Vec<usize>, Vec<usize>> = HashMap::new();
    let mut text = String::new();
    for index in 0..MANY {
        text.clear();
        let Ok(watched) = Watched::tell(stories.writer(index, &mut text));
        let shape = shapes.entry(watched.path).or_insert_with(|| watched.counts.clone());
        assert_eq!(*shape, watched.counts, "{text}");
    }
    assert_eq!(shapes.len(), survey().num_paths);
}

#[test]
fn means_over_stories_are_the_survey() {
    let (stories, survey) = (Stories::new(5, "train"), survey());
    const KINDS: usize = Kind::ALL.len();
    // Columns: nats by kind, characters by kind, both totals.
    let mut sums = [[0.0; 2]; 2 * KINDS + 2];
    for index in 0..MANY {
        let mut row = [0.0; 2 * KINDS + 2];
        for span in spans(&one(&stories, index)).unwrap() {
            for (column, value) in [(0, span.nats), (KINDS, (span.end - span.start) as f64)] {
                row[column + span.kind as usize] += value;
                row[2 * KINDS + column / KINDS] += value;
            }
        }
        for (sum, value) in sums.iter_mut().zip(row) {
            sum[0] += value;
            sum[1] += value * value;
        }
    }
    let expected = survey.nats.iter().chain(&survey.characters).copied();
    let expected = expected.chain([survey.total_nats(), survey.mean_characters()]);
    for (column, (sum, expected)) in sums.iter().zip(expected).enumerate() {
        let mean = sum[0] / MANY as f64;
        let standard_error = ((sum[1] / MANY as f64 - mean * mean).max(0.0) / MANY as f64).sqrt();
        let name = Kind::ALL.get(column % KINDS).map(|kind| kind.name());
        assert!((mean - expected).abs() <= 3.0 * standard_error + 1e-6, "{column} {name:?}: {mean}, not {expected}");
    }
}

#[test]
fn determined_spans_cost_nothing_and_drawn_ones_something() {
    let survey = survey();
    let drawn = [Kind::Plot, Kind::Role, Kind::Name, Kind::Place, Kind::Colour, Kind::Object, Kind::Number];
    for kind in Kind::ALL {
        assert_eq!(Kind::ALL[kind as usize], kind);
        let is_drawn = drawn.contains(&kind) || [Kind::Detail, Kind::Saying].contains(&kind);
        assert_eq!(survey.nats[kind as usize] > 0.0, is_drawn, "{kind:?}");
        assert!(survey.characters[kind as usize] > 0.0, "{kind:?}");
    }
}

#[test]
fn one_wrong_word_is_refused() {
    let stories = Stories::new(6, "train");
    let determined = [
        (Kind::NameCopy, "Xobami"),
        (Kind::PlaceRecall, "the moon"),
        (Kind::ColourRecall, "grey"),
        (Kind::ObjectRecall, "sword"),
        (Kind::Sum, "twelve"),
        (Kind::Copy, "moon moon"),
        (Kind::Order, "whale"),
        (Kind::Pronoun, "they"),
        (Kind::Agreement, "are"),
    ];
    for index in 0..200 {
        let text = one(&stories, index);
        for span in spans(&text).unwrap() {
            for (kind, wrong) in determined {
                if span.kind == kind && text[span.start..span.end] != *wrong {
                    let damaged = format!("{}{wrong}{}", &text[..span.start], &text[span.end..]);
                    assert!(matches!(spans(&damaged), Err(Error::NotAStory { .. })), "{damaged}");
                }
            }
        }
        for end in 0..text.len() {
            assert!(spans(&text[..end]).is_err(), "{}", &text[..end]);
        }
        assert!(spans(&format!("{text} ")).is_err());
    }
    assert!(spans("Once upon a time, \u{e9}").is_err());
}

#[test]
fn the_text_never_changes_by_accident() {
    assert_eq!(GRAMMAR_VERSION, 1, "a new version needs a new hash");
    let mut text = String::new();
    for (seed, split) in [(0, "train"), (0, "validation"), (1, "train")] {
        for index in 0..1000 {
            Stories::new(seed, split).write(index, &mut text);
            text.push('\n');
        }
    }
    let hash: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "b400bca4f8167e896d0c4f7987cc36deff3df1c937c75494556ffe2e082c8e18");
}

#[test]
fn no_story_is_longer_than_the_survey_says() {
    let stories = Stories::new(7, "test");
    let longest = (0..MANY).map(|index| one(&stories, index).len()).max().unwrap();
    let bound = survey().max_characters;
    println!("longest of {MANY}: {longest}; bound {bound}");
    assert!(longest <= bound && bound <= 700);
}

#[test]
fn throughput() {
    let stories = Stories::new(8, "train");
    let (mut text, mut ends) = (String::with_capacity(1 << 25), vec![0]);
    let start = Instant::now();
    for index in 0..50_000 {
        stories.write(index, &mut text);
        ends.push(text.len());
    }
    let written = start.elapsed().as_secs_f64();
    let start = Instant::now();
    assert!(ends.windows(2).all(|cut| spans(&text[cut[0]..cut[1]]).is_ok()));
    let read = start.elapsed().as_secs_f64();
    let megabytes = text.len() as f64 / 1e6;
    println!("writes {:.0} MB/s, reads {:.0} MB/s", megabytes / written, megabytes / read);
}
