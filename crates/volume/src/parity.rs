//! The arithmetic of RAID5 and RAID6: bytes as elements of GF(256), polynomial 0x11d, generator 2.
//!
//! Of one row of stripes, `P = D0 + D1 + ...` and `Q = g^0 D0 + g^1 D1 + ...`, where `+` is exclusive or.
//! So every way to rebuild a stripe is a sum of other stripes, each times a constant: [`Recipe`] says
//! which, and [`add_scaled`] is all that it takes; [`compute`] makes the parity of a row that is written.
//! See `docs/format/raid56.md`.

/// A stripe of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A data stripe, by its column.
    Data(u64),
    /// The exclusive or of the data.
    P,
    /// The weighted sum of the data.
    Q,
}

/// How to rebuild a data stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// From P and all other data.
    WithP,
    /// From Q and all other data.
    WithQ,
    /// From P, Q and all other data but that of a column, which is lost too.
    Without(u64),
}

const POLYNOMIAL: u8 = 0x1d;

/// `g^i` for i from 0; 255 of them differ.
const POWERS: [u8; 255] = {
    let mut powers = [1; 255];
    let mut i = 1;
    while i < 255 {
        let last = powers[i - 1];
        powers[i] = (last << 1) ^ (if last & 0x80 != 0 { POLYNOMIAL } else { 0 });
        i += 1;
    }
    powers
};

/// `g^column`. The format allows fewer columns than the field has powers: see `check_chunk`.
pub(crate) fn power(column: u64) -> u8 {
    POWERS[(column % 255) as usize]
}

fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = (a << 1) ^ (if a & 0x80 != 0 { POLYNOMIAL } else { 0 });
        b >>= 1;
    }
    product
}

/// `a^254`, which is `1 / a`; zero has no inverse and gives zero.
fn invert(a: u8) -> u8 {
    (0..7)
        .fold((1, a), |(result, square), _| {
            let square = multiply(square, square);
            (multiply(result, square), square)
        })
        .0
}

/// The terms of a recipe for the data stripe of column `lost`, in a row of `columns` data stripes.
pub(crate) fn terms(recipe: Recipe, lost: u64, columns: u64) -> Vec<(Part, u8)> {
    let others = |besides: u64| (0..columns).filter(move |column| *column != lost && *column != besides);
    match recipe {
        Recipe::WithP => {
            let data = others(lost).map(|column| (Part::Data(column), 1));
            std::iter::once((Part::P, 1)).chain(data).collect()
        }
        Recipe::WithQ => {
            let scale = invert(power(lost));
            let data = others(lost).map(|column| (Part::Data(column), multiply(power(column), scale)));
            std::iter::once((Part::Q, scale)).chain(data).collect()
        }
        Recipe::Without(also) => {
            // P' = Dx + Dy and Q' = gx Dx + gy Dy give Dx = (Q' + gy P') / (gx + gy).
            let scale = invert(power(lost) ^ power(also));
            let data = others(also).map(|column| (Part::Data(column), multiply(power(column) ^ power(also), scale)));
            [(Part::P, multiply(power(also), scale)), (Part::Q, scale)].into_iter().chain(data).collect()
        }
    }
}

/// Adds `factor` times `source` to `target`; both have the same length.
///
/// Eight bytes at a time, and without tables, so that the compiler can use vectors.
pub(crate) fn add_scaled(target: &mut [u8], source: &[u8], factor: u8) {
    debug_assert_eq!(target.len(), source.len());
    let (target_words, target_rest) = target.as_chunks_mut::<8>();
    let (source_words, source_rest) = source.as_chunks::<8>();
    if factor == 1 {
        for (to, from) in target_words.iter_mut().zip(source_words) {
            *to = (u64::from_ne_bytes(*to) ^ u64::from_ne_bytes(*from)).to_ne_bytes();
        }
    } else {
        for (to, from) in target_words.iter_mut().zip(source_words) {
            *to = (u64::from_ne_bytes(*to) ^ scale_word(u64::from_ne_bytes(*from), factor)).to_ne_bytes();
        }
    }
    for (to, from) in target_rest.iter_mut().zip(source_rest) {
        *to ^= multiply(*from, factor);
    }
}

/// So many bytes of each column are added up before the next: what is read and written then stays in the nearest cache.
const BLOCK: usize = 2048;

/// Makes P, and Q if there is one, of all data of a row; everything has the same length.
///
/// Q by Horner's rule from the last column on, so that nothing is multiplied but by 2.
pub(crate) fn compute(data: &[&[u8]], p: &mut [u8], q: Option<&mut [u8]>) {
    debug_assert!(data.iter().all(|column| column.len() == p.len()));
    p.fill(0);
    let Some(q) = q else {
        for (number, p) in p.chunks_mut(BLOCK).enumerate() {
            data.iter().for_each(|column| add(p, &column[number * BLOCK..][..p.len()]));
        }
        return;
    };
    q.fill(0);
    for (number, (p, q)) in p.chunks_mut(BLOCK).zip(q.chunks_mut(BLOCK)).enumerate() {
        for column in data.iter().rev() {
            let column = &column[number * BLOCK..][..p.len()];
            add(p, column);
            double_and_add(q, column);
        }
    }
}

fn add(target: &mut [u8], source: &[u8]) {
    add_scaled(target, source, 1);
}

