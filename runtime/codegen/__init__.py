"""Emission of vector code as LLVM IR: exact dot-product primitives and the tiles built on them."""
