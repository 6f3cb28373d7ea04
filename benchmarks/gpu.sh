#!/usr/bin/env bash
# What only a GPU can show, in three calls of less than ten minutes each:
#
#   benchmarks/gpu.sh --stages first     build, kernel tests, no synchronization, memory and race checks
#   benchmarks/gpu.sh --stages second    build, benchmarks, their plot, counters of the kernels
#   benchmarks/gpu.sh --stages third     build, Triton, uninitialized memory, the tracker's tests and its speed
#   benchmarks/gpu.sh --stages build,nosync   some stages; without --stages all of them, as far as the time allows
#   benchmarks/gpu.sh --dry-run          what would run, and nothing else
#
# A stage's output is in $OUT/stages (OUT: benchmarks/results) while it runs, so that it is kept whatever happens. In
# the end <card>.json, <card>.md, <card>-bandwidth.png and <card>.log are made from it. `python -m benchmarks.report
# --collect FOLDER... --out FOLDER` combines the output of several calls. Nothing is downloaded: $PYTHON (python3) needs
# torch, cmake, ninja, pybind11, pytest, pytest-benchmark, hypothesis and timm. pytest-xdist shortens the tests. Every
# stage has a time limit. A stage that fails is recorded, the next ones run, and the exit status is 1 (3 without a
# device). Where there is no git, SRFT_COMMIT names the commit.
set -uo pipefail

STAGES=(build tests nosync memcheck racecheck kernels bench plot ncu triton initcheck tracker track)
FIRST=build,tests,nosync,memcheck,racecheck
SECOND=build,kernels,bench,plot,ncu
THIRD=build,triton,initcheck,tracker,track
PYTHON=${PYTHON:-python3}
TOTAL=${SRFT_GPU_SECONDS:-570}
REPORT=15    # of these seconds are for the report,
RESERVED=220 # and these for the benchmarks and their plot, where they are among the stages

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
out=${OUT:-$here/benchmarks/results}
case $out in /*) ;; *) out=$PWD/$out ;; esac
case $PYTHON in /*) ;; */*) PYTHON=$PWD/$PYTHON ;; esac
chosen=" ${STAGES[*]} "
dry=

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }
stop() {
  printf 'gpu.sh: %s\n' "$*" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --stages)
      [ $# -gt 1 ] || stop "--stages wants first, second, third, or names with commas between them: ${STAGES[*]}"
      case $2 in
        first) chosen=$FIRST ;;
        second) chosen=$SECOND ;;
        third) chosen=$THIRD ;;
        *) chosen=$2 ;;
      esac
      chosen=" ${chosen//,/ } "
      shift
      ;;
    --dry-run) dry=yes ;;
    -h | --help)
      sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) stop "unknown argument $1: --stages, --dry-run and --help are known" ;;
  esac
  shift
done
for name in $chosen; do
  case " ${STAGES[*]} " in *" $name "*) ;; *) stop "there is no stage $name: ${STAGES[*]}" ;; esac
done
cd "$here" || exit 1

probe() { # "<name>;<capability>", or nothing without a device
  "$PYTHON" -c '
import torch
if torch.cuda.is_available():
    print(torch.cuda.get_device_name(), "%d.%d" % torch.cuda.get_device_capability(), sep=";")'
}
device=$(probe) || stop "$PYTHON cannot import torch: name a Python that can with PYTHON=..."
if [ -z "$device" ] && [ -z "$dry" ]; then
  for name in $chosen; do say "$name: not measured: no CUDA device"; done
  echo "gpu.sh: not measured: torch sees no CUDA device here, so nothing was run and nothing was written." >&2
  exit 3
fi

