#!/bin/sh
# Corpus, tokenizer, training and check of the starter model, from nothing:  tools/starter/run.sh [MINUTES]
# A stopped run continues where its last save was when the same command is given again.
set -eu
cd "$(dirname "$0")/../.."
minutes=${1:-85} work=build/starter model=models/starter
python=${PYTHON:-$work/venv/bin/python}
mkdir -p "$work"
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q -r tools/starter/requirements.txt
fi
if [ ! -f "$work/state.pt" ]; then
  "$python" tools/starter/corpus.py --documents 45000 --seed 1 --out "$work/corpus.jsonl"
  "$python" tools/starter/train_tokenizer.py --corpus "$work/corpus.jsonl" --out "$model"
fi
"$python" tools/starter/train.py --corpus "$work/corpus.jsonl" --model "$model" --work "$work" --minutes "$minutes"
"$python" tools/starter/verify.py --model "$model" --corpus "$work/corpus.jsonl"
