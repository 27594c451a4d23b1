#!/usr/bin/env python3
"""`mpirun -n N qnext train`: the losses of one process, whatever the number, and nothing torn when one dies. Needs OpenMPI."""
import argparse
import array
import json
import math
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import train_test  # noqa: E402

MPIRUN = None
# More processes than cores, as root in a container: mpirun wants to be asked for both. Who waits lets others work.
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}


def command(ranks, config, *more):
    return [MPIRUN, "-n", str(ranks), train_test.PROGRAM, "train", "--config", config, *more]


def train(ranks, config, *more, expect_success=True):
    done = subprocess.run(command(ranks, config, *more), capture_output=True, timeout=300, check=False, env=ENVIRONMENT)
    out, err = done.stdout.decode(), done.stderr.decode()
    if (done.returncode == 0) != expect_success:
        raise AssertionError(f"{ranks} ranks: exit status {done.returncode}\n{err}")
    return out, err


def write_config(name, experts_divided=False, **more):
    key = "[distributed]\nexpert_parallel = true\n" if experts_divided else ""
    return train_test.write_config(name, lambda text: text.replace("threads = 2", "threads = 1") + key, **more)


def newest(name):
    return train_test.checkpoints(name)[-1]


def parameters(directory):
    """All f32 values of model.safetensors, in the order of the file."""
    data = (directory / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    for name, tensor in json.loads(data[8:8 + size]).items():
        assert name == "__metadata__" or tensor["dtype"] == "F32", name
    values = array.array("f")
    values.frombytes(data[8 + size:])
    return values


def relative_rms(a, b):
    assert len(a) == len(b)
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b))


def validation_losses(err):
    return [float(line.split("validation loss ")[1].split(",")[0]) for line in err.splitlines() if "validation loss" in line]


def bytes_of_a_rank(err):
    number, prefix = re.search(r"memory of rank 0: ([\d.]+) ([kM])B of parameters, gradients and moments", err).groups()
    return float(number) * {"k": 1e3, "M": 1e6}[prefix]


