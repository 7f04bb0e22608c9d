#!/bin/bash
# In place of xalign: notes how it was called, then ends with the codes that the test wrote for it, one for each start, in
# codes-NUMBER or codes. After them it runs until the file `finish` is there. SIGTERM makes it save (file slow-NUMBER: for so
# many seconds; file hold-NUMBER: until it is gone) and exit 3.
number=${STANDIN_NUMBER:-0}
trap 'while [[ -f $STANDIN_STATE/hold-$number ]]; do sleep 0.05; done
sleep "$(cat "$STANDIN_STATE/slow-$number" 2>/dev/null || echo 0)"; exit 3' TERM
echo "$number $PWD $* A=${A:-} P=${PYTHONPATH:-}" >>"$STANDIN_STATE/trained"
echo >>"$STANDIN_STATE/starts-$number"
start=$(wc -l <"$STANDIN_STATE/starts-$number")
for word in "$@"; do
  file=${word#--gin_file=}
  [[ $word != --gin_file=* || $file == recipes/* || $file == runtimes/* || -f $file ]] || { echo "xalign: $file: no such gin file" && exit 2; }
done
code=$(sed -n "${start}p" "$STANDIN_STATE/codes-$number" 2>/dev/null || sed -n "${start}p" "$STANDIN_STATE/codes" 2>/dev/null)
[[ -z $code ]] || exit "$code"
until [[ -f $STANDIN_STATE/finish ]]; do sleep 0.05; done
exit 0
