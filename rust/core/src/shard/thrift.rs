//! Thrift's compact protocol, as far as parquet's footer and page headers use it: bytes to a tree.
//!
//! Every count and length is compared with the bytes that are left before anything is set aside for it, and depth is
//! bounded, so that no bytes whatever make this panic or ask for more memory than a multiple of their own length.

/// Parquet's metadata is eight structs deep.
const MAX_DEPTH: u8 = 16;

/// One value. Maps are not used by what we read and are refused.
#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    Struct(Vec<(i16, Value<'a>)>),
}

impl<'a> Value<'a> {
    pub fn field(&self, id: i16) -> Option<&Value<'a>> {
        match self {
            Self::Struct(fields) => fields.iter().find(|(found, _)| *found == id).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn int(&self, id: i16) -> Option<i64> {
        match self.field(id)? {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub fn bytes(&self, id: i16) -> Option<&'a [u8]> {
        match self.field(id)? {
            Self::Bytes(value) => Some(value),
            _ => None,
        }
    }

    pub fn list(&self, id: i16) -> Option<&[Value<'a>]> {
        match self.field(id)? {
            Self::List(values) => Some(values),
            _ => None,
        }
    }
}

/// Reads one struct from the front of `data`; returns it and how many bytes it took.
pub fn read_struct(data: &[u8]) -> Option<(Value<'_>, usize)> {
    let mut reader = Reader { left: data };
    let value = reader.structure(0)?;
    Some((value, data.len() - reader.left.len()))
}

/// A whole number of 7 bits to the byte, low bits first.
pub fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(count)?;
        self.left = left;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = varint(&mut self.left)?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn structure(&mut self, depth: u8) -> Option<Value<'a>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (mut fields, mut id) = (Vec::new(), 0i16);
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Some(Value::Struct(fields));
            }
            id = match header >> 4 {
                0 => i16::try_from(self.zigzag()?).ok()?,
                step => id.checked_add(i16::from(step))?,
            };
            let value = match header & 0xf {
                1 => Value::Int(1), // a boolean is its type
                2 => Value::Int(0),
                kind => self.value(kind, depth)?,
            };
            fields.push((id, value));
        }
    }

    fn value(&mut self, kind: u8, depth: u8) -> Option<Value<'a>> {
        Some(match kind {
            1..=3 => Value::Int(i64::from(self.byte()?)), // in a list a boolean is a byte
            4..=6 => Value::Int(self.zigzag()?),
            7 => Value::Bytes(self.take(8)?),
            8 => {
                let length = usize::try_from(varint(&mut self.left)?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            9 | 10 => {
                let header = self.byte()?;
                let count = match header >> 4 {
                    15 => usize::try_from(varint(&mut self.left)?).ok()?,
                    few => few.into(),
                };
                if depth > MAX_DEPTH || count > self.left.len() {
                    return None; // every element takes a byte at least
                }
                let mut values = Vec::with_capacity(count.min(64)); // it grows by what is there
                for _ in 0..count {
                    values.push(self.value(header & 0xf, depth + 1)?);
                }
                Value::List(values)
            }
            12 => self.structure(depth + 1)?,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_memory_is_set_aside() {
        // field 1 is a list of 2^56 structs
        assert_eq!(read_struct(&[0x19, 0xfc, 255, 255, 255, 255, 255, 255, 255, 127, 0]), None);
        assert_eq!(read_struct(&[0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, b'x']), None); // a string
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(read_struct(&[0x1c; 100_000]), None);
        assert_eq!(read_struct(&[[0x19, 0x19].as_slice(), &[0x19; 100_000]].concat()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some((_, taken)) = read_struct(&data) {
                prop_assert!(taken <= data.len());
            }
        }
    }
}
