#!/usr/bin/env bash
# TPU slices of a GKE cluster, by XPK (pip install xpk). XPK makes a JobSet; JAX finds the hosts by GKE's variables.
#
#   xpk.sh create   --cluster=C --project=P --zone=Z --tpu_type=v5litepod-256 [--slices=2] [--spot=true]
#   xpk.sh run      --cluster=C --project=P --zone=Z --tpu_type=v5litepod-256 --name=N --image=IMAGE [--slices=2] \
#                   [--files=DIR --bucket=gs://BUCKET/FOLDER] [--env=NAME=VALUE ...] \
#                   -- --gin_file=F --model_dir=gs://BUCKET/FOLDER
#   xpk.sh resume   (as run)       first removes a workload of that name, which has ended or hangs
#   xpk.sh status   --cluster=C --project=P --zone=Z --name=N
#   xpk.sh watch    (as run) [--autodelete=true] [--budget_hours=24] [--resumes=10] [--poll=60]
#   xpk.sh teardown --cluster=C --project=P --zone=Z [--name=N]      the workload N, or without a name the cluster
#
# The image holds xalign_jax[tpu,gcs] (docker/tpu.Dockerfile).
#
#   --files=DIR          a folder with gin files, modules, texts and vocabularies: the working directory of every host
#   --bucket=gs://B/F    where they wait for the hosts
#   --runtime_file=F     the preset, if not the one of accelerators.sh; "none" leaves it out
#   --restarts=10        how often a workload starts again
#   --create_flags='...' passed on to `xpk cluster create`: --reservation, --enable-workload-identity
#   --xpk_flags='...'    passed on to `xpk workload create`: --storage, --priority, --deploy-stacktrace-sidecar
#
# A workload starts again after exit code 3 (saved and stopped) or 4 (lost a process or the storage), after a signal, and
# after a lost host. Codes 1 and 2 would come again, so they end it. `watch --autodelete=true` deletes the cluster.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/accelerators.sh"
parse "create run resume status watch teardown" "cluster project zone tpu_type runtime_file slices spot name image files \
bucket env restarts create_flags xpk_flags resumes autodelete budget_hours poll" "$@"
need cluster project zone

need_whole slices
SLICES=${SLICES:-1}
PLACE=("--cluster=$CLUSTER" "--project=$PROJECT" "--zone=$ZONE")
END=("${PLACE[@]}" --name=)
read -ra CREATE_FLAGS <<<"$CREATE_FLAGS"
read -ra XPK_FLAGS <<<"$XPK_FLAGS"
# GKE gives pods of spot nodes 15 s, whatever they ask for.
[[ $SPOT != true ]] || GRACE=15

# Prints the workload's name if there is one. XPK prints the filter before its table, so only the first column counts.
found() {
  local table
  table=$(ask '^never$' xpk workload list "${PLACE[@]}" "--filter-by-job=$NAME") || return
  awk -v name="$NAME" '$1 == name { print name; exit }' <<<"$table"
}

remove() {
  run xpk workload delete "${PLACE[@]}" "--workload=$NAME" --force
}

create() {
  need tpu_type
  local kind=(--on-demand)
  [[ $SPOT != true ]] || kind=(--spot)
  # XPK keeps existing parts of the cluster.
  run xpk cluster create "${PLACE[@]}" "--tpu-type=$TPU_TYPE" "--num-slices=$SLICES" "${kind[@]}" "${CREATE_FLAGS[@]}"
}

start() {
  need name tpu_type image
  need_name
  need_whole restarts
  need_train
  need_bucket
  need_gin_files
  local there
  there=$(found)
  if [[ -n $there ]]; then
    echo "$NAME exists already; resume replaces it"
    return
  fi
  accelerator "$TPU_TYPE" "$SLICES"
  add_preset
  deliver
  [[ $SPOT != true ]] || note "spot: a node gets $GRACE s of notice; a save that takes longer is lost (Runtime.checkpoint_every)"
  # XPK puts the command into one line of its manifest.
  run xpk workload create "${PLACE[@]}" "--workload=$NAME" "--tpu-type=$TPU_TYPE" "--num-slices=$SLICES" \
    "--docker-image=$IMAGE" "--command=$(container_command | paste -sd ';')" "--max-restarts=${RESTARTS:-10}" \
    --restart-on-exit-codes=3,4 "--termination-grace-period-seconds=$GRACE" "${XPK_FLAGS[@]}"
  echo "logs: kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
}

look() {
  local there code=0
  there=$(found) || return 1
  if [[ -z $there ]]; then
    echo "absent: no workload of this name in cluster $CLUSTER"
    return
  fi
  # XPK waits for the end, and says by its exit code how it was.
  run xpk workload list "${PLACE[@]}" "--wait-for-job-completion=$NAME" --timeout=1 >&2 || code=$?
  case $code in
    0) echo "done" ;;
    124) echo "running" ;;
    125) echo "failed" ;;
    *) return 1 ;;
  esac
}

status() {
  need name
  local now
  now=$(look 2>/dev/null) || fail "$NAME: XPK does not say how it is"
  echo "$NAME: $now"
  [[ $now != failed* ]] || exit 1
}

teardown() {
  local there
  if [[ -z $NAME ]]; then
    run xpk cluster delete "${PLACE[@]}" --force
    echo "$CLUSTER: deleted"
    return
  fi
  there=$(found)
  if [[ -z $there ]] && ! $DRY_RUN; then
    echo "$NAME: not there (cluster $CLUSTER); nothing to delete"
  else
    remove
    echo "$NAME: deleted; the cluster's nodes stay, and are billed"
  fi
}

case $ACTION in
  create) create ;;
  run) start ;;
  resume)
    need name
    there=$(found)
    if $DRY_RUN || [[ -n $there ]]; then remove; fi
    start
    ;;
  status) status ;;
  watch)
    need name tpu_type image
    need_train
    watch
    ;;
  teardown) teardown ;;
esac
