"""`.qir` files are complete, checked and replaced as a whole."""

from pathlib import Path

import numpy as np
import pytest

from qcompiler.errors import ParseError, UsageError
from qcompiler.ir import DType, Graph, Stage, TensorType, graphs_equal, ops
from qcompiler.ir.qir_file import constants_directory, load_qir, save_qir


def sample(fill: int = 0) -> Graph:
    graph = Graph("sample", Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, ("N", 40)))
    weight = graph.add_constant((np.arange(120).reshape(3, 40) + fill).astype(np.int8), "w")
    bias = graph.add_constant(np.array([1, -2, 3], np.int32), "b")
    graph.add_output(graph.add_node(ops.IntGemm(zp_in=3), [x, weight, bias]).result)
    graph.add_constant(np.arange(32, dtype=np.int8) % 8, "nibbles", dtype=DType.S4)
    return graph


def test_a_saved_graph_reads_back(tmp_path: Path):
    save_qir(sample(), tmp_path / "a.qir")
    loaded = load_qir(tmp_path / "a.qir")
    assert graphs_equal(loaded, sample())
    assert all(not value.data.flags.writeable for value in loaded.constants() if value.data is not None)


def test_only_large_constants_lie_beside_the_text(tmp_path: Path):
    save_qir(sample(), tmp_path / "a.qir")
    assert len(list((tmp_path / "a.qir.constants").iterdir())) == 2
    graph = Graph()
    graph.add_output(graph.add_constant(np.ones(3, np.float32)))
    save_qir(graph, tmp_path / "b.qir")
    assert not (tmp_path / "b.qir.constants").exists()


def test_saving_again_replaces_text_and_constants(tmp_path: Path):
    save_qir(sample(), tmp_path / "a.qir")
    save_qir(sample(fill=1), tmp_path / "a.qir")
    assert graphs_equal(load_qir(tmp_path / "a.qir"), sample(fill=1))
    assert len(list((tmp_path / "a.qir.constants").iterdir())) == 2


@pytest.mark.parametrize("position", [5, 70, 135, -1], ids=["magic", "header", "first element", "last element"])
def test_a_flipped_bit_in_a_constant_is_noticed(tmp_path: Path, position: int):
    save_qir(sample(), tmp_path / "a.qir")
    for file in constants_directory(tmp_path / "a.qir").iterdir():
        data = bytearray(file.read_bytes())
        data[position] ^= 1
        file.write_bytes(data)
    with pytest.raises(ParseError, match=r"a\.qir"):
        load_qir(tmp_path / "a.qir")


def test_a_truncated_or_missing_constant_is_noticed(tmp_path: Path):
    save_qir(sample(), tmp_path / "a.qir")
    files = list(constants_directory(tmp_path / "a.qir").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-1])
    with pytest.raises(ParseError, match=r"\.npy is damaged"):
        load_qir(tmp_path / "a.qir")
    files[0].unlink()
    with pytest.raises(ParseError, match=r"a\.qir: line \d+, column \d+: the constant's content is missing"):
        load_qir(tmp_path / "a.qir")


def test_pickled_constants_are_refused(tmp_path: Path):
    save_qir(sample(), tmp_path / "a.qir")
    for file in constants_directory(tmp_path / "a.qir").iterdir():
        np.save(file, np.array([{}]), allow_pickle=True)
    with pytest.raises(ParseError, match="is damaged"):
        load_qir(tmp_path / "a.qir")


def test_files_that_cannot_be_read_or_written(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot read .*none\.qir: No such file or directory"):
        load_qir(tmp_path / "none.qir")
    with pytest.raises(UsageError, match="cannot write"):
        save_qir(sample(), tmp_path / "no such folder" / "a.qir")
    (tmp_path / "binary.qir").write_bytes(b"\xff\xfe")
    with pytest.raises(ParseError, match="is not text"):
        load_qir(tmp_path / "binary.qir")
