#!/usr/bin/env bash
# GPU hosts of a Kubernetes cluster (such as GKE) with JobSet installed. For TPU slices use xpk.sh.
#
#   jobset.sh create   --context=K                     checks the cluster and its JobSet controller
#   jobset.sh run      --context=K --name=N --image=IMAGE --hosts=4 --gpus=8 [--namespace=S] \
#                      [--files=DIR --bucket=gs://BUCKET/FOLDER] [--env=NAME=VALUE ...] \
#                      -- --gin_file=F --model_dir=gs://BUCKET/FOLDER
#   jobset.sh resume   (as run)                        removes the JobSet of that name, then runs
#   jobset.sh status   --context=K --name=N [--namespace=S]
#   jobset.sh watch    (as run) [--autodelete=true] [--budget_hours=24] [--resumes=10] [--poll=60]
#   jobset.sh teardown --context=K --name=N [--namespace=S]      removes the JobSet; nodes are the cluster's
#
# The image holds xalign_jax[cuda,gcs] (docker/cuda.Dockerfile).
#
#   --files=DIR          a folder with gin files, modules, texts and vocabularies: the working directory of every host
#   --bucket=gs://B/F    where they wait for the hosts
#   --restarts=10        how often all hosts start again
#   --patch=FILE         a JSON patch of the JobSet: service account, node selector, tolerations, volumes, networks
#
# Exit codes 1 (failed) and 2 (bad configuration) would come again, so they end the JobSet. Codes 3 (saved and stopped) and
# 4 (lost a process or the storage), signals and lost hosts restart all hosts.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "create run resume status watch teardown" "context name image hosts gpus namespace files bucket env restarts patch \
resumes autodelete budget_hours poll" "$@"
need context

KUBECTL=(kubectl "--context=$CONTEXT" "--namespace=${NAMESPACE:-default}")
CONTROLLER=https://github.com/kubernetes-sigs/jobset/releases/download/v0.12.0/manifests.yaml

manifest() {
  local command
  TRAIN+=("--coordinator=$NAME-host-0-0.$NAME:8476" "--processes=$HOSTS")
  command="$(container_command) --process_id=\$JOB_COMPLETION_INDEX"
  command=${command//$'\n'/$'\n                '} # as deep as the manifest's text
  cat <<EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-10}
    rules:
    - name: lasting
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: host
    replicas: 1
    template:
      spec:
        parallelism: $HOSTS
        completions: $HOSTS
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {operator: In, values: [1, 2]}
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: $GRACE
            containers:
            - name: xalign
              image: $IMAGE
              command: [bash, -c]
              args:
              - |
                $command
              resources:
                limits: {nvidia.com/gpu: $GPUS}
              volumeMounts:
              - {name: shared-memory, mountPath: /dev/shm}
            volumes:
            - name: shared-memory
              emptyDir: {medium: Memory}
EOF
}

create() {
  local there
  there=$(ask NotFound "${KUBECTL[@]}" get crd jobsets.jobset.x-k8s.io)
  $DRY_RUN || [[ -n $there ]] ||
    fail "context $CONTEXT has no JobSet controller: kubectl --context=$CONTEXT apply --server-side -f $CONTROLLER"
  echo "$CONTEXT: has the JobSet controller"
}

start() {
  need name image hosts gpus
  need_name
  need_whole hosts gpus restarts
  need_train
  need_bucket
  need_gin_files
  deliver
  local text
  text=$(manifest)
  if [[ -n $PATCH ]]; then
    [[ -f $PATCH ]] || fail "--patch=$PATCH: no such file"
    text=$(feed "$text" kubectl patch --local -f - --type=json "--patch-file=$PATCH" -o yaml)
  fi
  feed "$text" "${KUBECTL[@]}" apply -f -
  echo "logs: ${KUBECTL[*]} logs -f --prefix --max-log-requests=$HOSTS -l jobset.sigs.k8s.io/jobset-name=$NAME"
}

look() {
  local said
  said=$(ask NotFound "${KUBECTL[@]}" get jobset "$NAME" -o \
    'jsonpath={.metadata.name} {.status.restarts} {range .status.conditions[?(@.status=="True")]}{.type} {end}') || return 1
  case $said in
    "") echo "absent: no JobSet of this name" ;;
    *" Completed "*) echo "done" ;;
    *" Failed "*) echo "failed" ;;
    *" Suspended "*) echo "waiting: suspended" ;;
    *) echo "running" ;;
  esac
}

status() {
  need name
  local now
  now=$(look) || exit 2
  echo "$NAME: $now"
  [[ $now != failed* ]] || exit 1
}

remove() {
  run "${KUBECTL[@]}" delete jobset "$NAME" --ignore-not-found --wait
}

teardown() {
  need name
  local now
  now=$(look) || exit 2
  if [[ $now == absent* ]] && ! $DRY_RUN; then
    echo "$NAME: not there (context $CONTEXT); nothing to delete"
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
    remove
    start
    ;;
  status) status ;;
  watch)
    need name image hosts gpus
    need_train
    watch
    ;;
  teardown) teardown ;;
esac
