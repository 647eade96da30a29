//! Columns of a table joined to one text for each row, between fixed pieces of text.

/// `between[0] columns[0][row] between[1] ... columns[n-1][row] between[n]` for every row, one behind the other, and
/// where each begins; one more place at the end. None when the columns differ in length, or `between` does not fit.
pub fn joined(between: &[Vec<u8>], columns: &[Vec<&[u8]>]) -> Option<(Vec<u8>, Vec<i64>)> {
    let rows = columns.first()?.len();
    if between.len() != columns.len() + 1 || columns.iter().any(|column| column.len() != rows) {
        return None;
    }
    let fixed: usize = between.iter().map(Vec::len).sum::<usize>() * rows;
    let varying: usize = columns.iter().flatten().map(|cell| cell.len()).sum();
    let (mut out, mut edges) = (Vec::with_capacity(fixed + varying), Vec::with_capacity(rows + 1));
    edges.push(0);
    for row in 0..rows {
        for (piece, column) in between.iter().zip(columns) {
            out.extend_from_slice(piece);
            out.extend_from_slice(column[row]);
        }
        out.extend_from_slice(&between[columns.len()]);
        edges.push(out.len() as i64);
    }
    Some((out, edges))
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn rows_are_joined_and_what_does_not_fit_is_refused() {
        let between = [b"<".to_vec(), b"|".to_vec(), b">".to_vec()];
        let columns: [Vec<&[u8]>; 2] = [vec![b"a", b""], vec![b"", b"bc"]];
        assert_eq!(joined(&between, &columns), Some((b"<a|><|bc>".to_vec(), vec![0, 4, 9])));
        assert_eq!(joined(&between, &columns[..1]), None);
        assert_eq!(joined(&between, &[columns[0].clone(), vec![]]), None);
        assert_eq!(joined(&between[..1], &[]), None);
    }
}
