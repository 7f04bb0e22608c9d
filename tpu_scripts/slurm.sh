#!/usr/bin/env bash
# GPU hosts of a SLURM cluster, one process per host, with a shared file system.
#
#   slurm.sh create   --venv=DIR --package='xalign_jax[cuda] @ git+https://...' [--python=python3.11] [--constraints=FILE]
#   slurm.sh run      --venv=DIR --name=N --hosts=4 --gpus=8 --hours=24 [--files=DIR] [--partition=P] [--account=A] \
#                     -- --gin_file=F --model_dir=DIR
#   slurm.sh resume   (as run)
#   slurm.sh status   --name=N
#   slurm.sh teardown --name=N      the run saves and stops, and is not queued again
#
#   --files=DIR          the job's working directory: relative paths start there, also --model_dir and modules of recipes
#   --restarts=20        how often the job queues itself again
#
# The job saves and queues itself again when it is preempted, before its time is up, and when a host is lost. It does not
# if a process has ended with code 1 (failed) or 2 (bad configuration), which would come again. Its log is N.log.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "create run resume status teardown" "venv package python constraints name hosts gpus hours files partition account \
restarts" "$@"

create() {
  need venv package
  [[ -x $VENV/bin/python ]] || run "${PYTHON:-python3.11}" -m venv "$VENV"
  run "$VENV/bin/pip" install --quiet ${CONSTRAINTS:+-c "$CONSTRAINTS"} "$PACKAGE"
  echo "$VENV: xalign is installed"
}

# Each process writes its own exit code to a folder. The code of `srun` says less: it is 143 or 137 when SLURM ends a
# process that is slow to leave after the others. `trap` keeps the shell around the process until it has saved.
job() {
  local each
  each="trap : TERM
$(exports)
$(train_command "$VENV/bin/xalign")
code=\$?
echo \$code >\"\$XALIGN_CODES/\$SLURM_PROCID\"
exit \$code"
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
export XALIGN_CODES="\$PWD/.$NAME-codes-\$SLURM_JOB_ID"
rm -rf "\$XALIGN_CODES" && mkdir "\$XALIGN_CODES"
${FILES:+cd ${FILES@Q} || exit 2}
srun --kill-on-bad-exit=0 --wait=60 --cpu-bind=none bash -c ${each@Q}
code=\$?
lasting=\$(grep -lxE '1|2' "\$XALIGN_CODES"/* 2>/dev/null)
rm -rf "\$XALIGN_CODES"
[[ \$code != 0 ]] || exit 0
[[ -z \$lasting ]] || { echo "$NAME: code \$code would come again; not queued again"; exit \$code; }
[[ \${SLURM_RESTART_COUNT:-0} -lt ${RESTARTS:-20} ]] || { echo "$NAME: queued again ${RESTARTS:-20} times; no more"; exit \$code; }
scontrol requeue "\$SLURM_JOB_ID"
EOF
}

queued() {
  run squeue --me --noheader "--name=$NAME"
}

start() {
  need venv name hosts gpus hours
  need_whole hosts gpus hours restarts
  need_train
  [[ -z $FILES ]] || need_gin_files
  [[ $VENV == /* ]] || VENV=$PWD/$VENV # the job may change to --files
  local there
  there=$(queued)
  if [[ -n $there ]]; then
    echo "$NAME is queued or running already"
    return
  fi
  feed "$(job)" sbatch
}

status() {
  local there
  there=$(queued)
  echo "$NAME: ${there:-neither queued nor running; its log is $NAME.log}"
}

case $ACTION in
  create) create ;;
  run | resume) start ;;
  status)
    need name
    status
    ;;
  teardown)
    need name
    run scancel --me "--name=$NAME"
    echo "$NAME: cancelled"
    ;;
esac
