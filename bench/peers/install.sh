#!/usr/bin/env bash
# Installs the peers that bench/peers/ compares with, at pinned versions, below bench/peers/ (ignored by git):
#   llama.cpp v0.5.0 for x86-64 as the npm package @node-llama-cpp/linux-x64 3.22.1 carries it (shared libraries, 30 MB);
#   with --torch also PyTorch and transformers into a virtual environment, for transformers_bf16.py.
set -euo pipefail
cd "$(dirname "$0")"
npm install --prefix . --no-save --no-package-lock --ignore-scripts --no-audit --no-fund @node-llama-cpp/linux-x64@3.22.1
if [[ "${1:-}" == --torch ]]; then
  python3 -m venv .venv
  .venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 safetensors numpy
fi
ls node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libllama.v0.5.0.so
