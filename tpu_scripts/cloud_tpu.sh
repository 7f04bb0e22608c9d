#!/usr/bin/env bash
# Cloud TPU by queued resources, on demand or spot, one slice or several.
#
#   cloud_tpu.sh create   --name=N --project=P --zone=Z --accelerator=v5litepod-256 \
#                         --package='xalign_jax[tpu,gcs] @ git+https://...' [--slices=2] [--spot=true]
#   cloud_tpu.sh run      (flags of create) [--files=DIR --bucket=gs://BUCKET/FOLDER] [--env=NAME=VALUE ...] \
#                         -- --gin_file=F --model_dir=gs://BUCKET/FOLDER
#   cloud_tpu.sh resume   (as run)      after a preemption: makes lost slices again, then runs
#   cloud_tpu.sh status   (flags of create)
#   cloud_tpu.sh watch    (as run) [--autodelete=true] [--budget_hours=24] [--resumes=10] [--poll=60]
#   cloud_tpu.sh stop     --name=N --project=P --zone=Z      the run saves and stops; the slices stay, and are billed
#   cloud_tpu.sh teardown --name=N --project=P --zone=Z      as stop, then the slices are deleted
#
# Each action may be repeated: it keeps existing slices and runs.
#
#   --files=DIR          a folder with gin files, modules, texts and vocabularies: the working directory of every host
#   --bucket=gs://B/F    where --files and a wheel wait for the hosts
#   --package=WHL[tpu,gcs]   a wheel on this machine instead of an address; --constraints=FILE pins what it needs
#   --runtime=VERSION    the image, if not the one of the table in accelerators.sh
#   --runtime_file=F     the preset, if not the one of that table; "none" leaves it out
#   --create_flags='...' passed on to `gcloud ... create`: --network, --service-account, --reserved, --internal-ips
#   --ssh_flags='...'    passed on to `gcloud ... ssh`: --internal-ip, --tunnel-through-iap, --ssh-key-file
#   --settle=20          seconds after which `run` asks all hosts whether the run lives
#   --restarts=20        how often a host starts the run again within a day
#
# A host starts the run again after every exit code but 1 and 2, and after a reboot.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/accelerators.sh"
parse "create run resume status watch stop teardown" "name project zone accelerator runtime runtime_file package constraints \
slices spot files bucket env create_flags ssh_flags restarts resumes autodelete budget_hours poll settle" "$@"
need name project zone

need_name
need_whole slices restarts
SLICES=${SLICES:-1}
PLACE=("--project=$PROJECT" "--zone=$ZONE")
QUEUED=(gcloud compute tpus queued-resources)
read -ra CREATE_FLAGS <<<"$CREATE_FLAGS"
read -ra SSH_FLAGS <<<"$SSH_FLAGS"
CHIPS="" HOSTS="" PRESET=""
[[ -z $ACCELERATOR ]] || accelerator "$ACCELERATOR" "$SLICES"

# The state of the queued resource; empty if there is none. Fails if Google does not say.
state() {
  ask "NOT_FOUND.*queuedResources/$NAME" "${QUEUED[@]}" describe "$NAME" "${PLACE[@]}" '--format=value(state.state)'
}

# Runs a shell command on all hosts of all slices at once.
everywhere() {
  run "${QUEUED[@]}" ssh "$NAME" "${PLACE[@]}" --node=all --worker=all --batch-size=64 --quiet \
    --strict-host-key-checking=no "${SSH_FLAGS[@]}" "--command=$1"
}

need_key() {
  [[ -f $HOME/.ssh/google_compute_engine || " ${SSH_FLAGS[*]}" == *" --ssh-key-file"* ]] || $DRY_RUN ||
    fail "no SSH key for gcloud: ssh-keygen -t rsa -N '' -f ~/.ssh/google_compute_engine (or one in an agent)"
}

remove() {
  run "${QUEUED[@]}" delete "$NAME" "${PLACE[@]}" --force --quiet
}

request() {
  local which=("--node-id=$NAME")
  [[ $SLICES == 1 ]] || which=("--node-count=$SLICES" "--node-prefix=$NAME")
  [[ $SPOT != true ]] || which+=(--spot)
  run "${QUEUED[@]}" create "$NAME" "${PLACE[@]}" "--accelerator-type=$ACCELERATOR" "--runtime-version=$RUNTIME" \
    --scopes=https://www.googleapis.com/auth/cloud-platform "${which[@]}" "${CREATE_FLAGS[@]}"
}

