//! Rows that hold several documents, each to be computed as if it stood alone.

use super::expect_len;
use crate::error::{Error, Result};
use std::ops::Range;

/// Where the documents of every row of a batch begin.
#[derive(Clone, Debug)]
pub struct Documents {
    begins: Vec<Vec<usize>>,
    shape: [usize; 2],
}

/// Some steps of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where its document begins.
    pub document: usize,
    pub steps: Range<usize>,
}

impl Piece {
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.document == self.steps.start
    }
}

impl Documents {
    /// From the first position that every position sees, [B, T]: its own where a document begins, else that of the
    /// position before.
    pub fn new(starts_bt: &[i64], [batch, time]: [usize; 2]) -> Result<Self> {
        expect_len("starts", starts_bt.len(), batch * time)?;
        let begins = (0..batch).map(|b| begins(b, &starts_bt[b * time..(b + 1) * time])).collect::<Result<_>>()?;
        Ok(Self { begins, shape: [batch, time] })
    }

    pub(super) fn expect_shape(&self, batch: usize, time: usize) -> Result<()> {
        if self.shape == [batch, time] {
            return Ok(());
        }
        Err(Error::Shape(format!("starts: expected shape {:?}, found {:?}", [batch, time], self.shape)))
    }
}

fn begins(b: usize, starts: &[i64]) -> Result<Vec<usize>> {
    let mut begins = Vec::new();
    for (t, &start) in starts.iter().enumerate() {
        if start == t as i64 {
            begins.push(t);
        } else if t == 0 || start != starts[t - 1] {
            return Err(Error::Shape(format!(
                "starts: row {b}, position {t}: expected its own, or what the position before has, found {start}"
            )));
        }
    }
    Ok(begins)
}

/// Cuts some steps of row `b` where documents begin; without `documents` a row is one.
#[inline(always)]
pub(super) fn cut_steps(documents: Option<&Documents>, b: usize, steps: Range<usize>, pieces: &mut Vec<Piece>) {
    pieces.clear();
    let begins = documents.map_or(&[0][..], |documents| &documents.begins[b]);
    let next = begins.partition_point(|begin| *begin <= steps.start);
    let mut piece = Piece { document: begins[next - 1], steps: steps.clone() };
    for &begin in begins[next..].iter().take_while(|begin| **begin < steps.end) {
        piece.steps.end = begin;
        pieces.push(piece);
        piece = Piece { document: begin, steps: begin..steps.end };
    }
    pieces.push(piece);
}
