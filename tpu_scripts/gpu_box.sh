#!/usr/bin/env bash
# One machine with GPUs: this one, or another over ssh.
#
#   gpu_box.sh create   [--host=USER@HOST] --env=DIR --package='xalign_jax[cuda] @ git+https://...' [--python=python3.11]
#   gpu_box.sh run      [--host=USER@HOST] --env=DIR --name=N -- --gin_file=F --model_dir=DIR
#   gpu_box.sh resume   (as run)
#   gpu_box.sh teardown [--host=USER@HOST] --name=N        the run saves and stops; its model directory stays
#
# Relative paths start in the home directory. The files N.log and N.pid there hold the run's log and process id.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "create run resume teardown" "host env package python name" "$@"

there() {
  if [[ -n $HOST ]]; then
    run ssh "$HOST" "$1"
  else
    run bash -c "cd && $1"
  fi
}

lives() {
  echo "cd && [ -f ${NAME@Q}.pid ] && kill -0 \$(cat ${NAME@Q}.pid) 2>/dev/null"
}

create() {
  need env package
  there "[ -x ${ENV@Q}/bin/python ] || ${PYTHON:-python3.11} -m venv ${ENV@Q}; ${ENV@Q}/bin/pip install --quiet ${PACKAGE@Q}"
}

start() {
  need env name
  need_train
  there "if $(lives); then echo ${NAME@Q} runs already; else \
setsid nohup $(train_command "${ENV@Q}/bin/xalign") >>${NAME@Q}.log 2>&1 & echo \$! >${NAME@Q}.pid; fi"
}

stop() {
  need name
  there "if $(lives); then kill \$(cat ${NAME@Q}.pid); \
for _ in \$(seq $GRACE); do kill -0 \$(cat ${NAME@Q}.pid) 2>/dev/null || break; sleep 1; done; fi; rm -f ${NAME@Q}.pid"
}

case $ACTION in
  create) create ;;
  run | resume) start ;;
  teardown) stop ;;
esac