tool() { # of the CUDA toolkit: on the PATH or where the toolkit lies
  command -v "$1" || { [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/$1" ] && echo "${CUDA_HOME:-/usr/local/cuda}/bin/$1"; }
}

work=$out/stages
if [ -z "$dry" ]; then
  mkdir -p "$work" || exit 1
  rm -f "$work"/*.log "$work"/*.json "$work"/*.png "$work"/*.csv "$work/stages.tsv"
fi
failures=0
# An interrupt lets pytest say what it has found so far; a termination would not. A shell in the background ignores
# interrupts, and so would everything that it starts.
interruptible=()
if env --default-signal=INT true 2>/dev/null; then interruptible=(env --default-signal=INT); fi
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-${device#*;}}
export SRFT_BENCH_NETWORK=${SRFT_BENCH_NETWORK:-two_stream_vit_base} SRFT_BENCH_ROUNDS=${SRFT_BENCH_ROUNDS:-30}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1

record() { # name, outcome, seconds, note
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$work/stages.tsv"
  say "$1: $2${4:+ ($4)}"
}

wanted() { case $chosen in *" $1 "*) ;; *) return 1 ;; esac; }

stage() { # name, seconds at most, "required" or "optional", command...
  local name=$1 limit=$2 kind=$3 begun=$SECONDS status note outcome left
  shift 3
  wanted "$name" || return 0
  left=$((TOTAL - SECONDS))
  left=$((left - REPORT))
  case $name in
    bench) if wanted plot; then left=$((left - 30)); fi ;;
    build | tests | nosync | memcheck | racecheck | kernels) if wanted bench; then left=$((left - RESERVED)); fi ;;
  esac
  [ "$limit" -le "$left" ] || limit=$left
  if [ -n "$dry" ]; then
    printf '%-10s at most %3d s: %s\n' "$name" "$limit" "$*"
    return 0
  fi
  if [ "$limit" -lt 5 ]; then
    record "$name" "not run: no time was left" 0 ""
    failures=$((failures + 1))
    return 0
  fi
  say "$name: at most $limit s"
  [ "$name" != bench ] || export SRFT_BENCH_SECONDS=$((limit * 6 / 10)) # to enter contestants; then they are timed
  timeout --signal=INT --kill-after=15 "$limit" "${interruptible[@]}" "$@" >"$work/$name.log" 2>&1
  status=$?
  note=$(grep -E '(ERROR|RACECHECK) SUMMARY' "$work/$name.log" | tail -n 1)
  [ -n "$note" ] || note=$(grep -v '^[[:space:]]*$' "$work/$name.log" | tail -n 1)
  note=$(printf '%s' "$note" | tr '\t' ' ' | sed 's/^[= ]*//; s/[= ]*$//' | cut -c 1-160)
  case $status in
    0) outcome=passed ;;
    124 | 137) outcome="stopped after $limit s" ;;
    *) outcome="failed (exit $status)" ;;
  esac
  if [ "$status" -ne 0 ]; then
    if [ "$kind" = optional ]; then outcome="$outcome, optional"; else failures=$((failures + 1)); fi
    tail -n 15 "$work/$name.log" | sed 's/^/    /'
  fi
  record "$name" "$outcome" $((SECONDS - begun)) "$note"
}

missing() { # name, sentence, "required" or "optional"
  wanted "$1" || return 0
  if [ -n "$dry" ]; then
    printf '%-10s not run: %s\n' "$1" "$2"
    return 0
  fi
  record "$1" "not run" 0 "$2"
  [ "$3" = optional ] || failures=$((failures + 1))
}

# shellcheck disable=SC2016 # the inner shell expands its own arguments
stage build 240 required bash -c '
  "$1" -m pip install --no-build-isolation --no-deps -e . || "$1" setup.py build_ext --inplace || exit
  "$1" -m srft_kernels' build "$PYTHON"

workers=()
if "$PYTHON" -c "import xdist" 2>/dev/null; then workers=(-n "${SRFT_GPU_WORKERS:-8}"); fi
on_gpu=("$PYTHON" -m pytest -m gpu -q -p no:cacheprovider)

# The compiled kernels first. Triton's tests compile for seconds each and have a stage of their own.
stage tests 200 required "${on_gpu[@]}" "${workers[@]}" --maxfail=20 -k "not triton" tests/srft_kernels

