//! The ops, one file each: formula, value, gradient.

pub mod attention;
pub mod bce;
pub mod binary;
pub mod block_affine;
pub mod conv2d;
pub mod cross_entropy;
pub mod cumsum;
pub mod dropout;
pub mod gather;
pub mod kl;
pub mod linear;
pub mod loss;
pub mod low_rank;
pub mod matmul;
pub mod norm;
pub mod produced;
pub mod real;
pub mod recompute;
pub mod reduce;
pub mod rotary;
pub mod select;
pub mod shorthand;
pub mod soft_targets;
pub mod softmax;
pub mod unary;
pub mod view;
