#!/usr/bin/env bash
# TPU slices of a GKE cluster, by XPK (pip install xpk). XPK makes a JobSet; JAX finds the hosts by GKE's variables.
#
#   xpk.sh create   --cluster=C --project=P --zone=Z --tpu_type=v5litepod-256 [--slices=2] [--spot=true]
#   xpk.sh run      --cluster=C --project=P --zone=Z --tpu_type=v5litepod-256 --name=N --image=IMAGE [--slices=2] \
#                   [--restarts=100] -- --gin_file=F --model_dir=gs://BUCKET/FOLDER
#   xpk.sh resume   (as run)       first removes a workload of that name, which has ended or hangs
#   xpk.sh teardown --cluster=C --project=P --zone=Z [--name=N]      the workload N, or without a name the cluster
#
# The image holds xalign_jax[tpu,gcs]. Exit code 3 (saved and stopped) restarts the workload, and so does a lost host.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "create run resume teardown" "cluster project zone tpu_type slices spot name image restarts" "$@"
need cluster project zone

SLICES=${SLICES:-1}
PLACE=("--cluster=$CLUSTER" "--project=$PROJECT" "--zone=$ZONE")

# XPK prints the filter before its table, so only the first column is searched for the name.
exists() {
  run xpk workload list "${PLACE[@]}" "--filter-by-job=$NAME" | awk -v name="$NAME" '$1 == name { found = 1 } END { exit !found }'
}

remove() {
  run xpk workload delete "${PLACE[@]}" "--workload=$NAME" --force
}

create() {
  need tpu_type
  local kind=(--on-demand)
  [[ $SPOT != true ]] || kind=(--spot)
  # XPK keeps existing parts of the cluster.
  run xpk cluster create "${PLACE[@]}" "--tpu-type=$TPU_TYPE" "--num-slices=$SLICES" "${kind[@]}"
}

start() {
  need name tpu_type image
  need_train
  need_bucket
  if exists; then
    echo "$NAME exists already; resume replaces it"
    return
  fi
  run xpk workload create "${PLACE[@]}" "--workload=$NAME" "--tpu-type=$TPU_TYPE" "--num-slices=$SLICES" \
    "--docker-image=$IMAGE" "--command=$(train_command "exec xalign")" "--max-restarts=${RESTARTS:-100}" \
    --restart-on-exit-codes=1,3 "--termination-grace-period-seconds=$GRACE"
}

case $ACTION in
  create) create ;;
  run) start ;;
  resume)
    need name
    if $DRY_RUN || exists; then remove; fi
    start
    ;;
  teardown)
    if [[ -z $NAME ]]; then
      run xpk cluster delete "${PLACE[@]}" --force
    elif $DRY_RUN || exists; then
      remove
    fi
    ;;
esac
