"""The table of a search as it is printed, of this version and of earlier ones."""

from pathlib import Path

from pipelines.artifacts import search_table

BEFORE = """trial,state,figure,stage,epochs,seconds,pretrain.temperature,pretrain.weights,reason
3,finished,0.51234,finetune,4,7.5,0.16334987,"[1, 0, 0]",
0,failed,,,0,0.0,0.5,"[1, 1, 1]",the loss is nan
"""


def test_a_table_of_an_earlier_version_is_printed_with_its_one_column(tmp_path: Path) -> None:
    (tmp_path / "trials.csv").write_text(BEFORE)
    assert search_table.lines(search_table.read(str(tmp_path))) == [
        "trial  state     epochs  figure  parameters",
        "3      finished       4  0.5123  pretrain.temperature 0.1633, pretrain.weights [1, 0, 0]",
        "0      failed         0       -  pretrain.temperature 0.5, pretrain.weights [1, 1, 1]",
    ]


def test_where_there_is_no_table_nothing_is_printed(tmp_path: Path) -> None:
    assert search_table.lines(search_table.read(str(tmp_path))) == []
