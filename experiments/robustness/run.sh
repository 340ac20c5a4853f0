#!/usr/bin/env bash
# The main job's recipe with ten seeds, with ten to ten thousand times its rates, and on shards of which a tenth is poisoned:
#   experiments/robustness/run.sh [DATA]     a folder for the rendered people, else data/
# Leaves outputs/robustness/<run>/, <run>.log and <run>.status; what is finished is not run again. 150 steps of 4 episodes each.
set -uo pipefail
data=${1:-data}
outputs=${OUTPUTS:-outputs/robustness}
python=${PYTHON:-python}
short=(data.batch_size=4 data.episodes_per_epoch=600 data.val_episodes=16 "validation_shots=[8]" trainer.max_epochs=1
  trainer.check_val_every_n_epoch=1 callbacks.budget.minutes=null animate_example=false trainer=cpu paths.data_dir="$data")
mkdir -p "$outputs"
run() { # NAME override ...
  local name=$1
  shift
  if [ -e "$outputs/$name.status" ]; then return; fi
  rm -rf "${outputs:?}/$name"
  "$python" train.py "${short[@]}" hydra.run.dir="$outputs/$name" "$@" >"$outputs/$name.log" 2>&1
  echo $? >"$outputs/$name.status"
}
both() { # NAME override ...
  local name=$1
  shift
  run "fsth-$name" experiment=meta_synthetic "$@"
  run "warp-$name" experiment=meta_synthetic_warp model=warp_64 data=synthetic "$@"
}
for seed in 0 1 2 3 4 5 6 7 8 9; do both "seed$seed" seed=$seed; done
for poison in nan huge noise; do
  "$python" experiments/robustness/poison.py $poison "$outputs/data_$poison" "$data/synthetic" || exit 1
  both $poison data.path="$outputs/data_$poison"
done
for seed in 0 1; do both "rates10-seed$seed" seed=$seed learner.lr_generator=5e-3 learner.lr_discriminator=5e-3; done
both rates100 learner.lr_generator=5e-2 learner.lr_discriminator=5e-2
both rates10000 learner.lr_generator=5 learner.lr_discriminator=5
