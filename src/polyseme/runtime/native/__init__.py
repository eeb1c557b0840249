"""The kernels of the runtime in C, compiled on the machine that runs them."""
