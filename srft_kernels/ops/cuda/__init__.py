"""The compiled CUDA kernels: the host's side of ``csrc/cuda``, a file for the step, the penalty and the probes each."""
