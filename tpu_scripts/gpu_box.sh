#!/usr/bin/env bash
# One machine with GPUs: this one, or another over ssh.
#
#   gpu_box.sh create   [--host=USER@HOST] --venv=DIR --package='xalign_jax[cuda] @ git+https://...' [--python=python3.11]
#   gpu_box.sh run      [--host=USER@HOST] --venv=DIR --name=N [--files=DIR] -- --gin_file=F --model_dir=DIR
#   gpu_box.sh resume   (as run)
#   gpu_box.sh status   [--host=USER@HOST] --name=N        whether it runs, and the end of its log
#   gpu_box.sh teardown [--host=USER@HOST] --name=N        the run saves and stops; its model directory stays
#
#   --files=DIR          a folder with gin files, modules, texts and vocabularies, copied to the folder N there. Relative
#                        paths start there, also --model_dir.
#
# Relative paths start in the home directory. The files N.log and N.pid there hold the run's log and process id.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "create run resume status teardown" "host venv package python name files" "$@"

there() {
  if [[ -n $HOST ]]; then
    run ssh -n "$HOST" "$1"
  else
    run bash -c "cd && $1"
  fi
}

lives() {
  echo "cd && [ -f ${NAME@Q}.pid ] && kill -0 \$(cat ${NAME@Q}.pid) 2>/dev/null"
}

create() {
  need venv package
  # Ubuntu 22.04 has Python 3.10 and 24.04 has 3.12, so uv brings the one that is asked for.
  there "{ [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; } \
&& ~/.local/bin/uv venv --quiet --allow-existing --python ${PYTHON:-3.11} ${VENV@Q} \
&& ~/.local/bin/uv pip install --quiet --python ${VENV@Q}/bin/python ${PACKAGE@Q}"
  echo "${HOST:-this machine}: xalign is installed"
}

deliver() {
  [[ -n $FILES ]] || return 0
  [[ -d $FILES ]] || fail "--files=$FILES: no such folder"
  local unpack="mkdir -p ${NAME@Q} && tar -C ${NAME@Q} -xf -"
  if $DRY_RUN; then
    there "$unpack"
  elif [[ -n $HOST ]]; then
    # shellcheck disable=SC2029 # the name is meant to be filled in here
    tar -C "$FILES" -cf - . | ssh "$HOST" "$unpack"
  else
    tar -C "$FILES" -cf - . | bash -c "cd && $unpack"
  fi
}

start() {
  need venv name
  need_train
  local binary=$VENV/bin/xalign
  [[ -z $FILES || $binary == /* ]] || binary=../$binary # seen from the folder N
  deliver
  there "if $(lives); then echo ${NAME@Q} runs already; else cd ${FILES:+${NAME@Q}}
$(exports)
setsid nohup $(train_command "${binary@Q}") >>~/${NAME@Q}.log 2>&1 </dev/null 3>&- & echo \$! >~/${NAME@Q}.pid; fi"
}

status() {
  need name
  there "if $(lives); then echo ${NAME@Q} runs; else echo ${NAME@Q} does not run; fi; tail -n 5 ${NAME@Q}.log"
}

stop() {
  need name
  there "if $(lives); then kill \$(cat ${NAME@Q}.pid); \
for _ in \$(seq $GRACE); do kill -0 \$(cat ${NAME@Q}.pid) 2>/dev/null || break; sleep 1; done; fi; rm -f ${NAME@Q}.pid"
}

case $ACTION in
  create) create ;;
  run | resume) start ;;
  status) status ;;
  teardown) stop ;;
esac
