//! Exact expectations, by telling the story once for every path of branches.

use super::grammar::story;
use super::{Kind, Table, Teller, skip_taken};
use std::convert::Infallible;

/// What is known of all stories together.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Expected nats per story, by kind, in the order of `Kind::ALL`: the entropy, and a model's lowest loss.
    pub nats: [f64; Kind::ALL.len()],
    /// Expected characters per story, by kind.
    pub characters: [f64; Kind::ALL.len()],
    /// No story is longer: the sum of the longest entries along the longest path, which no story need reach.
    pub max_characters: usize,
    /// Paths of branches.
    pub num_paths: usize,
}

impl Survey {
    pub fn total_nats(&self) -> f64 {
        self.nats.iter().sum()
    }

    pub fn mean_characters(&self) -> f64 {
        self.characters.iter().sum()
    }
}

pub fn survey() -> Survey {
    let mut survey =
        Survey { nats: [0.0; Kind::ALL.len()], characters: [0.0; Kind::ALL.len()], max_characters: 0, num_paths: 0 };
    let mut path: Vec<Turn> = Vec::new();
    loop {
        let mut walker = Walker::new(path);
        let Ok(()) = story(&mut walker);
        let probability: f64 = walker.path.iter().map(|turn| 1.0 / turn.num_options as f64).product();
        for kind in 0..Kind::ALL.len() {
            survey.nats[kind] += probability * walker.nats[kind];
            survey.characters[kind] += probability * walker.characters[kind];
        }
        survey.max_characters = survey.max_characters.max(walker.max_characters);
        survey.num_paths += 1;

        path = walker.path;
        while path.last().is_some_and(|turn| turn.taken + 1 == turn.num_options) {
            path.pop();
        }
        let Some(last) = path.last_mut() else { return survey };
        last.taken += 1;
    }
}

#[derive(Clone, Copy)]
struct Turn {
    taken: usize,
    num_options: usize,
}

/// Follows `path` where it leads, then the first option of every branch; always the first option of every choice.
struct Walker {
    path: Vec<Turn>,
    depth: usize,
    nats: [f64; Kind::ALL.len()],
    characters: [f64; Kind::ALL.len()],
    max_characters: usize,
}

impl Walker {
    fn new(path: Vec<Turn>) -> Self {
        Self { path, depth: 0, nats: [0.0; Kind::ALL.len()], characters: [0.0; Kind::ALL.len()], max_characters: 0 }
    }

    fn spend(&mut self, kind: Kind, num_options: usize) {
        self.nats[kind as usize] += (num_options as f64).ln();
    }

    /// One entry of `table`, each as likely as another. That holds for a list with entries left out as well, because
    /// what is left out is always drawn evenly from the same list.
    fn emit(&mut self, kind: Kind, table: &[&str]) {
        let characters: usize = table.iter().map(|text| text.len()).sum();
        self.characters[kind as usize] += characters as f64 / table.len() as f64;
        self.max_characters += table.iter().map(|text| text.len()).max().unwrap_or(0);
    }
}

impl Teller for Walker {
    type Stop = Infallible;

    fn choose(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize, Infallible> {
        self.spend(kind, options.len() - taken.len());
        self.emit(kind, options);
        Ok(skip_taken(0, taken))
    }

    fn branch(&mut self, kind: Kind, options: Table, taken: &[usize]) -> Result<usize, Infallible> {
        let num_options = options.len() - taken.len();
        if self.depth == self.path.len() {
            self.path.push(Turn { taken: 0, num_options });
        }
        let index = skip_taken(self.path[self.depth].taken, taken);
        self.depth += 1;
        self.spend(kind, num_options);
        self.emit(kind, &options[index..=index]);
        Ok(index)
    }

    fn recall(&mut self, kind: Kind, table: Table, _: usize) -> Result<(), Infallible> {
        self.emit(kind, table);
        Ok(())
    }

    fn text(&mut self, text: &'static str) -> Result<(), Infallible> {
        self.emit(Kind::Text, &[text]);
        Ok(())
    }
}
