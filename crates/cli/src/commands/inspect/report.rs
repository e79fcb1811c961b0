//! What is said on the side: problems, one line each, on standard error.

use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::exit;
use crate::failure::Failure;

/// Says that something is wrong, and goes on.
pub fn warn(problem: impl Display) {
    eprintln!("WARNING: {problem}");
}

/// That the output could not be written.
pub fn output_failure(error: &io::Error) -> Failure {
    Failure::new(exit::USAGE, format!("cannot write the output: {error}"))
}

/// A failure that concerns an image.
pub fn failure(image: &Path, problem: impl Display) -> Failure {
    Failure::at(exit::USAGE, image, problem)
}
