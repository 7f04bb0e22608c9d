# shellcheck shell=bash disable=SC2034
# Accelerators of Google's TPUs: runtime version, chips, hosts, and the preset of gin/runtimes/.
#
# Sources: cloud.google.com/tpu/docs/runtimes and .../supported-tpu-configurations, November 2026; hosts of v5e and v6e
# from xpk's system_characteristics.py (4 chips each from 16 chips on).
#
#   accelerator      chips   chips a host          runtime version
#   v5litepod-N      N       4; up to 8 on one     v2-alpha-tpuv5-lite
#   v6e-N            N       4; up to 8 on one     v2-alpha-tpuv6e
#   v5p-N            N / 2   4                     v2-alpha-tpuv5         (N counts cores)
#   v4-N             N / 2   4                     tpu-ubuntu2204-base    (N counts cores)

# accelerator NAME SLICES: sets IMAGE_VERSION, CHIPS, HOSTS (of all slices) and PRESET; empty where the table has no row.
accelerator() {
  local number=${1##*-}
  IMAGE_VERSION="" CHIPS="" HOSTS="" PRESET=""
  [[ $number =~ ^[0-9]+$ ]] || fail "--accelerator=$1: expected a name such as v5litepod-256"
  case $1 in
    v5litepod-*) IMAGE_VERSION=v2-alpha-tpuv5-lite CHIPS=$number ;;
    v6e-*) IMAGE_VERSION=v2-alpha-tpuv6e CHIPS=$number ;;
    v5p-*) IMAGE_VERSION=v2-alpha-tpuv5 CHIPS=$((number / 2)) ;;
    v4-*) IMAGE_VERSION=tpu-ubuntu2204-base CHIPS=$((number / 2)) ;;
    *) return 0 ;;
  esac
  HOSTS=$(((CHIPS + 3) / 4))
  [[ $1 == v5p-* || $1 == v4-* || $CHIPS -gt 8 ]] || HOSTS=1
  HOSTS=$((HOSTS * $2))
  CHIPS=$((CHIPS * $2))
  case $1x$2 in
    v5litepod-256x1) PRESET=runtimes/v5e_256.gin ;;
    v5litepod-256x2) PRESET=runtimes/v5e_256x2.gin ;;
    v6e-256x1) PRESET=runtimes/v6e_256.gin ;;
    v5p-256x1) PRESET=runtimes/v5p_128.gin ;;
  esac
}

# Puts the preset of --accelerator before the other gin files, unless they name a runtime themselves.
add_preset() {
  local each file
  [[ ${RUNTIME_FILE:-} != none ]] || return 0
  for each in "${TRAIN[@]}"; do
    [[ $each != --gin_file=runtimes/* ]] || return 0
    file=$FILES/${each#*=}
    [[ $each != --gin_file=* || ! -f $file ]] || ! grep -q "^include 'runtimes/" "$file" || return 0
  done
  PRESET=${RUNTIME_FILE:-$PRESET}
  if [[ -n $PRESET ]]; then
    TRAIN=("--gin_file=$PRESET" "${TRAIN[@]}")
    note "$CHIPS chips, $HOSTS hosts: adds --gin_file=$PRESET (--runtime_file=none leaves it out)"
  elif [[ $SLICES != 1 ]]; then
    note "no preset for $SLICES slices of this kind: Runtime.mesh is ($SLICES, -1, 1) unless you bind it; see docs/scale.md"
  fi
}
