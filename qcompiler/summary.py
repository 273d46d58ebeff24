"""The facts of a compilation: the closing summary on screen, in ``--summary-json`` and in `CompiledModel.summary`.

Keys: `model`, `target`, `opt_level`, `integer_only`, `float_nodes`, `accumulators_proven`, `accumulators_total`,
`min_headroom_bits`, `model_bytes`, `artifact_bytes`, `arena_bytes`, `arena_lower_bound_bytes`, `sqnr_db`, `top1_float`,
`top1_int`, `agreement`, `evaluated_on`, `evaluated_samples`, `calibration`, `interface`, `io`, `passes`, `seconds`,
`warnings`. README.md explains them.
"""

import math
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Any

from qcompiler.errors import ArtifactError, QCompilerError
from qcompiler.integer_proofs import AccumulatorProof, float_nodes
from qcompiler.ir import Graph, QuantParams, Stage

if TYPE_CHECKING:
    from qcompiler.evaluation import Evaluation
    from qcompiler.pass_manager import PassResult

STRUCTURE_KEYS = ("integer_only", "float_nodes", "accumulators_proven", "accumulators_total", "min_headroom_bits")


def structure_facts(graph: Graph, proofs: Sequence[AccumulatorProof]) -> dict[str, Any]:
    """What the compiled graph itself says: the verdict and the overflow proof."""
    floats = [node.name for node in float_nodes(graph)]
    return {
        "integer_only": graph.stage is Stage.INTEGER and not floats,
        "float_nodes": floats,
        "accumulators_proven": sum(proof.headroom_bits >= 0 for proof in proofs),
        "accumulators_total": len(proofs),
        "min_headroom_bits": min((proof.headroom_bits for proof in proofs), default=None),
    }


def _decibels(value: float | None) -> float | str | None:
    """JSON has no infinity: outputs that are equal throughout have the SQNR "inf"."""
    return "inf" if value is not None and math.isinf(value) else value


def evaluation_facts(evaluation: "Evaluation | None", origin: str) -> dict[str, Any]:
    """What the comparison with the float model says; None where the data does not tell."""
    scores = evaluation.classification if evaluation else None
    return {
        "sqnr_db": {name: _decibels(noise.decibels) for name, noise in evaluation.sqnr.items()} if evaluation else {},
        "top1_float": scores.top1_float if scores else None,
        "top1_int": scores.top1_integer if scores else None,
        "agreement": scores.agreement if scores else None,
        "evaluated_on": origin,
        "evaluated_samples": evaluation.samples if evaluation else 0,
    }


def exposed_quantization(summary: Mapping[str, Any]) -> dict[str, QuantParams]:
    """What the elements of the inputs and outputs stand for that ``--io integer`` exposes, by public name."""
    if summary["io"] != "integer":
        return {}
    return {
        name: QuantParams(tuple(facts["scale"]), tuple(facts["zero_point"]), facts["axis"])
        for name, facts in summary["interface"].items()
    }


def pass_facts(results: Sequence["PassResult"]) -> list[dict[str, Any]]:
    """Name, seconds and changed flag of each pass that ran."""
    return [{"name": r.name, "seconds": round(r.seconds, 4), "changed": r.changed} for r in results]


_NUMBER = int | float | None
_STORED: dict[str, type | UnionType] = {
    "agreement": _NUMBER,
    "arena_bytes": int,
    "arena_lower_bound_bytes": int,
    "calibration": dict,
    "evaluated_on": str,
    "evaluated_samples": int,
    "io": str,
    "model": str,
    "model_bytes": int,
    "opt_level": int,
    "sqnr_db": dict,
    "target": str,
    "top1_float": _NUMBER,
    "top1_int": _NUMBER,
    "warnings": list,
}
_CALIBRATION: dict[str, type | UnionType] = {"method": str, "data": str, "samples": int}


def check_stored(summary: Mapping[str, Any]) -> None:
    """Raise ArtifactError unless an artifact's part of a summary has the keys and types that its readers rely on."""
    for facts, types in ((summary, _STORED), (summary.get("calibration"), _CALIBRATION)):
        for key, wanted in types.items():
            if not isinstance(facts, Mapping) or key not in facts or not isinstance(facts[key], wanted):
                raise ArtifactError(f"its summary has no proper {key!r}")
    if not all(value == "inf" or isinstance(value, _NUMBER) for value in summary["sqnr_db"].values()):
        raise ArtifactError("its summary has no proper 'sqnr_db'")
    try:
        exposed_quantization(summary)
    except (AttributeError, KeyError, TypeError, QCompilerError) as error:
        raise ArtifactError("its summary has no proper 'interface'") from error


def reproducible(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a summary that goes into the artifact.

    Not the times, the size of the file itself, the passes, which the pipeline in the provenance names, the scales of
    the interface where the boundary ops of the graph hold them, nor the verdict and the proof: loading makes them anew.
    """
    left_out = {"seconds", "artifact_bytes", "passes", *STRUCTURE_KEYS}
    if summary.get("io") != "integer":
        left_out.add("interface")
    return {key: value for key, value in summary.items() if key not in left_out}
