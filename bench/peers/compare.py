#!/usr/bin/env python3
"""qnext beside llama.cpp on the same GGUF, in one run.

    compare.py MODEL.gguf [--isa avx2|avx512|amx] [--rounds 3] [--prompt 512,4096] [--context 0,4096,32768] [--batch 1,8]

Both programs get the same CPUs, one pinned thread on each, and take turns, `rounds` times each. Either measures groups of steps
between probes of the delivered CPU and keeps those with at least 90 % (see `qnext bench --help`); a figure is the median
over the rounds, and the ratio that of the medians. A star marks figures of which no group was kept. Contexts are made as
both `bench` commands say: computed at the start, copied beyond. On AMX machines llama.cpp decodes several sequences with
its extra buffers switched off: with them its results for all but the first are wrong (v0.5.0).

Writes bench/baseline/MACHINE.csv (appending), and below --output table.md and plot.svg.
"""

import argparse
import csv
import datetime
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys

import llama_cpp

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(command, environment=None):
    result = subprocess.run([str(word) for word in command], env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE,
                            text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {result.returncode}")
    return json.loads(result.stdout)


def machine_name():
    """CPU model and count, fit for a file name."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", text)
    return re.sub(r"[^a-z0-9]+", "-", f"{model.group(1) if model else 'cpu'} {os.cpu_count()}".lower()).strip("-")


def figures(report):
    """{case: (value, kept)}; a case is (what, tokens of prompt or context, batch)."""
    cases = {("load", 0, 1): (report["first_token_seconds"], 1), ("memory", 0, 1): (report["memory"]["peak_bytes"] / 1e9, 1)}
    for entry in report["prefill"]:
        cases["prefill", entry["tokens"], 1] = entry["tokens_per_second"], entry["groups_kept"]
    for entry in report["decode"]:
        cases["decode", entry["context"], entry["batch"]] = entry["tokens_per_second"], entry["groups_kept"]
    return cases


def combined(rounds):
    """Median over the rounds that kept groups (over all where none did), and whether any did."""
    result = {}
    for case in rounds[0]:
        values = [r[case] for r in rounds]
        kept = [value for value, count in values if count > 0]
        result[case] = statistics.median(kept or [value for value, _ in values]), bool(kept)
    return result


def title(case):
    what, tokens, batch = case
    if what == "load":
        return "open to first token, s"
    if what == "memory":
        return "peak memory, GB (mapped file included)"
    if what == "prefill":
        return f"prompt of {tokens:,}, tokens/s"
    return f"decode at {tokens:,}{f', {batch} together' if batch > 1 else ''}, tokens/s"


def table(ours, theirs, of_bound):
    lines = ["| | qnext | of its bound | llama.cpp | ratio |", "| --- | --- | --- | --- | --- |"]
    for case, (value, kept) in ours.items():
        other, other_kept = theirs[case]
        lower = case[0] in ("load", "memory")
        ratio = other / value if lower else value / other
        bound = f"{of_bound[case] * 100:.0f} %" if case in of_bound else ""
        digits = 2 if lower else 1
        lines.append(f"| {title(case)} | {value:.{digits}f}{'' if kept else '*'} | {bound} | {other:.{digits}f}{'' if other_kept else '*'} "
                     f"| {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def plot(ours, theirs):
    """SVG of tokens/s against tokens of prompt or context, both logarithmic: one panel each for prefill and decode."""
    width, height, margin = 420, 300, 50
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width}" height="{height}" font-family="sans-serif" font-size="11">',
             f'<rect width="{2 * width}" height="{height}" fill="white"/>']
    for panel, (what, name) in enumerate([("prefill", "tokens of prompt"), ("decode", "tokens of context")]):
        cases = sorted(case for case in ours if case[0] == what and case[2] == 1)
        if not cases:
            continue
        # 0 tokens of context have no logarithm: they stand where 256 would.
        x_of = lambda case: math.log2(max(case[1], 256))
        values = [side[case][0] for side in (ours, theirs) for case in cases]
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.05))
        left, right = x_of(cases[0]) - 0.3, max(x_of(cases[-1]), x_of(cases[0]) + 1) + 0.3
        x = lambda case: panel * width + margin + (x_of(case) - left) / (right - left) * (width - 1.5 * margin)
        y = lambda value: height - margin - (math.log10(value) - low) / (high - low) * (height - 2 * margin)
        parts.append(f'<text x="{panel * width + width / 2}" y="20" text-anchor="middle" font-size="13">{what}, tokens/s</text>')
        parts.append(f'<text x="{panel * width + width / 2}" y="{height - 8}" text-anchor="middle">{name}</text>')
        for power in range(low, high + 1):
            for digit in (1, 2, 5):
                if digit * 10.0**power > 10.0**high:
                    break
                at = y(digit * 10.0**power)
                parts.append(f'<line x1="{panel * width + margin}" x2="{(panel + 1) * width - margin / 2}" y1="{at:.1f}" y2="{at:.1f}" '
                             f'stroke="#ddd"/><text x="{panel * width + margin - 5}" y="{at + 4:.1f}" text-anchor="end">{digit * 10**power:g}</text>')
        for case in cases:
            parts.append(f'<text x="{x(case):.1f}" y="{height - margin + 15}" text-anchor="middle">{case[1]:,}</text>')
        for side, colour, label in ((ours, "#1f77b4", "qnext"), (theirs, "#d62728", "llama.cpp")):
            points = " ".join(f"{x(case):.1f},{y(side[case][0]):.1f}" for case in cases)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x(case):.1f}" cy="{y(side[case][0]):.1f}" r="3" fill="{colour}"/>' for case in cases]
            parts.append(f'<text x="{x(cases[-1]):.1f}" y="{y(side[cases[-1]][0]) - 7:.1f}" text-anchor="end" fill="{colour}">{label}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default=ROOT / "build/release/bin/qnext")
    parser.add_argument("--isa", choices=["scalar", "avx2", "avx512", "amx"], help="hold both to it; default: the machine's best")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", default="512,2048,4096,32768")
    parser.add_argument("--context", default="0,4096,32768")
    parser.add_argument("--batch", default="1,8", help="1, and a number of sequences to decode together at context 0")
    parser.add_argument("--kv", default="bf16", help="qnext's type of keys and values; llama.cpp's are F16")
    parser.add_argument("--groups", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build/compare")
    parser.add_argument("--machine", default=machine_name())
    arguments = parser.parse_args()
    isa = arguments.isa or llama_cpp.best_isa()
    batches = [int(n) for n in arguments.batch.split(",") if int(n) > 1]
    common = ["--threads", arguments.threads, "--groups", arguments.groups, "--seconds", arguments.seconds]

    def ours():
        environment = {"QNEXT_ISA": arguments.isa} if arguments.isa else {}
        base = [arguments.program, "bench", "--model", arguments.model, "--json", "--kv", arguments.kv, *common]
        report = run([*base, "--prompt", arguments.prompt, "--context", arguments.context], environment)
        for batch in batches:
            report["decode"] += run([*base, "--prompt", "1", "--context", "0", "--batch", batch], environment)["decode"]
        return report

    def theirs():
        base = [sys.executable, llama_cpp.__file__, "bench", arguments.model, "--isa", isa, *common]
        report = run([*base, "--prompt", arguments.prompt, "--context", arguments.context])
        for batch in batches:
            extra = ["--no-extra-buffers"] if isa == "amx" else []
            report["decode"] += run([*base, "--prompt", "1", "--context", "0", "--batch", batch, *extra])["decode"]
        return report

    reports = {"qnext": [], "llama.cpp": []}
    for number in range(arguments.rounds):
        pair = {}
        try:
            for name, side in (("qnext", ours), ("llama.cpp", theirs)):
                print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr)
                pair[name] = side()
        except KeyboardInterrupt:  # a round takes a quarter of an hour: those that are complete count
            if number == 0:
                raise
            print(f"interrupted: {number} of {arguments.rounds} rounds", file=sys.stderr)
            break
        for name, report in pair.items():
            reports[name].append(report)
    sides = {name: combined([figures(r) for r in rounds]) for name, rounds in reports.items()}
    of_bound = {}
    for kind, key in (("prefill", "tokens"), ("decode", "context")):
        for i, entry in enumerate(reports["qnext"][0][kind]):
            case = (kind, entry[key], entry.get("batch", 1))
            of_bound[case] = statistics.median(r[kind][i]["of_bound"] for r in reports["qnext"])
    arguments.output.mkdir(parents=True, exist_ok=True)
    roof = reports["qnext"][0]["roof"]
    text = (f"{arguments.machine}, {isa}, {arguments.threads} threads, {pathlib.Path(arguments.model).name}; roof "
            f"{roof['read_bytes_per_second'] / 1e9:.1f} GB/s, {roof['int8_ops_per_second'] / 1e9:.0f} GOP/s int8; "
            f"rounds: {len(reports['qnext'])}, alternating\n\n" + table(sides["qnext"], sides["llama.cpp"], of_bound))
    print(text)
    (arguments.output / "table.md").write_text(text)
    (arguments.output / "plot.svg").write_text(plot(sides["qnext"], sides["llama.cpp"]))
    baseline = ROOT / "bench/baseline" / f"{arguments.machine}.csv"
    baseline.parent.mkdir(exist_ok=True)
    fresh = not baseline.exists()
    with baseline.open("a", newline="") as file:
        rows = csv.writer(file)
        if fresh:
            rows.writerow(["date", "model", "isa", "threads", "program", "case", "tokens", "batch", "value", "gated"])
        for name, side in sides.items():
            for (what, tokens, batch), (value, kept) in side.items():
                rows.writerow([datetime.date.today(), pathlib.Path(arguments.model).name, isa, arguments.threads, name, what, tokens,
                               batch, f"{value:.4g}", int(kept)])


if __name__ == "__main__":
    main()
