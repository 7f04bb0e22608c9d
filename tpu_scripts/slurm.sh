#!/usr/bin/env bash
# GPU hosts of a SLURM cluster, one process per host, with a shared file system.
#
#   slurm.sh create   --env=DIR --package='xalign_jax[cuda] @ git+https://...' [--python=python3.11]      makes a virtual environment
#   slurm.sh run      --env=DIR --name=N --hosts=4 --gpus=8 --hours=24 [--partition=P] [--account=A] \
#                     -- --gin_file=F --model_dir=DIR
#   slurm.sh resume   (as run)
#   slurm.sh teardown --name=N
#
# The job saves and queues itself again when it is preempted, and before its time is up. Its log is N.log.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "create run resume teardown" "env package python name hosts gpus hours partition account" "$@"

create() {
  need env package
  [[ -x $ENV/bin/python ]] || run "${PYTHON:-python3.11}" -m venv "$ENV"
  run "$ENV/bin/pip" install --quiet "$PACKAGE"
}

job() {
  cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$HOSTS
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$GPUS
#SBATCH --exclusive
#SBATCH --time=$HOURS:00:00
#SBATCH --signal=TERM@$GRACE
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$NAME.log
${PARTITION:+#SBATCH --partition=$PARTITION}
${ACCOUNT:+#SBATCH --account=$ACCOUNT}
srun --kill-on-bad-exit=1 $(train_command "$ENV/bin/xalign")
code=\$?
[[ \$code == 3 ]] && scontrol requeue "\$SLURM_JOB_ID"
exit \$code
EOF
}

start() {
  need env name hosts gpus hours
  need_train
  if [[ -n $(run squeue --me --noheader "--name=$NAME") ]]; then
    echo "$NAME is queued or running already"
    return
  fi
  feed "$(job)" sbatch
}

case $ACTION in
  create) create ;;
  run | resume) start ;;
  teardown)
    need name
    run scancel --me "--name=$NAME"
    ;;
esac
