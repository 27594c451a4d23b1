#!/usr/bin/env bash
# Trains a small model of the pocket world from nothing, so that you can watch one learn: ./run --train [MINUTES]
# Data, run and report go below build/pocket-world; the same command goes on where it stopped.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
program=${QNEXT_PROGRAM:-$root/build/release/bin/qnext}
work=$root/build/pocket-world
minutes=${1:-5}
mkdir -p "$work"
if [ ! -f "$work/train/dataset.json" ]; then
  echo "generating stories and questions" >&2
  make() { python3 "$root/tools/pocket_world/generate.py" --words-min 12 --words-max 70 --no-meta "$@"; }
  make --kind quiz --documents 24000 --seed 1 --jobs 2 --out "$work/story.jsonl"
  make --kind ledger --documents 6000 --seed 2 --jobs 2 --out "$work/ledger.jsonl"
  make --kind quiz --documents 400 --seed valid --out "$work/valid.jsonl"
  "$program" tokenizer train --vocab-size 2048 --input "$work/story.jsonl" "$work/ledger.jsonl" --out "$work/tokenizer" \
    --chat-template "$root/tools/pocket_world/chat_template.jinja" 2> /dev/null
  for set in valid train; do
    files=("$work/valid.jsonl")
    [ $set = train ] && files=("$work/story.jsonl" "$work/ledger.jsonl")
    "$program" data pack --tokenizer "$work/tokenizer" --out "$work/$set" "${files[@]}" 2> /dev/null
  done
fi
mkdir -p "$work/quick"
# The page follows the metrics, which the run is about to begin.
(for _ in $(seq 100); do [ -s "$work/quick/metrics.jsonl" ] && break; sleep 0.2; done
  exec "$program" train report "$work/quick" --watch > /dev/null 2>&1) &
report=$!
trap 'kill $report 2> /dev/null || true' EXIT
echo "live report: $work/quick/report.html (open it in a browser)" >&2
"$program" train --config "$root/tools/pocket_world/quick.toml" --until-minutes "$minutes"
model=$(ls -d "$work"/quick/step-* | tail -n 1)
for question in "Liam was at the pond. Elsa was in the garden. Elsa had an iron book. Where is the iron book?" \
  "Please remember these entries. The code of the green door is 4821. What is the code of the green door?"; do
  printf '\n> %s\n' "$question"
  "$program" run --model "$model" --chat --single-turn --temperature 0 "$question" 2> /dev/null
done
printf '\nTalk to it: ./run run --chat --model %s\n' "$model"