create() {
  need accelerator package
  RUNTIME=${RUNTIME:-$IMAGE_VERSION}
  [[ -n $RUNTIME ]] || fail "--accelerator=$ACCELERATOR is not in the table of accelerators.sh; give --runtime=VERSION"
  need_key
  local now
  now=$(state)
  case $now in
    FAILED | SUSPENDED | SUSPENDING) # a preempted spot slice stays suspended
      remove
      request
      ;;
    "") request ;;
    *) echo "$NAME: $now" ;;
  esac
  until $DRY_RUN || [[ $now == ACTIVE ]]; do
    now=$(state)
    echo "$NAME: ${now:-gone}"
    case $now in
      ACTIVE) break ;;
      "" | FAILED | SUSPEND* | DELETING) fail "$NAME: ${now:-gone}; see gcloud compute tpus queued-resources describe $NAME" ;;
    esac
    sleep "${POLL:-30}"
  done
  install
}

# Installs the package on every host. One host of 64 that meets a busy server must not end all, so each tries five times.
install() {
  local package=${PACKAGE@Q} pins="" fetch=""
  if [[ ${PACKAGE%%\[*} == *.whl ]]; then
    local wheel=${PACKAGE%%\[*} extras=""
    [[ $PACKAGE != *\[* ]] || extras="[${PACKAGE#*\[}"
    put "$wheel"
    fetch+="gcloud storage cp --quiet ${BUCKET@Q}/${wheel##*/} ~/ && "
    package="\"xalign_jax$extras @ file://\$HOME/${wheel##*/}\""
  fi
  if [[ -n $CONSTRAINTS && $CONSTRAINTS != http*://* ]]; then
    put "$CONSTRAINTS"
    fetch+="gcloud storage cp --quiet ${BUCKET@Q}/${CONSTRAINTS##*/} ~/ && "
    pins="-c ~/${CONSTRAINTS##*/} "
  elif [[ -n $CONSTRAINTS ]]; then
    pins="-c ${CONSTRAINTS@Q} "
  fi
  # The images' own Python is older than 3.11, so uv brings one.
  local all="{ [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; } \
&& ~/.local/bin/uv venv --quiet --allow-existing --python 3.11 ~/xalign \
&& ${fetch}~/.local/bin/uv pip install --quiet --python ~/xalign/bin/python $pins$package"
  everywhere "$(retried "{ $all; }" "exit 1")"
  echo "$NAME: xalign is installed on all hosts"
}

# put FILE: copies a file of this machine into --bucket.
put() {
  need bucket
  [[ -f $1 ]] || $DRY_RUN || fail "$1: no such file"
  run gcloud storage cp --quiet "$1" "$BUCKET/${1##*/}"
}

# The systemd unit. A service gets none of the limits and variables that the image gives to logins: TPU drivers lock much
# memory, and /etc/environment holds the allocator and time-outs. @HOME@ and @USER@ are the host's.
unit() {
  cat <<EOF
[Unit]
Description=xalign train
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=86400
StartLimitBurst=${RESTARTS:-20}

[Service]
User=@USER@
WorkingDirectory=@HOME@/xalign-files
EnvironmentFile=-/etc/environment
LimitMEMLOCK=infinity
LimitNOFILE=1048576
ExecStartPre=+-/bin/sh -c "echo always >/sys/kernel/mm/transparent_hugepage/enabled"
ExecStart=/bin/bash @HOME@/xalign-start.sh
Restart=on-failure
RestartSec=30
RestartPreventExitStatus=1 2
TimeoutStopSec=$GRACE

[Install]
WantedBy=multi-user.target
EOF
}

# What every host does to start: nothing if it runs already.
host_start() {
  local begin
  begin=$(exports && train_command 'exec ~/xalign/bin/xalign')
  cat <<EOF
set -e
case \$(systemctl show xalign -p ActiveState --value) in active | activating | reloading) exit 0 ;; esac
mkdir -p ~/xalign-files
EOF
  [[ -z $DELIVERED ]] || cat <<EOF
$(retried "gcloud storage cp --quiet ${DELIVERED@Q} ~/xalign-files.tar" "exit 1")
rm -rf ~/xalign-files && mkdir ~/xalign-files && tar -C ~/xalign-files -xf ~/xalign-files.tar
EOF
  cat <<EOF
cat >~/xalign-start.sh <<'XALIGN_START'
$begin
XALIGN_START
sed "s|@HOME@|\$HOME|; s|@USER@|\$(id -un)|" <<'XALIGN_UNIT' | sudo tee /etc/systemd/system/xalign.service >/dev/null
$(unit)
XALIGN_UNIT
sudo systemctl daemon-reload
sudo systemctl reset-failed xalign 2>/dev/null || true
sudo systemctl enable --quiet --now xalign
EOF
}

start() {
  need_train
  need_bucket
  need_gin_files
  need accelerator
  need_key
  add_preset
  deliver
  everywhere "$(host_start)"
  echo "logs: ${QUEUED[*]} ssh $NAME ${PLACE[*]} --command='sudo journalctl -fu xalign'"
  # `systemctl` returns as soon as the process is forked, so look again a little later.
  $DRY_RUN || { sleep "${SETTLE:-20}" && status; }
}

# One line of each host: its unit's states and exit code.
hosts() {
  everywhere "echo xalign-host \$(hostname) \$(systemctl show xalign -p LoadState -p UnitFileState -p ActiveState \
-p ExecMainStatus -p ExecMainStartTimestampMonotonic)"
}

# What the lines of `hosts` mean for the run; exit codes 1 and 2 come first, because they last. With another code a host has
# halted: it is at its limit of restarts, or a preemption or a reboot has just stopped its unit. A unit that `stop` has
# stopped is disabled.
summary() {
  awk -v expected="${HOSTS:-0}" '
    $1 != "xalign-host" { next }
    {
      count++
      for (i = 3; i <= NF; i++) { split($i, pair, "="); is[pair[1]] = pair[2] }
      state = is["ActiveState"]; status = is["ExecMainStatus"]
    }
    is["LoadState"] == "not-found" || is["ExecMainStartTimestampMonotonic"] == 0 { absent++; next }
    state ~ /^(active|activating|reloading|deactivating)$/ { running++; next }
    state == "inactive" && status == 0 { ended++; next }
    is["UnitFileState"] == "disabled" { stopped++ }
    { failed++; if (!code || status == 1 || status == 2) { code = status; where = $2 } }
    END {
      if (!count || count < expected) print "silent: " count + 0 " hosts answer, not " expected
      else if (failed) {
        word = code == 1 || code == 2 ? "failed" : stopped ? "stopped" : "halted"
        print word ": exit code " code " on " where ", " failed " of " count " hosts"
      }
      else if (absent) print "lost: no run on " absent " of " count " hosts"
      else if (ended == count) print "done: all " count " hosts"
      else print "running: " count " hosts"
    }'
}

look() {
  local now answers
  now=$(state) || return 1
  case $now in
    "") echo "absent: no queued resource of this name in project $PROJECT, zone $ZONE" ;;
    FAILED | SUSPENDED | SUSPENDING) echo "lost: $now" ;;
    ACTIVE)
      answers=$(hosts 2>/dev/null) || true # a host that reboots does not answer
      summary <<<"$answers"
      ;;
    *) echo "waiting: $now" ;;
  esac
}