def children(pid):
    """Processes that mpirun has started."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(pid):
                if "qnext" in (entry / "comm").read_text():
                    found.append(int(entry.name))
        except OSError:  # it has ended meanwhile
            pass
    return sorted(found)


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Ranks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.err = train(1, write_config("one"))[1]
        cls.two_out, cls.two_err = train(2, write_config("two"))
        cls.one, cls.two = parameters(newest("one")), parameters(newest("two"))

    def test_results_of_one_rank(self):
        train(4, write_config("four"))
        for name in ("two", "four"):
            difference = relative_rms(parameters(newest(name)), self.one)
            print(f"{name} ranks: parameters within {difference:.1e}")
            self.assertLess(difference, 1e-3)
        for a, b in zip(validation_losses(self.err), validation_losses(self.two_err), strict=True):
            self.assertAlmostEqual(a, b, delta=1.1e-4 + 1e-4 * b)

    def test_only_rank_0_speaks(self):
        self.assertEqual(self.two_out, f"{newest('two')}\n")
        self.assertEqual(self.two_err.count("done\n"), 1)
        self.assertIn("1 thread, 2 processes", self.two_err)

    def test_other_numbers_of_ranks_go_on(self):
        train(2, write_config("changing", steps=12))
        for ranks in (1, 4, 2):
            name = f"changed-{ranks}"
            subprocess.run(["cp", "-r", train_test.WORK / "changing", train_test.WORK / name], check=True)
        # The schedule depends on the number of steps: the reference is one rank that is interrupted at the same step.
        train(1, write_config("reference", steps=12))
        train(1, write_config("reference"))
        reference = parameters(newest("reference"))
        for ranks in (1, 4, 2):
            train(ranks, write_config(f"changed-{ranks}"))
            difference = relative_rms(parameters(newest(f"changed-{ranks}")), reference)
            print(f"12 steps on 2 ranks, 18 on {ranks}: parameters within {difference:.1e}")
            self.assertLess(difference, 1e-3)

    def test_experts_divided(self):
        for ranks in (2, 4):
            name = f"divided-{ranks}"
            out, err = train(ranks, write_config(name, experts_divided=True))
            difference = relative_rms(parameters(newest(name)), self.one)
            print(f"{ranks} ranks that divide the experts: parameters within {difference:.1e}")
            print(err[:err.index("\n")])
            self.assertLess(difference, 1e-3)
            for a, b in zip(validation_losses(self.err), validation_losses(err), strict=True):
                self.assertAlmostEqual(a, b, delta=1.1e-4 + 1e-4 * b)
            # The files have the same tensors at the same places.
            for file in ("model.safetensors", "training_state.safetensors"):
                headers = [train_test.bytes_of(newest(which))[file] for which in ("one", name)]
                headers = [data[8:8 + struct.unpack_from("<Q", data)[0]] for data in headers]
                self.assertEqual(*(json.loads(header) for header in headers))
        self.assertLess(bytes_of_a_rank(err), bytes_of_a_rank(self.two_err))

    def test_divided_or_not_goes_on_with_the_other(self):
        train(1, write_config("reference-1", steps=12))
        train(1, write_config("reference-1"))
        reference = parameters(newest("reference-1"))
        for before, after in (((2, True), (1, False)), ((1, False), (2, True)), ((2, True), (4, True)), ((4, True), (2, False))):
            name = "{}-{}-then-{}-{}".format(*before, *after)
            train(before[0], write_config(name, experts_divided=before[1], steps=12))
            err = train(after[0], write_config(name, experts_divided=after[1]))[1]
            self.assertIn("goes on after step 12", err)
            difference = relative_rms(parameters(newest(name)), reference)
            print(f"12 steps on {before}, 18 on {after}: parameters within {difference:.1e}")
            self.assertLess(difference, 1e-3)

    def test_a_killed_rank_ends_all_and_tears_nothing(self):
        train(2, write_config("two-divided", experts_divided=True))
        for victim, divided in ((0, False), (1, False), (0, True), (1, True)):
            expected = train_test.bytes_of(newest("two-divided" if divided else "two"))
            name = f"killed-{victim}-{divided}"
            config = write_config(name, experts_divided=divided)
            process = subprocess.Popen(command(2, config, "--quiet"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT)
            deadline = time.monotonic() + 120
            while not list((train_test.WORK / name).glob("step-????????")):
                self.assertIsNone(process.poll(), "ended before its first checkpoint")
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.002)
            ranks = children(process.pid)
            self.assertEqual(len(ranks), 2)
            os.kill(ranks[victim], signal.SIGKILL)
            err = process.communicate(timeout=60)[1].decode()
            self.assertNotEqual(process.returncode, 0)
            self.assertRegex(err, r"rank \d.*signal 9 \(Killed\)")
            deadline = time.monotonic() + 20
            while any(alive(pid) for pid in ranks):
                self.assertLess(time.monotonic(), deadline, "a rank goes on")
                time.sleep(0.05)
            train(2, config, "--quiet")
            got = train_test.bytes_of(newest(name))
            for file in ("model.safetensors", "training_state.safetensors"):
                self.assertTrue(got[file] == expected[file], f"rank {victim} killed: {file} differs")

    def test_what_is_wrong_is_said_once(self):
        err = train(3, write_config("three", experts_divided=True), expect_success=False)[1]
        self.assertIn("distributed.expert_parallel: expected a number of processes that divides the 8 experts of a layer, found 3", err)
        config = train_test.write_config("few", lambda t: t.replace("batch_tokens = 256", "batch_tokens = 64"))
        err = train(2, config, expect_success=False)[1]
        self.assertEqual(err.count("too few for 2 processes"), 1, err)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--mpirun", required=True)
    arguments, rest = parser.parse_known_args()
    train_test.PROGRAM, MPIRUN = pathlib.Path(arguments.program).resolve(), arguments.mpirun
    with tempfile.TemporaryDirectory() as work:
        train_test.WORK = pathlib.Path(work)
        train_test.make_data()
        unittest.main(argv=[sys.argv[0], *rest])
