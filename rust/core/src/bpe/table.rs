//! The table of short words and their ids: fixed in size, in pairs of slots of which each is a line of the cache.

use crate::shard::Id;

/// Pairs of slots: 2^19 words in 16 MB. Fewer miss too often on prose, more cost what they save.
const PAIRS: usize = 1 << 18;
const HUGE_PAGE: usize = 2 << 20;

/// A word, 0 where there is none, and its ids; twice.
type Pair = [u128; 4];

/// Words of up to 15 bytes, packed, and up to 7 ids of 16 bits or 3 of 32.
pub struct Table {
    memory: Vec<u128>,
    first: usize, // the first pair lies at the beginning of a line
}

impl Table {
    /// Memory comes from the system as it is touched, as few large pages where it has them: 16 MB in small ones cost up
    /// to 30 ms when they are new, and the processor's table of pages holds fewer.
    pub fn new() -> Self {
        let memory = vec![0u128; 4 * PAIRS + 3];
        let first = memory.as_ptr().align_offset(64).min(3);
        ask_for_huge_pages(&memory);
        Self { memory, first }
    }

    #[inline(always)]
    fn pairs(&self) -> &[Pair; PAIRS] {
        let (pairs, _) = self.memory[self.first..].as_chunks::<4>();
        pairs.first_chunk().expect("as many were set aside")
    }

    /// The pair where a word is, if it is anywhere.
    #[inline(always)]
    pub fn place_of(word: u128) -> usize {
        let (low, high) = (word as u64, (word >> 64) as u64);
        let wide = u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xc2b2_ae3d_27d4_eb4f);
        ((wide >> 64) as u64 ^ wide as u64) as usize % PAIRS
    }

    /// Asks for a pair that will be looked at soon: the table lies farther away than a word takes.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub fn prefetch(&self, place: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint, which reads nothing that the program could see.
        unsafe {
            let line = std::ptr::from_ref(&self.pairs()[place]);
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    /// The ids of a word as `packed` made them; which of its two slots has it is no branch.
    #[inline(always)]
    pub fn get(&self, place: usize, word: u128) -> Option<&u128> {
        let pair = &self.pairs()[place];
        let slot = 2 * usize::from(pair[2] == word);
        (pair[slot] == word).then_some(&pair[slot + 1])
    }

    /// The newer of a pair's two words stays, so that the common ones always come back.
    pub fn put(&mut self, place: usize, word: u128, ids: u128) {
        let at = self.first + 4 * place;
        self.memory.copy_within(at..at + 2, at + 2);
        self.memory[at..at + 2].copy_from_slice(&[word, ids]);
    }
}

/// Ids and, in the last place, their number; None when there are more than fit.
pub fn packed<T: Id>(found: &[u32]) -> Option<u128> {
    let mut ids = T::Few::default();
    let (count, places) = ids.as_mut().split_last_mut()?;
    *count = T::from_u32(found.len() as u32);
    places.get_mut(..found.len())?.iter_mut().zip(found).for_each(|(place, &id)| *place = T::from_u32(id));
    Some(T::few_to_bits(ids))
}

#[allow(unsafe_code)]
fn ask_for_huge_pages(memory: &[u128]) {
    #[cfg(target_os = "linux")]
    {
        const MADV_HUGEPAGE: i32 = 14; // linux/mman.h
        unsafe extern "C" {
            fn madvise(address: *mut std::ffi::c_void, length: usize, advice: i32) -> i32;
        }
        let skipped = memory.as_ptr().cast::<u8>().align_offset(HUGE_PAGE);
        let length = size_of_val(memory).saturating_sub(skipped) / HUGE_PAGE * HUGE_PAGE;
        if length > 0 {
            // SAFETY: whole pages inside memory that is ours; the advice changes how it is mapped, not what it holds. A
            // system that refuses leaves small pages.
            unsafe {
                madvise(memory.as_ptr().cast_mut().cast::<u8>().wrapping_add(skipped).cast(), length, MADV_HUGEPAGE)
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (memory, HUGE_PAGE);
}
