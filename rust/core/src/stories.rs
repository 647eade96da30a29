//! The embedded corpus: a seeded story grammar in which the probability of every span is exactly known.
