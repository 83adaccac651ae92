#!/usr/bin/env bash
# Start a real Slurm of one node on this machine, for trying `hydra/launcher=slurm`; `stop` ends it again.
#
#   apt-get install slurm-wlm munge      once, as root
#   scripts/slurm_node.sh start DIR      as root; then: export SLURM_CONF=DIR/slurm.conf
#   scripts/slurm_node.sh stop DIR
#
# Two partitions share the node: `short`, and `preemptible`, whose jobs give way to those of `short` and are requeued.
# DIR keeps its configuration, its logs and its state. As many workers may run as LTX_SLURM_CPUS says (8).
set -euo pipefail

action=${1:?start or stop}
mkdir -p "${2:?a folder for the state of the cluster}"
place=$(cd "$2" && pwd)

stop() {
  for daemon in slurmd slurmctld munged; do
    if [ -f "$place/$daemon.pid" ]; then kill "$(cat "$place/$daemon.pid")" 2>/dev/null || true; fi
  done
}

start() {
  for program in munged slurmctld slurmd sbatch; do
    command -v $program >/dev/null || { echo "$program is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
  done
  host=$(hostname -s)
  # Munge refuses a folder that others could write to, and one of root's where it does not run as root.
  install -d -m 700 "$place/munge"
  [ -f "$place/munge/key" ] || { head -c 1024 /dev/urandom > "$place/munge/key"; chmod 600 "$place/munge/key"; }
  munged --force --key-file="$place/munge/key" --socket="$place/munge.socket" --pid-file="$place/munged.pid" \
    --log-file="$place/munge/log" --seed-file="$place/munge/seed"
  mkdir -p "$place/state" "$place/spool"
  cat > "$place/slurm.conf" <<CONF
ClusterName=ltx
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmctldPort=${LTX_SLURM_PORT:-16817}
SlurmdPort=$((${LTX_SLURM_PORT:-16817} + 1))
AuthType=auth/munge
AuthInfo=socket=$place/munge.socket,cred_expire=15
CryptoType=crypto/munge
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=600
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=${LTX_SLURM_CPUS:-8} State=UNKNOWN
PartitionName=short Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
PartitionName=preemptible Nodes=$host MaxTime=INFINITE State=UP PriorityTier=1
CONF
  export SLURM_CONF="$place/slurm.conf"
  slurmctld
  slurmd
  for _ in $(seq 60); do
    if sinfo -h -o %T 2>/dev/null | grep -q idle; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  echo "the node did not come up; see $place/slurmd.log and $place/slurmctld.log" >&2
  exit 3
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "$action is neither start nor stop" >&2; exit 2 ;;
esac
