"""A stand-in for Slurm's commands, which starts the tasks of an array as processes of this machine."""

from __future__ import annotations

from pathlib import Path

# Each keeps what it was called with. sbatch starts every task of the array as a shell of its own, whose process squeue
# looks for; an unknown partition is refused in Slurm's words.
COMMANDS = {
    "srun": "exit 1",
    "scontrol": "exit 0",
    "sinfo": 'echo "short $(cat "$PLACE/nodes")"; echo "long 1"',
    "sbatch": """\
if grep -q "partition=broken" "$1"; then
  echo "sbatch: error: Batch job submission failed: Invalid account specified" >&2; exit 1
fi
cp "$1" "$PLACE/script"
last=$(sed -n 's/^#SBATCH --array=0-//p' "$1")
output=$(sed -n 's/^#SBATCH --output=//p' "$1")
for task in $(seq 0 "$last"); do
  log=$(echo "$output" | sed "s/%A/7/; s/%a/$task/")
  SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task setsid bash "$1" > "$log" 2>&1 < /dev/null &
  echo $! > "$PLACE/task_$task"
done
echo "Submitted batch job 7"
""",
    "squeue": """\
for file in "$PLACE"/task_*; do
  kill -0 "$(cat "$file")" 2>/dev/null && echo "7_${file##*_}"
done
exit 0""",
    "scancel": """\
for task in "$@"; do kill -- -"$(cat "$PLACE/task_${task#7_}")"; done
exit 0""",
}


def write_slurm(place: Path) -> Path:
    """Write the commands into a folder, the state of the stand-in beside it, and return the folder."""
    (place / "bin").mkdir(parents=True)
    (place / "nodes").write_text("1")
    for name, body in COMMANDS.items():
        path = place / "bin" / name
        path.write_text(f'#!/usr/bin/env bash\nPLACE={place}\necho "{name} $*" >> "$PLACE/calls"\n{body}\n')
        path.chmod(0o755)
    return place / "bin"
