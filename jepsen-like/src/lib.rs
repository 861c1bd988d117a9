//! jl
