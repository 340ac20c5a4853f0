#!/usr/bin/env bash
# One painting, three drivers: bash experiments/paintings/animate.sh [PICTURE FOLDER DRIVER...] [-- more of animate.py]
# Learns the person once and drives it three times; without arguments the painted synthetic head into this folder.
set -euo pipefail
here=$(dirname "$0")
picture=${1:-$here/painting.jpg} folder=${2:-$here}
shift $(( $# < 2 ? $# : 2 ))
drivers=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do drivers+=("$1"); shift; done
[ $# -gt 0 ] && shift
references=()
if [ ${#drivers[@]} -eq 0 ]; then
  examples=talkinghead/reenactment/shipped/drivers
  drivers=("$examples/calm.mp4" "$examples/cheerful.mp4" "$examples/lively.mp4")
  references=(72 0 81) # as paint.py says: the truth starts there
fi
person=$(mktemp -d)/person.safetensors
trap 'rm -r "$(dirname "$person")"' EXIT
for n in "${!drivers[@]}"; do
  driver=${drivers[$n]}
  if [ "$n" = 0 ]; then with=(source="$picture" save_person="$person" "$@"); else with=(source="$picture" checkpoint="$person"); fi
  python animate.py driving="$driver" output="$folder/$(basename "${driver%.*}").mp4" reference="${references[$n]:-null}" \
    limits=false provenance=metadata "${with[@]}" # the exact truth turns as far as the driver
done
