//! The rules of the house, each a test.

mod architecture;
mod edges;
mod form;
mod tree;