# Says how the run is; fails if it has failed.
status() {
  local now
  now=$(look) || exit 2
  echo "$NAME: $now"
  if [[ $now =~ ^(failed|halted) ]]; then
    everywhere "sudo journalctl -u xalign -n 20 --no-pager" || true
    exit 1
  fi
}

teardown() {
  local now
  now=$(state)
  if [[ -z $now ]] && ! $DRY_RUN; then
    echo "$NAME: not there (project $PROJECT, zone $ZONE); nothing to delete"
    return
  fi
  if [[ $now == ACTIVE ]]; then # the run saves; hosts that do not answer must not keep the slices alive
    timeout $((GRACE + 60)) "$0" stop "${GIVEN[@]}" || note "the run could not be told to save; deleting all the same"
  fi
  remove
  now=$(state)
  $DRY_RUN || [[ -z $now ]] || fail "$NAME: still $now after its deletion; see gcloud compute tpus queued-resources list"
  echo "$NAME: deleted"
}

case $ACTION in
  create) create ;;
  run) start ;;
  resume)
    create
    start
    ;;
  status) status ;;
  watch)
    need accelerator package
    need_train
    watch
    ;;
  stop) everywhere "sudo systemctl disable --quiet --now xalign" ;;
  teardown) teardown ;;
esac