/// Twice what is there, and `source`.
fn double_and_add(target: &mut [u8], source: &[u8]) {
    let (target_words, target_rest) = target.as_chunks_mut::<8>();
    let (source_words, source_rest) = source.as_chunks::<8>();
    for (to, from) in target_words.iter_mut().zip(source_words) {
        *to = (double_word(u64::from_ne_bytes(*to)) ^ u64::from_ne_bytes(*from)).to_ne_bytes();
    }
    for (to, from) in target_rest.iter_mut().zip(source_rest) {
        *to = multiply(*to, 2) ^ from;
    }
}

/// Eight bytes, each times `factor`.
fn scale_word(mut word: u64, factor: u8) -> u64 {
    let mut product = 0;
    for bit in 0..8 {
        // All ones if the bit is set.
        product ^= word & u64::from(factor >> bit & 1).wrapping_neg();
        word = double_word(word);
    }
    product
}

/// Eight bytes, each times 2.
fn double_word(word: u64) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let carry = (word & HIGH) >> 7;
    // The polynomial is 0b11101; a carry is 0 or 1 in each byte, so nothing runs into the next.
    ((word & !HIGH) << 1) ^ carry ^ (carry << 2) ^ (carry << 3) ^ (carry << 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication by the definition: shift, and subtract the polynomial from the top.
    fn slow_multiply(a: u8, b: u8) -> u8 {
        let mut product = (0..8).filter(|bit| b >> bit & 1 != 0).fold(0u16, |sum, bit| sum ^ u16::from(a) << bit);
        for bit in (8..16).rev() {
            if product >> bit & 1 != 0 {
                product ^= 0x11d << (bit - 8);
            }
        }
        product as u8
    }

    #[test]
    fn the_field_is_that_of_the_definition() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(a, b), slow_multiply(a, b), "{a} {b}");
            }
            if a != 0 {
                assert_eq!(multiply(a, invert(a)), 1, "{a}");
            }
        }
        let mut seen = POWERS.to_vec();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 255);
    }

    #[test]
    fn words_and_rests_are_scaled_as_bytes_are() {
        let source: Vec<u8> = (0..=255).chain(0..7).collect();
        for factor in 0..=255u8 {
            let mut target: Vec<u8> = (0..source.len()).map(|i| (i * 7) as u8).collect();
            let want: Vec<u8> = target.iter().zip(&source).map(|(t, s)| t ^ slow_multiply(*s, factor)).collect();
            add_scaled(&mut target, &source, factor);
            assert_eq!(target, want, "{factor}");
        }
    }

    #[test]
    fn parity_is_that_of_the_definition() {
        for (columns, len) in [(1, 4096), (2, 512), (3, 2 * BLOCK + 13), (12, 100)] {
            let data: Vec<Vec<u8>> =
                (0..columns).map(|c| (0..len).map(|at| (at * 31 + c * 77 + at / 7) as u8).collect()).collect();
            let columns: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let (mut p, mut q, mut p_alone) = (vec![1; len], vec![2; len], vec![3; len]);
            compute(&columns, &mut p, Some(&mut q));
            compute(&columns, &mut p_alone, None);
            for at in 0..len {
                let sum = |weight: &dyn Fn(usize) -> u8| {
                    (0..columns.len()).fold(0, |sum, c| sum ^ slow_multiply(weight(c), columns[c][at]))
                };
                assert_eq!((p[at], p_alone[at]), (sum(&|_| 1), sum(&|_| 1)));
                assert_eq!(q[at], sum(&|c| POWERS[c]));
            }
        }
    }

    /// Not a test of anything: `cargo test --release -p butterfs-volume -- --ignored --nocapture parity_speed`.
    #[test]
    #[ignore = "a measurement"]
    fn parity_speed() {
        const STRIPE: usize = 65536;
        for columns in [2, 4, 8] {
            let data: Vec<Vec<u8>> = (0..columns).map(|c| vec![c as u8 + 1; STRIPE]).collect();
            let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let (mut p, mut q) = (vec![0; STRIPE], vec![0; STRIPE]);
            for both in [false, true] {
                let rounds = (1 << 30) / (STRIPE * columns);
                let start = std::time::Instant::now();
                for _ in 0..rounds {
                    compute(std::hint::black_box(&data), &mut p, both.then_some(&mut q[..]));
                }
                let rate = (rounds * STRIPE * columns) as f64 / start.elapsed().as_secs_f64() / 1e9;
                println!("{columns} columns, {}: {rate:.1} GB of data per second", if both { "P and Q" } else { "P" });
            }
        }
    }

    /// Every recipe for every column gives back the data, for all widths up to ten and some wide ones.
    #[test]
    fn every_recipe_rebuilds_every_stripe() {
        for columns in (1..=10u64).chain([31, 252]) {
            let data: Vec<u8> = (0..columns).map(|column| (column * 89 + 17) as u8).collect();
            let p = data.iter().fold(0, |sum, byte| sum ^ byte);
            let mut weight = 1;
            let mut q = 0;
            for byte in &data {
                q ^= slow_multiply(weight, *byte);
                weight = slow_multiply(weight, 2);
            }
            for lost in 0..columns {
                let others = (0..columns).filter(|other| *other != lost).map(Recipe::Without);
                for recipe in [Recipe::WithP, Recipe::WithQ].into_iter().chain(others) {
                    let mut rebuilt = [0];
                    for (part, factor) in terms(recipe, lost, columns) {
                        let byte = match part {
                            Part::Data(column) => {
                                assert!(column != lost && recipe != Recipe::Without(column));
                                data[column as usize]
                            }
                            Part::P => p,
                            Part::Q => q,
                        };
                        add_scaled(&mut rebuilt, &[byte], factor);
                    }
                    assert_eq!(rebuilt[0], data[lost as usize], "{recipe:?} for {lost} of {columns}");
                }
            }
        }
    }
}