stage nosync 40 required "$PYTHON" -m benchmarks.sanitizer_case --forbid-synchronization

# Without torch's caching allocator every tensor is an allocation of its own, so that a step outside of it is seen. Only
# our kernels are checked, and torch's own probing of the driver is no error.
if sanitizer=$(tool compute-sanitizer); then
  check=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --error-exitcode 9 --kernel-regex kns=srft
    --report-api-errors no)
  case_of=("$PYTHON" -m benchmarks.sanitizer_case)
  stage memcheck 80 required "${check[@]}" --tool memcheck --padding 64 "${case_of[@]}"
  stage racecheck 80 required "${check[@]}" --tool racecheck --racecheck-report all "${case_of[@]}"
else
  for name in memcheck racecheck initcheck; do missing "$name" "compute-sanitizer was not found" required; done
fi

stage kernels 30 optional "$PYTHON" -m benchmarks.kernel_facts "$work/kernels.json"

# The tables come first, because the last part is left out if time runs out.
stage bench 300 required env SRFT_BENCH_OUT="$work" "$PYTHON" -m pytest benchmarks/test_host.py \
  benchmarks/test_ratios.py benchmarks/test_hutchinson.py benchmarks/test_loader.py --benchmark-only -m gpu -q \
  -p no:cacheprovider

stage plot 45 required "$PYTHON" -m benchmarks.bandwidth_plot --device cuda --out "$work"

if profiler=$(tool ncu); then
  counters=dram__bytes_read.sum,dram__bytes_write.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed
  counters+=,gpu__time_duration.sum,launch__registers_per_thread,sm__warps_active.avg.pct_of_peak_sustained_active
  # shellcheck disable=SC2016
  stage ncu 60 optional bash -c '
    "$1" --profile-from-start off --clock-control none --csv --metrics "$2" "$3" -m benchmarks.kernel_facts --profiled \
      >"$4/ncu.csv" || { cat "$4/ncu.csv"; exit 1; }
    "$3" -m benchmarks.kernel_facts --ncu-csv "$4/ncu.csv" "$4/ncu.json"' ncu "$profiler" "$counters" "$PYTHON" "$work"
else
  missing ncu "ncu was not found" optional
fi

stage triton 240 required "${on_gpu[@]}" "${workers[@]}" --maxfail=20 -k triton tests/srft_kernels

if [ -n "${check+set}" ]; then stage initcheck 80 required "${check[@]}" --tool initcheck "${case_of[@]}"; fi

# These skip if the tracker's libraries are not installed.
stage tracker 90 required "${on_gpu[@]}" tests/tracker

# This measures frames a second, in the stages' output. Compiling takes most of its time.
stage track 120 optional "$PYTHON" -m pytest benchmarks/test_tracking_speed.py --benchmark-only -m gpu -q \
  -p no:cacheprovider

if [ -n "$dry" ]; then
  if [ -n "$device" ]; then
    echo "gpu.sh: a dry run on ${device%;*}: nothing was run."
  else
    echo "gpu.sh: a dry run; not measured: torch sees no CUDA device here."
  fi
  exit 0
fi

if page=$(timeout 60 "$PYTHON" -m benchmarks.report --collect "$work" --out "$out"); then
  log=${page%.md}.log
  for name in "${STAGES[@]}"; do
    if [ -f "$work/$name.log" ]; then
      printf '===== %s\n' "$name"
      cat "$work/$name.log"
    fi
  done >"$log"
  sed -n '/^## Stages/,/^## One optimizer step/{/^## One/d;p;}' "$page"
  say "$page, and beside it the JSON, the plot and the stages' output"
else
  failures=$((failures + 1))
  say "the report failed; what the stages printed:"
  tail -n 20 "$work"/*.log
fi
if [ "$failures" -gt 0 ]; then
  say "$failures of the stages did not pass"
  exit 1
fi
say "every stage passed"
