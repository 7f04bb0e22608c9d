# shellcheck shell=bash disable=SC2034
# Shared by the launch scripts: flags, checks, dry runs, delivery of files, and `watch`.
#
#   SCRIPT ACTION --flag=value ... [-- arguments of `xalign train`]
#
# A flag that is not given is read from the environment: --zone from XALIGN_ZONE. With --dry_run every command is printed
# and none is run; the answer of a command then counts as empty.

set -euo pipefail
exec 3>&1

DRY_RUN=false
GRACE=120 # seconds between SIGTERM and SIGKILL: the time to save
TRIES=10  # looks in a row that may fail before `watch` gives up

fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

note() {
  echo "${0##*/}: $*" >&2
}

# The comment at the head of the script, without its signs.
show_help() {
  sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0"
  echo
  [[ $1 != *budget_hours* ]] || cat <<'EOF'
watch follows the run to its end, and says each change:

  --autodelete=true    deletes the machines when the run is done or has failed; otherwise they stay, and are billed
  --budget_hours=H     deletes them once `watch` has seen them for H hours, whatever the run does
  --resumes=10         how often it makes lost machines again
  --poll=60            seconds between looks

EOF
  echo "Flags: $1. Each may come from the environment (--zone: XALIGN_ZONE)."
  echo "--dry_run prints every command and runs none."
}

