#!/usr/bin/env python3
"""The files of a training run as other programs read them: the event file of TensorBoard and the HTML report.

    tests/train/report_files_test.py --program build/release/bin/qnext --synthetic-run build/release/src/train/qnext_synthetic_run

Standard library only. The event files are read by a small reader of its own, which checks every checksum; where the
package `tensorboard` is installed, its loader reads them too and must see the same."""
import argparse
import collections
import html.parser
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

PROGRAM = SYNTHETIC = WORK = None  # set by main
STEPS, RESUME = 200, 120
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- & \" '"


# ---- an independent reader of event files: TFRecord framing and the protobuf wire format ----

def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        length, length_crc = struct.unpack_from("<QI", data, at)
        assert masked(data[at:at + 8]) == length_crc, f"checksum of the length at {at}"
        body = data[at + 12:at + 12 + length]
        (body_crc,) = struct.unpack_from("<I", data, at + 12 + length)
        assert masked(body) == body_crc, f"checksum of the record at {at}"
        yield body
        at += 16 + length


def fields(message):
    """(field number, value) of a protobuf message: integers, 4 or 8 raw bytes, or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            size = {1: lambda: 8, 2: varint, 5: lambda: 4}[key & 7]()
            assert at + size <= len(message)
            yield key >> 3, message[at:at + size]
            at += size


def read_event(body):
    event = {"step": 0, "values": {}}
    for number, value in fields(body):
        if number == 1:
            (event["time"],) = struct.unpack("<d", value)
        elif number == 2:
            event["step"] = value
        elif number == 3:
            event["version"] = value.decode()
        elif number == 7:
            event["session"] = dict(fields(value))
        elif number == 5:
            for _, one in fields(value):
                entry = dict(fields(one))
                tag = entry[1].decode()
                if 2 in entry:
                    event["values"][tag] = struct.unpack("<f", entry[2])[0]
                elif 5 in entry:
                    histogram = dict(fields(entry[5]))
                    doubles = {k: struct.unpack(f"<{len(v) // 8}d", v) for k, v in histogram.items()}
                    event["values"][tag] = {"num": doubles[3][0], "sum": doubles[4][0], "limits": doubles[6], "counts": doubles[7]}
                else:
                    assert dict(fields(dict(fields(entry[9]))[1]))[1] == b"text"
                    event["values"][tag] = dict(fields(entry[8]))[8].decode()
    return event


def synthetic(name, steps, resume=0, hostile=""):
    directory = WORK / name
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([SYNTHETIC, directory, str(steps), str(resume), hostile], check=True, timeout=300)
    return directory


class EventFiles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.run_directory = synthetic("events", STEPS, RESUME)
        cls.files = sorted((cls.run_directory / "tensorboard").iterdir())
        cls.events = [[read_event(r) for r in records(f.read_bytes())] for f in cls.files]
        lines = [json.loads(line) for line in (cls.run_directory / "metrics.jsonl").read_text().splitlines()]
        cls.metrics = collections.defaultdict(list)
        for line in lines:
            cls.metrics[line["kind"]].append(line)

    def test_sittings(self):
        self.assertEqual(len(self.files), 2)
        for file, events in zip(self.files, self.events):
            self.assertRegex(file.name, r"^events\.out\.tfevents\.\d+\.")
            self.assertEqual(events[0]["version"], "brain.Event:2")
        self.assertEqual(self.events[1][1]["session"], {1: 1})  # START: TensorBoard forgets what the first sitting lost
        self.assertEqual(self.events[1][1]["step"], RESUME + 1)

    def test_values_are_those_of_the_metrics_file(self):
        steps = {}
        for event in (e for events in self.events for e in events if "loss/train" in e["values"]):
            steps[event["step"]] = event["values"]
        self.assertEqual([m["step"] for m in self.metrics["step"]], list(range(1, STEPS + 1)))
        for line in self.metrics["step"]:
            values = steps[line["step"]]
            single = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]  # noqa: E731
            self.assertEqual(values["loss/train"], single(line["loss"]))
            self.assertEqual(values["mtp/acceptance_2"], single(line["mtp_acceptance"][1]))
            self.assertEqual(values["gradient_norm/layer 1"], single(next(g["norm"] for g in line["group_norms"] if g["name"] == "layer 1")))
            if "loads" in line:
                histogram = values["router_load/layer 0"]
                self.assertEqual(histogram["num"], len(line["loads"][0]["tokens"]))
                self.assertAlmostEqual(sum(histogram["counts"]), histogram["num"])
                self.assertAlmostEqual(histogram["sum"], histogram["num"], places=5)  # 1 is an equal share
                self.assertEqual(sorted(histogram["limits"]), list(histogram["limits"]))

    def test_evaluations_and_samples(self):
        losses = {e["step"]: e["values"]["loss/validation"] for events in self.events for e in events if "loss/validation" in e["values"]}
        self.assertEqual(sorted(losses), [m["step"] for m in self.metrics["evaluation"]])
        texts = [e["values"]["samples/1"] for events in self.events for e in events if "samples/1" in e["values"]]
        self.assertTrue(all(t.startswith("    The lighthouse stood\n") for t in texts))

    def test_a_flipped_bit_is_noticed(self):
        data = bytearray(self.files[0].read_bytes())
        data[len(data) // 2] ^= 4
        with self.assertRaises((AssertionError, struct.error)):
            list(records(bytes(data)))

    def test_tensorboard_reads_them(self):
        try:
            from tensorboard.backend.event_processing import event_accumulator
        except ImportError:
            self.skipTest("tensorboard is not installed")
        everything = {name: 0 for name in ("scalars", "histograms", "tensors", "compressedHistograms")}
        board = event_accumulator.EventAccumulator(str(self.run_directory / "tensorboard"), size_guidance=everything)
        board.Reload()
        losses = [(e.step, e.value) for e in board.Scalars("loss/train")]
        self.assertEqual([s for s, _ in losses], list(range(1, STEPS + 1)))  # the lost steps of the first sitting are gone
        for (_, value), line in zip(losses, self.metrics["step"]):
            self.assertAlmostEqual(value, line["loss"], places=5)
        self.assertEqual([e.step for e in board.Scalars("loss/validation")], [m["step"] for m in self.metrics["evaluation"]])
        self.assertGreater(len(board.Histograms("router_load/layer 0")), 10)
        self.assertIn("The lighthouse stood", board.Tensors("samples/1")[0].tensor_proto.string_val[0].decode())


# ---- the report ----

class Page(html.parser.HTMLParser):
    """Elements, attributes and scripts of a page; elements must be closed in order."""
    VOID = {"meta", "input", "br", "img", "link", "hr"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.scripts, self.title = [], collections.Counter(), [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, *a) for a in attrs]
        if tag == "script":
            self.scripts.append([dict(attrs), ""])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1][1] += data
        if self.open and self.open[-1] == "title":
            self.title += data


def report(directory, *arguments):
    done = subprocess.run([PROGRAM, "train", "report", directory, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return pathlib.Path(done.stdout.strip())


class Report(unittest.TestCase):
    def test_page_is_whole_and_needs_nothing(self):
        text = report(synthetic("report", 500)).read_text()
        page = Page(text)
        self.assertEqual(page.title, "report - training")
        self.assertEqual(page.tags["script"], 2)
        policy = [v for t, k, v in page.attributes if (t, k) == ("meta", "content") and "default-src" in v]
        self.assertTrue(policy and policy[0].startswith("default-src 'none'"), policy)
        self.assertNotIn("unsafe-eval", policy[0])
        for tag, name, value in page.attributes:
            self.assertNotIn(name, ("src", "href", "srcset", "action", "data"), (tag, name, value))
            self.assertFalse(name.startswith("on"), (tag, name))
        # The one address is the name of the SVG elements, which nobody fetches.
        self.assertEqual(set(re.findall(r"[a-z]+://[^'\"\s)]*", text)), {"http://www.w3.org/2000/svg"})
        self.assertNotRegex(text, r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest|WebSocket|\.innerHTML|insertAdjacentHTML|document\.write|\beval\(")
        data = json.loads(page.scripts[0][1])
        self.assertEqual(page.scripts[0][0]["type"], "application/json")
        self.assertEqual(data["state"], "finished")
        self.assertEqual(len(data["loss"]["y"]), 500)
        self.assertEqual(len(data["loads"]), 9)
        self.assertEqual(len(data["samples"]), 20)
        self.assertFalse(data["live"])
        self.assertLess(len(text) - len(page.scripts[0][1]), 200_000)

    def test_text_of_the_run_stays_text(self):
        directory = synthetic("hostile <b>", 40, 0, HOSTILE)
        page = Page(report(directory).read_text())
        self.assertEqual(page.tags["script"], 2)
        self.assertEqual(page.tags["img"], 0)
        self.assertEqual(page.title, "hostile <b> - training")
        data = json.loads(page.scripts[0][1])
        self.assertIn(HOSTILE, data["samples"][0]["samples"][0]["text"])
        self.assertIn(HOSTILE, data["run"]["config"])

    def test_out_and_metrics_file(self):
        directory = synthetic("elsewhere", 20)
        out = report(directory / "metrics.jsonl", "--out", WORK / "page.html")
        self.assertEqual(out, WORK / "page.html")
        self.assertEqual(Page(out.read_text()).title, "elsewhere - training")
        self.assertFalse((directory / "report.html").exists())

    def test_line_cut_short_by_a_crash(self):
        directory = synthetic("crashed", 20)
        metrics = directory / "metrics.jsonl"
        metrics.write_bytes(metrics.read_bytes()[:-30])
        data = json.loads(Page(report(directory).read_text()).scripts[0][1])
        self.assertEqual(data["state"], "running")
        self.assertEqual(data["latest"]["step"], 20)

    def test_refusals(self):
        def refused(*arguments):
            done = subprocess.run([PROGRAM, "train", "report", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertTrue(done.stderr.startswith("qnext: error: "), done.stderr)
            return done.stderr
        self.assertIn("metrics.jsonl", refused(WORK / "nowhere"))
        directory = synthetic("refused", 5)
        self.assertIn("cannot write", refused(directory, "--out", WORK / "no" / "page.html"))
        self.assertEqual([p for p in WORK.iterdir() if p.name.endswith(".tmp")], [])
        with open(directory / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write('{"kind": "step", "step": "many"}\n')
        self.assertRegex(refused(directory), r"metrics\.jsonl:\d+: step: expected an integer")

    def test_watch(self):
        directory = synthetic("watched", 30)
        metrics, page = directory / "metrics.jsonl", directory / "report.html"
        lines = metrics.read_text().splitlines(keepends=True)
        metrics.write_text("".join(lines[:10]))
        watcher = subprocess.Popen([PROGRAM, "train", "report", directory, "--watch"], stdout=subprocess.PIPE, text=True)
        try:
            self.assertEqual(watcher.stdout.readline().strip(), str(page))
            data = json.loads(Page(page.read_text()).scripts[0][1])
            self.assertTrue(data["live"])
            self.assertEqual(data["state"], "running")
            with open(metrics, "a", encoding="utf-8") as file:
                file.write("".join(lines[10:]))
            self.assertEqual(watcher.wait(timeout=30), 0)  # the run has ended, so does the watch
        finally:
            watcher.kill()
            watcher.wait()
            watcher.stdout.close()
        data = json.loads(Page(page.read_text()).scripts[0][1])
        self.assertFalse(data["live"])
        self.assertEqual(data["latest"]["step"], 30)

    def test_watch_ends_with_an_interrupt(self):
        directory = synthetic("interrupted", 20)
        metrics, page = directory / "metrics.jsonl", directory / "report.html"
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:10]))
        watcher = subprocess.Popen([PROGRAM, "train", "report", directory, "--watch"], stdout=subprocess.PIPE, text=True)
        try:
            watcher.stdout.readline()
            watcher.send_signal(signal.SIGINT)
            self.assertEqual(watcher.wait(timeout=30), 0)
        finally:
            watcher.kill()
            watcher.wait()
            watcher.stdout.close()
        self.assertFalse(json.loads(Page(page.read_text()).scripts[0][1])["live"])


def main():
    global PROGRAM, SYNTHETIC, WORK
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--synthetic-run", required=True)
    arguments, rest = parser.parse_known_args()
    PROGRAM, SYNTHETIC = os.path.abspath(arguments.program), os.path.abspath(arguments.synthetic_run)
    with tempfile.TemporaryDirectory(prefix="qnext-report-") as work:
        WORK = pathlib.Path(work).resolve()
        unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
