#!/usr/bin/env bash
# Cloud TPU by queued resources, on demand or spot, one slice or several.
#
#   cloud_tpu.sh create   --name=N --project=P --zone=Z --accelerator=v5litepod-256 --runtime=v2-alpha-tpuv5-lite \
#                         --package='xalign_jax[tpu,gcs] @ git+https://...' [--slices=2] [--spot=true]
#   cloud_tpu.sh run      --name=N --project=P --zone=Z [--slices=2] -- --gin_file=F --model_dir=gs://BUCKET/FOLDER
#   cloud_tpu.sh resume   (flags of create) -- (arguments of run)     after a preemption: creates lost slices, then runs
#   cloud_tpu.sh teardown --name=N --project=P --zone=Z
#
# Each action may be repeated: it keeps existing slices and runs. If a run exits 3 (saved and stopped), its host starts it
# again.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "create run resume teardown" "name project zone accelerator runtime package slices spot" "$@"
need name project zone

SLICES=${SLICES:-1}
PLACE=("--project=$PROJECT" "--zone=$ZONE")

state() {
  run gcloud compute tpus queued-resources describe "$NAME" "${PLACE[@]}" '--format=value(state.state)' 2>/dev/null || true
}

nodes() {
  if [[ $SLICES == 1 ]]; then
    echo "$NAME"
  else
    seq -f "$NAME-%g" 0 $((SLICES - 1))
  fi
}

everywhere() {
  local node
  for node in $(nodes); do
    run gcloud compute tpus tpu-vm ssh "$node" "${PLACE[@]}" --worker=all "--command=$1"
  done
}

remove() {
  run gcloud compute tpus queued-resources delete "$NAME" "${PLACE[@]}" --force --quiet
}

request() {
  local which=("--node-id=$NAME")
  [[ $SLICES == 1 ]] || which=("--node-count=$SLICES" "--node-prefix=$NAME")
  [[ $SPOT != true ]] || which+=(--spot)
  run gcloud compute tpus queued-resources create "$NAME" "${PLACE[@]}" "--accelerator-type=$ACCELERATOR" \
    "--runtime-version=$RUNTIME" --scopes=https://www.googleapis.com/auth/cloud-platform "${which[@]}"
}

create() {
  need accelerator runtime package
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
    sleep 30
    now=$(state)
    echo "$NAME: $now"
    [[ $now != FAILED && $now != SUSPENDED ]] || fail "$NAME: $now; see gcloud compute tpus queued-resources describe $NAME"
  done
  # The images' own Python is older than 3.11.
  everywhere "pip3 install --user --quiet uv && ~/.local/bin/uv venv --quiet --allow-existing --python 3.11 ~/xalign \
&& ~/.local/bin/uv pip install --quiet --python ~/xalign/bin/python ${PACKAGE@Q}"
}

start() {
  need_train
  need_bucket
  everywhere "systemctl is-active --quiet xalign || sudo systemd-run --unit=xalign --collect --uid=\$(id -u) \
--working-directory=\$HOME -p Restart=no -p RestartForceExitStatus=3 -p RestartSec=30 -p TimeoutStopSec=$GRACE \
$(train_command "\$HOME/xalign/bin/xalign")"
  echo "logs: gcloud compute tpus tpu-vm ssh $(nodes | head -1) ${PLACE[*]} --command='journalctl -fu xalign'"
}

case $ACTION in
  create) create ;;
  run) start ;;
  resume)
    create
    start
    ;;
  teardown) if $DRY_RUN || [[ -n $(state) ]]; then remove; fi ;;
esac