# parse "actions" "flags" "$@": sets ACTION, each flag's variable (--zone: ZONE) and the arrays TRAIN and VARIABLES.
parse() {
  local actions=$1 flags=$2 name
  shift 2
  [[ $# -eq 0 || " $* " != *" --help "* ]] || { show_help "${flags// /, }" && exit 0; }
  [[ $# -gt 0 && " $actions " == *" $1 "* ]] || fail "expected one of: $actions; --help explains them"
  ACTION=$1
  shift
  GIVEN=("$@")
  END=("$@") # of the teardown that ends `watch`
  for name in $flags; do
    local variable=XALIGN_${name^^}
    printf -v "${name^^}" %s "${!variable:-}"
  done
  TRAIN=()
  VARIABLES=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      --) shift && TRAIN=("$@") && break ;;
      --dry_run) DRY_RUN=true ;;
      --env=*)
        [[ " $flags " == *" env "* ]] || fail "unknown flag --env; known: ${flags// /, }"
        [[ $1 =~ ^--env=[A-Za-z_][A-Za-z0-9_]*= ]] || fail "$1: expected --env=NAME=VALUE"
        VARIABLES+=("${1#--env=}")
        ;;
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

need_number() {
  local name
  for name in "$@"; do
    local variable=${name^^}
    [[ ${!variable} =~ ^([0-9]+([.][0-9]+)?)?$ ]] || fail "--$name=${!variable}: expected a number"
  done
}

# Names of machines and pods are made from --name, and may have 63 characters.
need_name() {
  [[ $NAME =~ ^[a-z][-a-z0-9]{0,38}[a-z0-9]?$ ]] ||
    fail "--name=$NAME: expected at most 40 small letters, digits and hyphens, and a letter first"
}

# Numbers of things; empty ones have defaults.
need_whole() {
  local name
  for name in "$@"; do
    local variable=${name^^}
    [[ ${!variable} =~ ^([1-9][0-9]*)?$ ]] || fail "--$name=${!variable}: expected a whole number"
  done
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

# ask "pattern" command ...: the command's output; empty if it fails and its message matches the pattern ("not there").
# Any other failure shows the message and fails: an expired login must not look like an absent machine.
ask() {
  local absent=$1 errors answer code=0
  shift
  if $DRY_RUN; then
    run "$@"
    return
  fi
  errors=$(mktemp)
  answer=$("$@" 2>"$errors") || code=$?
  if [[ $code -ne 0 ]] && ! grep -qE -e "$absent" "$errors"; then
    cat "$errors" >&2
    rm -f "$errors"
    note "could not ask ${*:1:4}; nothing was changed, and machines may still be billed"
    return 2
  fi
  rm -f "$errors"
  [[ $code -ne 0 ]] || echo "$answer"
}

# The shell command that trains, quoted for a remote shell.
train_command() {
  echo "$1 train ${TRAIN[*]@Q}"
}

# `export` lines: the folder of --files, where Recipe.modules may lie, and the --env flags.
exports() {
  local each
  # shellcheck disable=SC2016 # for the host's shell
  [[ -z $FILES ]] || echo 'export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}'
  for each in "${VARIABLES[@]}"; do
    echo "export ${each%%=*}=$(quoted "${each#*=}")"
  done
}

quoted() {
  echo "${1@Q}"
}

# Ends unless every host will find the gin files: in --files, in the package, or at an absolute path of the image.
need_gin_files() {
  local each file packaged
  packaged=$(dirname "${BASH_SOURCE[0]}")/../gin
  [[ -z $FILES || -d $FILES ]] || fail "--files=$FILES: no such folder"
  for each in "${TRAIN[@]}"; do
    [[ $each == --gin_file=* ]] || continue
    file=${each#*=}
    [[ $file != /* && ! -f $packaged/$file ]] || continue
    [[ -n $FILES ]] || fail "$each: no host has this file; give the folder that holds it: --files=DIR"
    [[ -f $FILES/$file ]] || fail "$each: not in --files=$FILES; name it relative to that folder"
  done
}

# Packs --files, puts the archive into --bucket, and sets DELIVERED to its address. Another content has another name, so
# hosts that restart never see half of a change.
deliver() {
  DELIVERED=
  [[ -n $FILES ]] || return 0
  need bucket
  [[ $BUCKET == gs://* ]] || fail "--bucket=$BUCKET: expected gs://BUCKET/FOLDER"
  local archive
  archive=$(mktemp)
  tar -C "$FILES" -cf "$archive" .
  DELIVERED=$BUCKET/files-$(cksum <"$archive" | tr ' ' -).tar
  run gcloud storage cp --quiet "$archive" "$DELIVERED"
  rm -f "$archive"
}

# Shell commands for a container: exports, the delivered files, then the training. Python fetches them, because the image
# has it.
container_command() {
  local fetch='import sys, tarfile, fsspec; tarfile.open(fileobj=fsspec.open(sys.argv[1]).open()).extractall(filter="data")'
  exports
  [[ -z $DELIVERED ]] || echo "mkdir -p /tmp/xalign-files && cd /tmp/xalign-files || exit 4
$(retried "python -c ${fetch@Q} $DELIVERED" "exit 4")"
  train_command "exec xalign"
}

# retried "command" "otherwise": shell text that tries a command five times.
retried() {
  echo "tries=0; until $1; do tries=\$((tries + 1)); [ \$tries -lt 5 ] || $2; sleep \$((5 * tries)); done"
}

# Follows a run to its end. The script defines `look`, which prints one of: absent, waiting, running, silent, halted, lost,
# done, failed, stopped (and words for the reader), or fails if it cannot ask.
#
#   lost            started again, at most --resumes times
#   absent          the same at the first look; later it means that somebody has removed it, and `watch` ends
#   silent          the machine is there, but hosts do not answer: after TRIES looks it is removed and made again
#   halted          the run has ended on some hosts by a cause that may pass; after TRIES looks it is the end
#   done, failed, stopped    the end; --autodelete=true removes the machine
watch() {
  local now before="" seen=false deaf=0 silent=0 halted=0 resumed=0 billed=0 limit last=$SECONDS
  need_number budget_hours resumes poll
  limit=$(awk "BEGIN { print int(${BUDGET_HOURS:-0} * 3600) }")
  while true; do
    if now=$(look); then deaf=0; else deaf=$((deaf + 1)) now=unknown; fi
    [[ $before =~ ^(|absent.*|lost.*|waiting.*)$ ]] || billed=$((billed + SECONDS - last))
    last=$SECONDS
    [[ $now == "$before" ]] || echo "$(date +%H:%M:%S) $NAME: $now"
    before=$now
    [[ $now == silent* ]] && silent=$((silent + 1)) || silent=0
    [[ $now == halted* ]] && halted=$((halted + 1)) || halted=0
    [[ $deaf -lt $TRIES ]] || fail "$NAME: could not ask $TRIES times; the machine may still be billed"
    if [[ $limit -gt 0 && $billed -ge $limit ]]; then
      echo "$NAME: the budget of $BUDGET_HOURS hours is used up"
      "$0" teardown "${END[@]}"
      exit 1
    fi
    case $now in
      done*) finish 0 ;;
      failed* | stopped*) finish 1 ;;
      halted*) [[ $halted -lt $TRIES ]] || finish 1 ;;
      absent*) if $seen; then fail "$NAME: somebody has removed it; nothing more to watch"; else again; fi ;;
      lost*) again ;;
      silent*) if [[ $silent -ge $TRIES ]]; then "$0" teardown "${GIVEN[@]}" && again; fi ;;
    esac
    [[ $now =~ ^(absent|unknown) ]] || seen=true
    sleep "${POLL:-60}"
  done
}

# Resumes, and counts. A failure is not the end: the next look decides.
again() {
  resumed=$((resumed + 1))
  if [[ $resumed -gt ${RESUMES:-10} ]]; then
    echo "$NAME: resumed ${RESUMES:-10} times (--resumes); no more"
    finish 1
  fi
  echo "$NAME: resume $resumed of ${RESUMES:-10}"
  "$0" resume "${GIVEN[@]}" || note "resume failed; looking again"
  silent=0
}

# finish code: the end of `watch`.
finish() {
  if [[ $AUTODELETE == true ]]; then
    "$0" teardown "${END[@]}"
  else
    echo "$NAME: the machine stays and is billed until: ${0##*/} teardown"
  fi
  exit "$1"
}
