#!/usr/bin/env bash
# Join a sweep from several machines by ssh, each with a checkout and an output root at the same place as here:
#
#   scripts/work_ssh.sh SWEEP HOST...
#
# It returns at once. The machines share the sweep's seeds by themselves; `ltx cancel SWEEP` ends it on all of them.
set -euo pipefail
sweep=$(realpath "${1:?the folder of a sweep}")
shift
for host in "${@:?at least one host}"; do
  log="$sweep/work-$host.log"
  printf -v command 'cd %q && nohup .venv/bin/ltx work %q > %q 2>&1 < /dev/null &' "$PWD" "$sweep" "$log"
  ssh -o BatchMode=yes "$host" "$command"
  echo "$host: $log"
done
