# shellcheck shell=bash disable=SC2034
# Shared by the launch scripts: flags, checks, dry runs.
#
#   SCRIPT ACTION --flag=value ... [-- arguments of `xalign train`]
#
# A flag that is not given is read from the environment: --zone from XALIGN_ZONE. With --dry_run every command is printed
# and none is run; the answer of a command then counts as empty.

set -euo pipefail
exec 3>&1

DRY_RUN=false
GRACE=120 # seconds between SIGTERM and SIGKILL: the time to save

fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# parse "actions" "flags" "$@": sets ACTION, each flag's variable (--zone: ZONE) and the array TRAIN.
parse() {
  local actions=$1 flags=$2 name
  shift 2
  [[ $# -gt 0 && " $actions " == *" $1 "* ]] || fail "expected one of: $actions; flags: ${flags// /, }"
  ACTION=$1
  shift
  for name in $flags; do
    local variable=XALIGN_${name^^}
    printf -v "${name^^}" %s "${!variable:-}"
  done
  TRAIN=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      --) shift && TRAIN=("$@") && break ;;
      --dry_run) DRY_RUN=true ;;
      --*=*)
        name=${1%%=*} && name=${name#--}
        [[ " $flags " == *" $name "* ]] || fail "unknown flag --$name; known: ${flags// /, }"
        printf -v "${name^^}" %s "${1#*=}"
        ;;
      *) fail "$1: expected --flag=value, or -- before the arguments of xalign train" ;;
    esac
    shift
  done
}

# need flag ...: if flags are missing, ends with one line that names all of them.
need() {
  local name missing=()
  for name in "$@"; do
    local variable=${name^^}
    [[ -n ${!variable} ]] || missing+=("--$name (or XALIGN_${name^^})")
  done
  [[ ${#missing[@]} -eq 0 ]] || fail "missing: ${missing[*]}"
}

need_train() {
  [[ " ${TRAIN[*]-}" == *" --gin_file="* && " ${TRAIN[*]-}" == *" --model_dir="* ]] ||
    fail "missing: the arguments of xalign train, as in: -- --gin_file=recipes/infoxlm_base.gin --model_dir=DIR"
}

# Where hosts share no file system, the model directory must be a bucket.
need_bucket() {
  [[ " ${TRAIN[*]}" == *" --model_dir=gs://"* ]] ||
    fail "--model_dir must be a bucket that every host sees: gs://BUCKET/FOLDER"
}

# run command ...: runs it, or prints it.
run() {
  if $DRY_RUN; then
    echo "${*@Q}" >&3
  else
    "$@"
  fi
}

# feed "text" command ...: runs it with the text as its input, or prints both.
feed() {
  local text=$1
  shift
  if $DRY_RUN; then
    printf '%s <<EOF\n%s\nEOF\n' "${*@Q}" "$text" >&3
  else
    "$@" <<<"$text"
  fi
}

# The shell command that trains, quoted for a remote shell.
train_command() {
  local arguments=("${TRAIN[@]}" "${@:2}")
  echo "$1 train ${arguments[*]@Q}"
}
