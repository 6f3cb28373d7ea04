"""The host side of the compiled CUDA kernels in ``csrc/cuda``: a file each for the step, the penalty and the probes."""
