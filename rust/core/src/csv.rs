//! One column of a csv text, piece by piece: whole rows are taken, and the rest is left for the next call.
//!
//! Rows are as in RFC 4180, read as Python's csv module reads them: a field in quotes may hold separators, line ends and
//! doubled quotes; a line without anything is no row. What would be a guess is refused: text behind a closing quote, a
//! quote that never closes, a row with more or fewer fields than the header.

use memchr::{memchr, memchr3};

/// What stands in the way of reading a row.
type Problem = String;

/// The column's texts, one behind the other, and where each ends; how many bytes were taken; the problem with the row
/// that follows, if there is one.
pub struct Column {
    pub texts: Vec<u8>,
    pub edges: Vec<i64>,
    pub taken: usize,
    pub problem: Option<Problem>,
}

/// Gives each field of the row at `at` to `field`, with its doubled quotes still doubled where the flag says so.
///
/// Returns the number of fields and where the next row begins; None where the row is not all there yet.
fn row(
    data: &[u8],
    mut at: usize,
    separator: u8,
    last: bool,
    mut field: impl FnMut(usize, &[u8], bool),
) -> Result<Option<(usize, usize)>, Problem> {
    let mut count = 0;
    loop {
        let quoted = data.get(at) == Some(&b'"');
        if quoted {
            let start = at + 1;
            let mut end = start;
            loop {
                match memchr(b'"', &data[end..]) {
                    Some(more) if data.get(end + more + 1) == Some(&b'"') => end += more + 2,
                    Some(more) => break end += more,
                    None if last => return Err("a quote is opened and never closed".into()),
                    None => return Ok(None),
                }
            }
            at = end + 1;
            if at == data.len() && !last {
                return Ok(None); // the next byte may be a second quote
            }
            field(count, &data[start..end], true);
        } else {
            let end = memchr3(separator, b'\n', b'\r', &data[at..]).map_or(data.len(), |more| at + more);
            if end == data.len() && !last {
                return Ok(None);
            }
            field(count, &data[at..end], false);
            at = end;
        }
        count += 1;
        match data.get(at) {
            None => return Ok(Some((count, at))),
            Some(b'\n' | b'\r') => return Ok(Some((count, at + 1))), // the second of \r\n is an empty line
            Some(&byte) if byte == separator => at += 1,
            Some(_) => return Err("text follows a closing quote; a quote inside quotes is doubled".into()),
        }
    }
}

fn append(out: &mut Vec<u8>, mut field: &[u8], quoted: bool) {
    while quoted && let Some(quote) = memchr(b'"', field) {
        out.extend_from_slice(&field[..=quote]);
        field = &field[quote + 2..];
    }
    out.extend_from_slice(field);
}

fn skip_empty_lines(data: &[u8], mut at: usize) -> usize {
    while matches!(data.get(at), Some(b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The fields of the first row and where the next begins; None where it is not all there yet, or nothing is there.
#[allow(clippy::type_complexity)]
pub fn header(data: &[u8], separator: u8, last: bool) -> Result<Option<(Vec<Vec<u8>>, usize)>, Problem> {
    let start = skip_empty_lines(data, 0);
    if start == data.len() {
        return Ok(None);
    }
    let mut fields = vec![];
    let found = row(data, start, separator, last, |_, field, quoted| {
        let mut name = vec![];
        append(&mut name, field, quoted);
        fields.push(name);
    })?;
    Ok(found.map(|(_, next)| (fields, next)))
}

/// Field `column` of every whole row in `data`, which begins where a row begins. `last`: nothing follows this data.
pub fn texts(data: &[u8], separator: u8, column: usize, columns: usize, last: bool) -> Column {
    let mut out = Column { texts: Vec::with_capacity(data.len()), edges: vec![0], taken: 0, problem: None };
    loop {
        out.taken = skip_empty_lines(data, out.taken);
        if out.taken == data.len() {
            return out;
        }
        let start = out.texts.len();
        let found = row(data, out.taken, separator, last, |number, field, quoted| {
            if number == column {
                append(&mut out.texts, field, quoted);
            }
        });
        let problem = match found {
            Ok(Some((count, next))) if count == columns => {
                out.edges.push(out.texts.len() as i64);
                out.taken = next;
                continue;
            }
            Ok(Some((count, _))) => Some(format!("it has {count} fields, the header {columns}")),
            Ok(None) => None,
            Err(problem) => Some(problem),
        };
        out.texts.truncate(start);
        out.problem = problem;
        return out;
    }
}

#[cfg(test)]
mod tests {
    use super::{header, texts};

    fn column(data: &[u8], last: bool) -> (Vec<String>, usize, Option<String>) {
        let found = texts(data, b',', 1, 2, last);
        let text = |cut: &[i64]| String::from_utf8_lossy(&found.texts[cut[0] as usize..cut[1] as usize]).into_owned();
        (found.edges.windows(2).map(text).collect(), found.taken, found.problem)
    }

    #[test]
    fn quotes_hold_separators_line_ends_and_quotes() {
        let data = b"1,\"a, \"\"b\"\"\r\nc\"\r\n\n2,\n3,5\" pipe\r4,\"\"";
        assert_eq!(column(data, true).0, ["a, \"b\"\r\nc", "", "5\" pipe", ""]);
        assert_eq!(
            header(b"\nid,\"te\"\"xt\"\n1,", b',', false),
            Ok(Some((vec![b"id".to_vec(), b"te\"xt".to_vec()], 13)))
        );
    }

    #[test]
    fn a_cut_anywhere_takes_whole_rows_and_leaves_the_rest() {
        let data = "1,\"a\"\"\n\"\r\n22,\"\"\n3,é\n\n4,x".as_bytes();
        let whole = column(data, true).0;
        assert_eq!(whole, ["a\"\n", "", "é", "x"]);
        for cut in 0..=data.len() {
            let (mut found, taken, problem) = column(&data[..cut], false);
            assert_eq!(problem, None);
            found.extend(column(&data[taken..], true).0);
            assert_eq!(found, whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_would_be_a_guess_is_refused_with_the_rows_before_it() {
        for (data, said) in [
            (&b"1,a\n2,\"b"[..], "never closed"),
            (b"1,a\n2,\"b\"c\n", "follows a closing quote"),
            (b"1,a\n2\n", "it has 1 fields, the header 2"),
            (b"1,a\n2,b,c\n", "it has 3 fields, the header 2"),
        ] {
            let (found, taken, problem) = column(data, true);
            assert_eq!((found, taken), (vec!["a".into()], 4));
            assert!(problem.is_some_and(|problem| problem.contains(said)), "{said}");
        }
    }
}
