"""The tables that `tools/bench.py` prints."""

from collections.abc import Mapping
from typing import Any


def show_machine(facts: Mapping[str, Any]) -> None:
    """Print where and with what this run measures, and which instructions are allowed."""
    both = {**facts["restrictions"], **facts["openvino_settings"]}
    set_ = " ".join(f"{name}={value!r}" for name, value in both.items())
    amx = "with AMX" if facts["amx"] else "without AMX"
    print(f"{facts['processor']}, {facts['processors']} processors, {amx}; our kernels use {facts['isa']}")
    print(f"restricted by {set_ or 'nothing'}")
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()), flush=True)


def show_quantizing(took: Mapping[str, Mapping[str, Any]], samples: int) -> None:
    """Print what it took to make the int8 models."""
    print(f"\nquantize and compile, {samples} samples; then with the start of the process and its imports")
    print(f"{'':24} {'s':>9} {'× ours':>8} {'s':>9} {'× ours':>8} {'peak MB':>9}")
    for name, row in took.items():
        if "error" in row:
            print(f"{name:24} failed: {row['error'].splitlines()[-1]}")
        else:
            times = ((row[key], row[key] / took["qcompiler"][key]) for key in ("seconds", "process_seconds"))
            print(f"{name:24} {' '.join(f'{s:9.2f} {ratio:8.2f}' for s, ratio in times)} {row['peak_mb']:9.0f}")


def show_starts(found: Mapping[str, Mapping[str, Any]], threads: int, arena: Mapping[str, int]) -> None:
    """Print start-up and memory."""
    print(f"\nstart-up and memory, {threads} threads, times in ms")
    print(f"{'':24} {'import':>8} {'load':>8} {'first':>8} {'in all':>8} {'MB then':>8} {'peak MB':>8}")
    for name, row in found.items():
        if "error" in row:
            print(f"{name:24} failed: {row['error'].splitlines()[-1]}")
            continue
        times = (row[f"{part}_ms"] for part in ("import", "load", "first", "total"))
        memory = f"{row['imported_mb']:8.0f} {row['peak_mb']:8.0f}"
        print(f"{name:24} {' '.join(f'{t:8.1f}' for t in times)} {memory}")
    print(
        f"qcompiler's arena: {arena['arena_bytes'] / 1e6:.3f} MB,"
        f" {arena['arena_bytes'] / max(1, arena['arena_lower_bound_bytes']):.3f} of the liveness bound"
    )


def show_latency(title: str, facts: Mapping[str, Any]) -> None:
    """Print one table of times."""
    print(f"\n{title}\n{'':24} {'min ms':>9} {'median ms':>10} {'× min':>7} {'× median':>9}")
    for name, row in facts["contenders"].items():
        times = f"{row['min_ms']:9.3f} {row['median_ms']:10.3f}"
        print(f"{name:24} {times} {row['ratio_min']:7.2f} {row['ratio_median']:9.2f}")
    print("qcompiler int8 against " + ", ".join(f"{name} {ratio:.2f}×" for name, ratio in facts["against"].items()))
    reached = f"{facts['gops']:.0f} GOPS, {facts['ceiling_share']:.0%} of the {facts['ceiling_gops']:.0f} GOPS ceiling"
    print(f"qcompiler int8: {reached}")
