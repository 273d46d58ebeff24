"""Everything that `tools/bench.py` runs side by side: our int8 and f32, the peers' int8 and fp32."""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import peers

if TYPE_CHECKING:
    from qcompiler.runtime.session import Session

BLOCK_SECONDS = 0.05
BLOCK_RUNS = 20
IDLE_POLL_SECONDS = 0.002
IDLE_SHARE = 0.1
IDLE_PATIENCE_SECONDS = 1.0

MODULES = {
    "qcompiler": ("qcompiler", "qcompiler.runtime.session"),
    "qcompiler-float": ("qcompiler", "qcompiler.runtime.session", "qcompiler.ir.qir_file"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
"""What each runtime imports before it can load a model."""


def our_runner(model: Path, threads: int, feeds: Mapping[str, peers.Array]) -> peers.Runner:
    """Runs an artifact; ready for the shapes of `feeds`, with constants packed and kernels compiled."""
    import qcompiler

    return _ready(qcompiler.load(model).session(threads), feeds)


def our_float_runner(model: Path, threads: int, feeds: Mapping[str, peers.Array]) -> peers.Runner:
    """Runs the float graph of a ``.qir`` file on our own interpreter, ready as in `our_runner`."""
    from qcompiler.ir.qir_file import load_qir
    from qcompiler.runtime.session import Session

    return _ready(Session(load_qir(model), threads=threads), feeds)


def _ready(session: "Session", feeds: Mapping[str, peers.Array]) -> peers.Runner:
    from qcompiler.runtime.reference import bind_feeds

    session.plan_for(bind_feeds(session.graph, feeds))
    return lambda given: list(session.run(given).values())


RUNNERS: dict[str, Callable[[Path, int, Mapping[str, peers.Array]], peers.Runner]] = {
    "qcompiler": our_runner,
    "qcompiler-float": our_float_runner,
    "onnxruntime": lambda model, threads, _feeds: peers.onnxruntime_runner(model, threads),
    "openvino": peers.openvino_runner,
}


@dataclass(frozen=True)
class Contender:
    """A runtime with a model of its own.

    Attributes:
        name: family, and in parentheses the variant: the best of a family counts.
        runtime: key of `RUNNERS`.
        model: the file that this runtime loads.
    """

    name: str
    runtime: str
    model: Path

    @property
    def family(self) -> str:
        """The name without the variant."""
        return self.name.split(" (", maxsplit=1)[0]

    def import_modules(self) -> None:
        """Import what the runtime needs."""
        for module in MODULES[self.runtime]:
            importlib.import_module(module)

    def load(self, threads: int, feeds: Mapping[str, peers.Array]) -> peers.Runner:
        """The model, ready to run inputs of the shapes of `feeds`."""
        return RUNNERS[self.runtime](self.model, threads, feeds)


@dataclass
class Timed:
    """A loaded contender, and the seconds of each timed inference."""

    name: str
    run: peers.Runner
    seconds: list[float] = field(default_factory=list)

    def time_block(self, feeds: Mapping[str, peers.Array]) -> None:
        """One block, after an untimed inference: 20 inferences and 50 ms, but no more than 200 or half a second."""
        self.run(feeds)
        end = time.perf_counter() + BLOCK_SECONDS
        for count in range(10 * BLOCK_RUNS):
            before = time.perf_counter()
            self.run(feeds)
            after = time.perf_counter()
            self.seconds.append(after - before)
            if after > end and (count + 1 >= BLOCK_RUNS or after > end + 9 * BLOCK_SECONDS):
                break

    @property
    def figures(self) -> dict[str, float]:
        """Minimum and median in milliseconds."""
        return {"min_ms": min(self.seconds) * 1e3, "median_ms": statistics.median(self.seconds) * 1e3}


def wait_until_idle() -> bool:
    """Wait until no thread of this process computes: some runtimes' helpers spin on after a call. False: gave up."""
    deadline = time.perf_counter() + IDLE_PATIENCE_SECONDS
    while time.perf_counter() < deadline:
        busy, before = time.process_time(), time.perf_counter()
        time.sleep(IDLE_POLL_SECONDS)
        if time.process_time() - busy < IDLE_SHARE * (time.perf_counter() - before):
            return True
    return False


def time_alternately(
    entries: list[Timed], feeds: Mapping[str, peers.Array], rounds: int
) -> dict[str, dict[str, float]]:
    """Blocks of each contender in turn; figures by name, with the ratio to the first's."""
    for _ in range(rounds):
        for entry in entries:
            wait_until_idle()
            entry.time_block(feeds)
    ours = entries[0].figures
    return {
        entry.name: entry.figures
        | {
            "ratio_min": entry.figures["min_ms"] / ours["min_ms"],
            "ratio_median": entry.figures["median_ms"] / ours["median_ms"],
        }
        for entry in entries
    }


def best_of_families(contenders: list[Contender], figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """For each family but the first, how many times our minimum its fastest variant's minimum is."""
    found: dict[str, float] = {}
    for contender in contenders[1:]:
        ratio = figures[contender.name]["ratio_min"]
        found[contender.family] = min(ratio, found.get(contender.family, ratio))
    return found


def has_nncf() -> bool:
    """Whether OpenVINO's own quantizer is installed."""
    return importlib.util.find_spec("nncf") is not None
