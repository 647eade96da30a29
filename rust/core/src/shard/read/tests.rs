//! Levels and pages by hand, and every kind of nonsense in their place.

use super::*;
use proptest::prelude::*;

fn collected(data: &[u8], count: usize) -> Option<Vec<bool>> {
    let found = std::cell::RefCell::new(Vec::new());
    runs(data, count, |first, length, level| {
        assert_eq!(first, found.borrow().len());
        found.borrow_mut().extend(std::iter::repeat_n(level, length));
        true
    })?;
    Some(found.into_inner())
}

#[test]
fn levels_are_runs_and_packed_bits() {
    // Ten times 1, then one group of bits of which five are wanted.
    assert_eq!(
        collected(&[20, 1, 3, 0b0000_0110], 15),
        Some([[true; 10].as_slice(), &[false, true, true, false, false]].concat())
    );
    assert_eq!(collected(&[20, 1], 11), None, "too few");
    assert_eq!(collected(&[24, 1], 11), None, "too many");
    assert_eq!(collected(&[20, 1, 0], 10), None, "a byte more");
    assert_eq!(collected(&[0, 1, 20, 1], 10), None, "an empty run");
    assert_eq!(collected(&[20, 2], 10), None, "no level of one bit");
}

/// A page of eight tokens: levels as packed bits, then four streams of bytes.
fn page(repetition: u8, definition: u8) -> Vec<u8> {
    let level = |bits| [2, 0, 0, 0, 3, bits];
    [&level(repetition)[..], &level(definition), &[0; 32]].concat()
}

#[test]
fn ragged_rows_and_nulls_are_refused_by_their_levels() {
    let whole = page(0b1110_1110, 0xff); // bits from the right: 0 begins a row
    assert_eq!(values_of(&whole, 0, 8, 4), Ok(&[0; 32][..]));
    assert_eq!(values_of(&whole, 400, 8, 4), Ok(&[0; 32][..]));
    let ragged = Err("its rows do not all have 4 tokens".to_string());
    assert_eq!(values_of(&whole, 1, 8, 4), ragged, "a page that begins inside a row");
    assert_eq!(values_of(&page(0b1111_0110, 0xff), 0, 8, 4), ragged, "rows of 3 and 5");
    assert_eq!(values_of(&page(0b1111_1110, 0xff), 0, 8, 4), ragged, "one of 8");
    assert_eq!(values_of(&page(0b1110_1110, 0xfb), 0, 8, 4), Err("a token is null".into()));
    assert!(values_of(&whole[..43], 0, 8, 4).is_err(), "a value too few");
}

#[test]
fn an_id_that_does_not_fit_is_no_id() {
    let mut narrow = [0u16; 2];
    assert_eq!(u16::join(&[1, 2, 3, 0xff, 0, 0, 0, 0], &mut narrow), Some(0xff02));
    assert_eq!(narrow, [0x0301, 0xff02]);
    assert_eq!(u16::join(&[1, 2, 3, 4, 0, 1, 0, 0], &mut narrow), None);
    assert_eq!(u16::join(&[1, 2, 3, 4, 0, 0, 0x80, 0], &mut narrow), None);
    let mut wide = [0u32; 2];
    assert_eq!(u32::join(&[1, 2, 3, 4, 5, 6, 7, 0xff], &mut wide), Some(0xff06_0402));
    assert_eq!(wide, [0x0705_0301, 0xff06_0402]);
}

proptest! {
    #[test]
    fn no_page_makes_it_panic(page in proptest::collection::vec(0u8..6, 0..60), at in 0usize..9, count in 1usize..9, seq_len in 1usize..5) {
        if let Ok(values) = values_of(&page, at, count, seq_len) {
            prop_assert_eq!(values.len(), 4 * count);
        }
    }

    #[test]
    fn no_levels_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..12), count in 0usize..100) {
        if let Some(levels) = collected(&data, count) {
            prop_assert_eq!(levels.len(), count);
        }
    }
}
