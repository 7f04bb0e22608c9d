#!/usr/bin/env bash
# GPU hosts of a Kubernetes cluster (such as GKE) with JobSet installed. For TPU slices use xpk.sh.
#
#   jobset.sh create   --context=K                     checks the cluster and its JobSet controller
#   jobset.sh run      --context=K --name=N --image=IMAGE --hosts=4 --gpus=8 [--namespace=S] [--restarts=100] \
#                      -- --gin_file=F --model_dir=gs://BUCKET/FOLDER
#   jobset.sh resume   (as run)                        removes the JobSet of that name, then runs
#   jobset.sh teardown --context=K --name=N [--namespace=S]
#
# The image holds xalign_jax[cuda,gcs]. Exit code 2 (bad configuration) ends the JobSet. Exit code 3 (saved and stopped)
# and every other failure restart all its hosts.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "create run resume teardown" "context name image hosts gpus namespace restarts" "$@"
need context

KUBECTL=(kubectl "--context=$CONTEXT" "--namespace=${NAMESPACE:-default}")

manifest() {
  local command
  command=$(train_command "exec xalign" "--coordinator=$NAME-host-0-0.$NAME:8476" "--processes=$HOSTS")
  cat <<EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-100}
    rules:
    - action: FailJobSet
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
            onExitCodes: {operator: In, values: [2]}
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
                $command --process_id=\$JOB_COMPLETION_INDEX
              resources:
                limits: {nvidia.com/gpu: $GPUS}
              volumeMounts:
              - {name: shared-memory, mountPath: /dev/shm}
            volumes:
            - name: shared-memory
              emptyDir: {medium: Memory}
EOF
}

start() {
  need name image hosts gpus
  need_train
  need_bucket
  feed "$(manifest)" "${KUBECTL[@]}" apply -f -
  echo "logs: ${KUBECTL[*]} logs -f -l jobset.sigs.k8s.io/jobset-name=$NAME"
}

remove() {
  need name
  run "${KUBECTL[@]}" delete jobset "$NAME" --ignore-not-found --wait
}

case $ACTION in
  create) run "${KUBECTL[@]}" get crd jobsets.jobset.x-k8s.io ;;
  run) start ;;
  resume)
    remove
    start
    ;;
  teardown) remove ;;
esac
