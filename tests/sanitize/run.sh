#!/usr/bin/env bash
# The CPU kernels under sanitizers: memory and undefined behavior by the kernel tests, races by the threaded loops.
#
#   tests/sanitize/run.sh            both
#   tests/sanitize/run.sh memory     AddressSanitizer and UndefinedBehaviorSanitizer, in the tests named below
#   tests/sanitize/run.sh threads    ThreadSanitizer
#   SRFT_SANITIZE_TESTS= ...         every test of those files; a pytest expression chooses some
#
# The libraries are built into build/sanitize-* and loaded from a copy of the package there, so that nothing of the
# working tree changes. $PYTHON (python3) has torch, cmake, ninja, pybind11, pytest and hypothesis.
set -euo pipefail

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
what=${1:-both}
case $what in memory | threads | both) ;; *) echo "run.sh: memory, threads or nothing, not $what" >&2; exit 2 ;; esac
cd "$here"

configure() { # folder, sanitizers
  cmake -S . -B "$1" -G Ninja -DPython_EXECUTABLE="$(command -v "$PYTHON")" -DSRFT_VERSION=0 "-DSRFT_SANITIZE=$2" >/dev/null
}

if [ "$what" != threads ]; then
  folder=$here/build/sanitize-memory
  configure "$folder" address,undefined
  cmake --build "$folder" --target _ops _build
  tree=$folder/tree
  rm -rf "$tree"
  mkdir -p "$tree"
  cp -r srft_kernels tests pyproject.toml "$tree"
  rm -f "$tree"/srft_kernels/*.so
  cp "$folder"/_ops.so "$folder"/_build*.so "$tree/srft_kernels"
  compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$folder/CMakeCache.txt")
  cd "$tree"
  # Python and torch are not instrumented, so the runtime has to be loaded first. Their leaks are not looked for.
  LD_PRELOAD=$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libubsan.so) \
    ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
    PYTHONPATH=$tree OMP_NUM_THREADS=2 "$PYTHON" -m pytest -q -x -p no:cacheprovider -p no:xdist \
    tests/srft_kernels/ops/test_refusals.py tests/srft_kernels/ops/test_doors.py \
    tests/srft_kernels/ops/test_extremes.py tests/srft_kernels/ops/test_step.py \
    tests/srft_kernels/ops/test_penalty_native.py \
    -k "${SRFT_SANITIZE_TESTS-((test_refusals or test_extremes) and not cuda) or (test_doors and cpu) or (test_step and \
(sizes or survives or (halves and float16))) or views or expanded or lists}"
  cd "$here"
fi

if [ "$what" != memory ]; then
  folder=$here/build/sanitize-threads
  configure "$folder" thread
  cmake --build "$folder" --target threads
  # The address space is fixed, because a kernel that randomizes it strongly leaves ThreadSanitizer no room.
  run=("$folder/threads")
  if setarch "$(uname -m)" -R true 2>/dev/null; then run=(setarch "$(uname -m)" -R "${run[@]}"); fi
  TSAN_OPTIONS=halt_on_error=1 "${run[@]}"
fi
