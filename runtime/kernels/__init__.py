"""The kernels that programs are made of: registry, compilation, cache, and one module for each family."""
