//! The ops, one file each: formula, value, gradient.

pub mod attention;
pub mod binary;
pub mod cross_entropy;
pub mod dropout;
pub mod gather;
pub mod linear;
pub mod low_rank;
pub mod matmul;
pub mod norm;
pub mod reduce;
pub mod select;
pub mod softmax;
pub mod unary;
pub mod view;
