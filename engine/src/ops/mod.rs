//! The ops, one file each: formula, value, gradient.

pub mod binary;
pub mod gather;
pub mod linear;
pub mod matmul;
pub mod reduce;
pub mod select;
pub mod unary;
pub mod view;
