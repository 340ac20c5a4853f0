#!/usr/bin/env bash
# Meta-learn each row of the small ablation, one after the other; further arguments go to train.py:
#   experiments/ablations/train.sh [paths.data_dir=DIR]
# Leaves outputs/ablations/<row>/checkpoints/last.ckpt and outputs/ablations/seconds.csv (wall clock and CPU).
# A row that fails, by collapse say, is told and the others go on; a row that is finished is not run again.
set -uo pipefail
outputs=${OUTPUTS:-outputs/ablations}
mkdir -p "$outputs"
TIMEFORMAT='%R,%U'
failed=0
for row in default no_mch no_fm no_facenet w_detached two_d_steps; do
  if [ -e "$outputs/$row/done" ]; then continue; fi
  { time "${PYTHON:-python}" train.py --config-dir experiments/ablations experiment=ablation_synthetic +row="$row" \
    trainer=cpu hydra.run.dir="$outputs/$row" "$@" >"$outputs/$row.log" 2>&1; } 2>"$outputs/$row.time"
  status=$?
  echo "$row,$(tail -n 1 "$outputs/$row.time"),$status" | tee -a "$outputs/seconds.csv"
  if [ "$status" = 0 ]; then touch "$outputs/$row/done"; else failed=1; fi
done
exit $failed
