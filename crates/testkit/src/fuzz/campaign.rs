//! Round after round: an input, what came of it, and whether that was new.

use std::collections::HashSet;

use super::base::Base;
use super::corpus::Corpus;
use super::guard::{Failure, Guard};
use super::input::{Input, Kind, Recipe};
use super::mutate;
use super::target::essence;
use crate::random::Random;

/// How often an input that did something new is changed once more, in percent.
const AGAIN: u64 = 60;

/// Fuzzing of one kind of input.
pub struct Campaign<'a> {
    kind: Kind,
    bases: &'a [Base],
    random: Random,
    guard: Guard,
    seen: HashSet<String>,
    /// Inputs that did something new, those of the corpus first.
    pub inputs: Vec<Input>,
    /// Inputs that failed, in different ways.
    pub failed: Vec<Failed>,
    /// Rounds so far.
    pub rounds: u64,
}

/// An input that failed, made as small as it can be, and how it failed.
pub type Failed = (Input, Failure);

impl<'a> Campaign<'a> {
    /// A campaign that begins with what the corpus has; what failed once comes first. What of it fails is in
    /// `failed`.
    pub fn new(kind: Kind, corpus: &Corpus, bases: &'a [Base], seed: u64, guard: Guard) -> Self {
        let mut campaign = Self {
            kind,
            bases,
            random: Random::new(seed),
            guard,
            seen: HashSet::new(),
            inputs: Vec::new(),
            failed: Vec::new(),
            rounds: 0,
        };
        let found = corpus.found().into_iter().map(|(_, input)| input).filter(|input| input.kind() == kind);
        for input in found {
            if let Err(failure) = campaign.run(&input) {
                campaign.fail(input, failure);
            }
        }
        corpus.kept(kind).into_iter().for_each(|input| campaign.take(input));
        campaign
    }

    /// Runs an input, and keeps it if it does something new.
    fn take(&mut self, input: Input) {
        match self.run(&input) {
            Ok(true) => self.inputs.push(input),
            Ok(false) => {}
            Err(failure) => self.fail(input, failure),
        }
    }

    /// Notes a failure, one for each kind of failure.
    fn fail(&mut self, input: Input, failure: Failure) {
        let (input, failure) = self.smaller(input, failure);
        let known = |(_, other): &Failed| way(other) == way(&failure);
        if !self.failed.iter().any(known) {
            self.failed.push((input, failure));
        }
    }

    /// Runs an input; whether something new came of it.
    fn run(&mut self, input: &Input) -> Result<bool, Failure> {
        let words = self.guard.run(input, self.bases)?;
        let before = self.seen.len();
        self.seen.extend(words);
        Ok(self.seen.len() > before)
    }

    /// Makes an input and runs it.
    pub fn round(&mut self) {
        self.rounds += 1;
        let again = self.random.percent(AGAIN);
        let known = if again { self.random.pick(&self.inputs).cloned() } else { None };
        let input = match known {
            Some(input) => mutate::more(&mut self.random, &input, self.bases),
            None => mutate::fresh(&mut self.random, self.kind, self.bases),
        };
        self.take(input);
    }

    /// Messages that were seen.
    pub fn seen(&self) -> usize {
        self.seen.len()
    }

    /// Leaves out changes that the failure does not need.
    fn smaller(&self, input: Input, failure: Failure) -> Failed {
        let (mut input, mut failure, mut at) = (input, failure, 0);
        while let Some(recipe) = input.recipe().filter(|recipe| at < recipe.changes.len()) {
            let mut changes = recipe.changes.clone();
            changes.remove(at);
            let candidate = input.with_recipe(Recipe { base: recipe.base.clone(), changes });
            match self.guard.run(&candidate, self.bases) {
                Err(still) => (input, failure) = (candidate, still),
                Ok(_) => at += 1,
            }
        }
        (input, failure)
    }

    /// Ends the campaign; the file with the running input is taken away.
    pub fn finish(self) {
        self.guard.finish();
    }
}

/// What is the same of failures that have one cause: the place of a panic.
fn way(failure: &str) -> String {
    match failure.strip_prefix("panic: ").and_then(|text| text.rsplit_once(" at ")) {
        Some((_, place)) => place.to_owned(),
        None => essence(failure),
    }
}
