#!/usr/bin/env bash
# Test each row that train.sh left, and those that differ in fine-tuning only; further arguments go to evaluate.py:
#   experiments/ablations/evaluate.sh [paths.data_dir=DIR]
# Rows gather in outputs/ablations/evaluation/results.csv; what is there is not done again.
set -euo pipefail
outputs=${OUTPUTS:-outputs/ablations}
# The shipped rows are of four people, split=mixed and one seed: people.num_people=4 frame_choice.split=mixed. SEED=1 adds another.
common=(trainer=cpu finetune=small people.num_people=8 seed="${SEED:-0}" output="$outputs/evaluation")
for row in default no_mch no_fm no_facenet w_detached two_d_steps; do
  if [ -e "$outputs/$row/done" ]; then
    "${PYTHON:-python}" evaluate.py row="$row" checkpoint="$outputs/$row/checkpoints/last.ckpt" "method=[ff,ft]" "${common[@]}" "$@"
  fi
done
for row in random_psi random_w w0_start embedding_start; do
  "${PYTHON:-python}" evaluate.py --config-dir experiments/ablations +row="$row" \
    checkpoint="$outputs/default/checkpoints/last.ckpt" "${common[@]}" "$@"
done
