//! Rows against a model that knows the state of each sector.

use butterfs_testkit::random::Random;

use super::*;

const SECTOR: u64 = 4096;
const START: u64 = 5 << 20;

fn free(parts: &[Run]) -> FreeRanges {
    let mut free = FreeRanges::default();
    parts.iter().for_each(|(at, len)| free.add(*at, *len));
    free
}

/// Three columns, two rows.
fn six_stripes() -> (FreeRanges, Rows) {
    let free = free(&[(START, 6 * STRIPE_LEN)]);
    let rows = Rows::new(START, 3, &free);
    (free, rows)
}

#[test]
fn a_line_is_filled_before_the_next_is_begun() {
    let (_, mut rows) = six_stripes();
    assert_eq!((rows.sure(), rows.open_bytes()), (2 * STRIPE_LEN, 6 * STRIPE_LEN));
    let got: Vec<u64> = (0..4).map(|_| rows.allocate_best(SECTOR, Due::Log).unwrap().0 - START).collect();
    assert_eq!(got, [0, STRIPE_LEN, 2 * STRIPE_LEN, SECTOR]);
    assert_eq!((rows.sure(), rows.open_bytes()), (2 * STRIPE_LEN - 2 * SECTOR, 6 * STRIPE_LEN - 4 * SECTOR));
    assert_eq!(rows.allocate_first(16384, Due::Commit), Some(START + 2 * SECTOR), "not in lines of the log");
}

#[test]
fn what_a_closed_line_has_left_waits_for_all_of_it() {
    let (mut free, mut rows) = six_stripes();
    let (first, len) = rows.allocate_best(SECTOR, Due::Log).unwrap();
    let (second, _) = rows.allocate_best(SECTOR, Due::Log).unwrap();
    free.remove(first, len);
    free.remove(second, len);
    rows.close(Due::Log);
    assert_eq!(rows.open_bytes(), 6 * STRIPE_LEN - 3 * SECTOR);
    free.add(first, len);
    rows.give_back(first, len, &free);
    assert_eq!(rows.open_bytes(), 6 * STRIPE_LEN - 3 * SECTOR, "the second is there still");
    free.add(second, len);
    rows.give_back(second, len, &free);
    assert_eq!((rows.open_bytes(), rows.sure()), (6 * STRIPE_LEN, 2 * STRIPE_LEN));
}

#[test]
fn large_extents_are_whole_rows() {
    let (_, mut rows) = six_stripes();
    rows.allocate_best(SECTOR, Due::Log).unwrap();
    assert_eq!(rows.allocate_best(3 * STRIPE_LEN, Due::Log), Some((START + 3 * STRIPE_LEN, 3 * STRIPE_LEN)));
    assert_eq!(rows.longest(Due::Log), STRIPE_LEN - SECTOR);
    assert_eq!(rows.allocate_best(10 * STRIPE_LEN, Due::Log).unwrap().1, STRIPE_LEN - SECTOR);
}

/// What a sector is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    /// Given out, not durable.
    Fresh(Due),
    Durable,
}

struct Model {
    columns: u64,
    sectors: Vec<State>,
    free: FreeRanges,
    rows: Rows,
}

impl Model {
    fn line(&self, sector: u64) -> impl Iterator<Item = usize> {
        let (per, columns) = (STRIPE_LEN / SECTOR, self.columns);
        let (row, within) = (sector / (per * columns), sector % per);
        (0..columns).map(move |column| ((row * columns + column) * per + within) as usize)
    }

    fn given(&mut self, at: u64, len: u64, due: Due) {
        self.free.remove(at, len);
        for sector in (at - START) / SECTOR..(at - START + len) / SECTOR {
            assert_eq!(self.sectors[sector as usize], State::Free, "sector {sector} is given out twice");
            for other in self.line(sector) {
                let state = self.sectors[other];
                assert!(matches!(state, State::Free) || state == State::Fresh(due), "beside {state:?} for {due:?}");
            }
            self.sectors[sector as usize] = State::Fresh(due);
        }
    }

    fn close(&mut self, due: Due) {
        self.rows.close(due);
        self.sectors.iter_mut().filter(|state| **state == State::Fresh(due)).for_each(|state| *state = State::Durable);
    }

    fn give_back(&mut self, at: u64, len: u64) {
        self.free.add(at, len);
        self.rows.give_back(at, len, &self.free);
        (0..len / SECTOR).for_each(|n| self.sectors[((at - START) / SECTOR + n) as usize] = State::Free);
    }

    /// What may be given out by the states of the sectors alone.
    fn assert_counts(&self) {
        let (mut open, mut sure) = (0, 0);
        for sector in 0..self.sectors.len() as u64 {
            let states: Vec<State> = self.line(sector).map(|at| self.sectors[at]).collect();
            let closed = states.contains(&State::Durable);
            open += u64::from(!closed && self.sectors[sector as usize] == State::Free) * SECTOR;
            sure += u64::from(states.iter().all(|state| *state == State::Free)) * SECTOR;
        }
        assert_eq!((self.rows.open_bytes(), self.rows.sure()), (open, sure / self.columns));
    }
}

#[test]
fn nothing_is_given_out_beside_what_is_durable() {
    for (columns, seed) in [(1, 1), (2, 2), (3, 3), (5, 4)] {
        let mut random = Random::new(seed);
        let all = (START, 8 * columns * STRIPE_LEN);
        let free = free(&[all]);
        let sectors = vec![State::Free; (all.1 / SECTOR) as usize];
        let mut model = Model { columns, sectors, rows: Rows::new(START, columns, &free), free };
        let mut given: Vec<Run> = Vec::new();
        for _ in 0..3000 {
            match random.below(10) {
                0 => model.close(Due::Log),
                1 => ALL.into_iter().for_each(|due| model.close(due)),
                2..6 if !given.is_empty() => {
                    let (at, len) = given.swap_remove(random.below(given.len() as u64) as usize);
                    model.give_back(at, len);
                }
                6 => {
                    if let Some(at) = model.rows.allocate_first(16384, Due::Commit) {
                        model.given(at, 16384, Due::Commit);
                        given.push((at, 16384));
                    }
                }
                _ => {
                    let want = [1, 3, 16, 40][random.below(4) as usize] * SECTOR;
                    let was_open = model.rows.longest(Due::Log);
                    match model.rows.allocate_best(want, Due::Log) {
                        Some((at, len)) => {
                            assert!(len <= want && len > 0);
                            model.given(at, len, Due::Log);
                            given.push((at, len));
                        }
                        None => assert_eq!(was_open, 0),
                    }
                }
            }
            model.assert_counts();
        }
        // What is on disk says the same, but for lines that are open.
        model.close(Due::Log);
        model.close(Due::Commit);
        let fresh = Rows::new(START, columns, &model.free);
        assert_eq!((fresh.sure(), fresh.open_bytes()), (model.rows.sure(), model.rows.open_bytes()));
    }
}
