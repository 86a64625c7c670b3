//! Inputs near a seed, and inputs near nothing: the same ones in every run.
//!
//! Must not: read a clock or a random source; the same number makes the same inputs on every machine.

/// Random numbers by splitmix64 (Steele, Lea and Flood, 2014): one multiplication away from a counter, good enough here.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % (end as u64).max(1)) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

/// Texts and numbers that ends of ranges, lengths and lists are made of.
const TELLING: [&[u8]; 16] = [
    &[0],
    &[0xff],
    &[0x80, 0x80, 0x80],
    &[0x01],
    &[0x7f],
    // Avro's largest long, its smallest, and a thousand million.
    &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0xa8, 0xd6, 0xb9, 0x07],
    // Not a number and infinity as doubles, and not a number as a float.
    &[0, 0, 0, 0, 0, 0, 0xf8, 0x7f],
    &[0, 0, 0, 0, 0, 0, 0xf0, 0x7f],
    &[0, 0, 0xc0, 0x7f],
    b"18446744073709551615",
    b"-1e308",
    b"null",
    b"[[[[[[[[[[[[[[[[",
    b"\"\\ud83d",
];

/// Bytes of the longest input.
const LEN_MAX: usize = 16 << 10;

/// A seed with one to eight changes.
pub fn near(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(8) {
        change(&mut bytes, other, random);
    }
    bytes.truncate(LEN_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len());
    let span = at..bytes.len().min(at + 1 + random.below(16));
    match random.below(9) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.byte(),
        2 if !bytes.is_empty() => bytes[at] = bytes[at].wrapping_add(1),
        3 => drop(bytes.drain(span)),
        4 => {
            let telling = TELLING[random.below(TELLING.len())];
            bytes.splice(at..at, telling.iter().copied());
        }
        5 => {
            let telling = TELLING[random.below(TELLING.len())];
            bytes.splice(at..bytes.len().min(at + telling.len()), telling.iter().copied());
        }
        6 => {
            let again = bytes[span].repeat(1 + random.below(64));
            bytes.splice(at..at, again);
        }
        7 => {
            let from = random.below(other.len());
            let part = &other[from..other.len().min(from + 1 + random.below(64))];
            bytes.splice(at..at, part.iter().copied());
        }
        _ => bytes.insert(at, random.byte()),
    }
}

/// Bytes that are near nothing.
pub fn any(random: &mut Random) -> Vec<u8> {
    let length = random.below(200);
    (0..length).map(|_| random.byte()).collect()
}
