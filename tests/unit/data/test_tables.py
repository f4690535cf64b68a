"""Tables of recordings: which columns become which fields, by hand and against what `csv` wrote."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.config import load
from secateur.data import CsvData, open_corpus
from secateur.errors import ConfigError, DataError

Write = Callable[..., NDArray[np.float32]]  # the fixture in conftest.py


def table(folder: Path, *rows: str, name: str = "t.csv") -> str:
    path = folder / name
    path.write_text("".join(f"{row}\n" for row in rows))
    return str(path)


def test_columns_of_our_names_need_no_mapping_and_others_are_named(tmp_path: Path, write: Write) -> None:
    for name in "ab":
        write(f"{name}.wav", seconds=2)
    actual = table(tmp_path, "id,audio,text,offset,duration,split", "1,a.wav,go on,0.5,1,x", "2,b.wav,stop,,,y")
    corpus = open_corpus(CsvData(path=actual))
    assert [(u.id, u.text, u.samples, u.split) for u in corpus.utterances] == [
        ("1", "go on", 16_000, "x"),
        ("2", "stop", 32_000, "y"),
    ]
    reference = table(tmp_path, "client\tpath\tsentence", "s1\ta\tgo on", "s2\tb.wav\tstop", name="t.tsv")
    columns = {"audio": "path", "text": "sentence", "speaker": "client"}
    read = CsvData(path=reference, delimiter="\t", columns=columns, max_skipped=0.5)
    corpus = open_corpus(read)
    assert [(u.id, u.text, u.speaker) for u in corpus.utterances] == [("b.wav", "stop", "s2")]
    assert [(skip.path, skip.reason) for skip in corpus.skipped] == [("a", "does not exist")]


def test_several_columns_are_joined_and_what_is_empty_among_them_is_left_out(tmp_path: Path, write: Write) -> None:
    for name in "abc":
        write(f"{name}.wav")
    path = table(tmp_path, "audio,act,on", "a.wav,turn,lamp", "b.wav,turn,", "c.wav,,")
    first_item = open_corpus(CsvData(path=path, columns={"label": ("act", "on")}))
    assert [u.label for u in first_item.utterances] == ["turn_lamp", "turn", None]
    two = open_corpus(CsvData(path=path, columns={"text": ("act", "on")}, joint=" "))
    assert [u.text for u in two.utterances] == ["turn lamp", "turn", None]


def test_a_table_that_python_wrote_comes_back_with_commas_quotes_and_line_breaks(tmp_path: Path, write: Write) -> None:
    texts = ['he said "go", twice', "two\nlines", "plain"]
    for index in range(3):
        write(f"wav/{index}.wav")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["audio", "text"], *([f"{i}.wav", text] for i, text in enumerate(texts))])
    corpus = open_corpus(CsvData(path=str(tmp_path / "t.csv"), root=str(tmp_path / "wav")))
    assert [u.text for u in corpus.utterances] == texts


def test_quotes_are_plain_characters_where_the_table_was_written_without_quoting(tmp_path: Path, write: Write) -> None:
    write("a.wav")
    path = table(tmp_path, "audio\ttext", 'a.wav\t"twelve inches')
    with pytest.raises(DataError, match=r"after line 1: .*Set `quoted: false` if quotes are part"):
        open_corpus(CsvData(path=path, delimiter="\t"))
    assert open_corpus(CsvData(path=path, delimiter="\t", quoted=False)).utterances[0].text == '"twelve inches'


# Two rows with one quote each, and a row between them.
LONE = ["c0.wav{0}hello{0}2", 'c1.wav{0}"then he came{0}2', "c2.wav{0}over the hill{0}3", 'c3.wav{0}and left"{0}2']


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("between", [True, False])
def test_lone_quotes_that_make_one_row_of_several_are_refused(
    tmp_path: Path, write: Write, delimiter: str, between: bool
) -> None:
    rows = [row.format(delimiter) for row in LONE]
    if not between:
        del rows[2]
    for index in range(4):
        write(f"c{index}.wav")
    path = table(tmp_path, f"audio{delimiter}text{delimiter}votes", *rows)
    with pytest.raises(DataError, match=rf"lines 3 to {len(rows) + 1}: quotes merge .* Set `quoted: false`"):
        open_corpus(CsvData(path=path, delimiter=delimiter))
    corpus = open_corpus(CsvData(path=path, delimiter=delimiter, quoted=False))
    assert [u.text for u in corpus.utterances[:2]] == ["hello", '"then he came']


def test_lone_quotes_are_found_where_names_have_no_ending_or_come_last(tmp_path: Path, write: Write) -> None:
    for name in ("c0.wav", "c1.wav"):
        write(name)
        (tmp_path / name).rename(tmp_path / Path(name).stem)
    reported = "quotes merge 2 lines"
    tabs = table(tmp_path, "audio\ttext", 'x/c0\t"one', 'x/c1\ttwo"')
    with pytest.raises(DataError, match=reported):
        open_corpus(CsvData(path=tabs, delimiter="\t"))
    commas = table(tmp_path, "text,audio", '"one,c0', 'two",c1')
    with pytest.raises(DataError, match=reported):
        open_corpus(CsvData(path=commas))
    with pytest.raises(DataError, match=reported):  # with another number of values, too
        open_corpus(CsvData(path=table(tmp_path, "audio,text,votes", 'c0,"one,2', 'c1,two",2,3,4')))


def test_quoted_values_of_several_lines_are_no_lone_quotes(tmp_path: Path, write: Write) -> None:
    texts = ["hello\nyes, ok\nbye, now", 'she said "go,\nnow", twice', "a\tb\nc", "one\r\ntwo, three\r\n", "\n,\n"]
    for index in range(len(texts)):
        write(f"{index}.wav")
    for delimiter in (",", "\t", ";"):
        with (tmp_path / "t.csv").open("w", newline="") as file:
            rows = [["audio", "text"], *([f"{i}.wav", text] for i, text in enumerate(texts))]
            csv.writer(file, delimiter=delimiter).writerows(rows)
        corpus = open_corpus(CsvData(path=str(tmp_path / "t.csv"), delimiter=delimiter))
        assert [u.text for u in corpus.utterances] == texts


def test_rows_are_picked_by_split_and_by_any_column(tmp_path: Path, write: Write) -> None:
    for name in "abc":
        write(f"{name}.wav")
    path = table(tmp_path, "audio,part,lang", "a.wav,train,en", "b.wav,train,de", "c.wav,dev,en")

    def ids(**options: object) -> str:
        corpus = open_corpus(CsvData(path=path, columns={"split": "part"}, **options))  # type: ignore[arg-type]
        return "".join(utterance.id[0] for utterance in corpus.utterances)

    assert ids() == "abc"
    assert ids(split="train") == "ab"
    assert ids(split="train", where={"lang": ("en", "fr")}) == "a"
    with pytest.raises(DataError, match=r"`split` must be dve; it is dev, train\. Did you mean 'dev'\?"):
        ids(split="dve")
    with pytest.raises(DataError, match=r"has no column 'lung'; it has audio, lang, part\. Did you mean 'lang'\?"):
        ids(where={"lung": ("en",)})
    with pytest.raises(DataError, match=r"has no column `split`, so .* `columns: \{split: …\}`"):
        open_corpus(CsvData(path=path, split="dev"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty; expected the names of the columns"),
        (["audio,text"], "is empty: expected at least one audio file"),
        (["path,text", "a.wav,x"], r"has no column `audio`; name .* `columns: \{audio: path\}`; its columns are path"),
        (["audio,text,text", "a.wav,x,y"], "has two columns 'text'"),
        (["audio,text", "a.wav,x,y"], "line 2 has 3 values, but the header has 2; is the delimiter ','"),
        (["audio,text", 'a.wav,"x",y"'], "line 2 has 3 values, .*Or set `quoted: false`, since the line has quotes"),
        (["audio,offset", "a.wav,soon"], r"`offset`: expected a number >= 0 and < 1e\+15, got 'soon'"),
        (["audio,duration", "a.wav,nan"], r"`duration`: expected a number >= 0 and < 1e\+15, got nan"),
        (["audio,text", ",x"], "line 2 needs the audio file's path in `audio`"),
        (["audio,id", "a.wav,x", "b.wav,x"], "uses 1 ids more than once, the first 'x'"),
    ],
)
def test_malformed_tables_are_one_sentence(tmp_path: Path, write: Write, rows: list[str], message: str) -> None:
    write("a.wav")
    with pytest.raises(DataError, match=message):
        open_corpus(CsvData(path=table(tmp_path, *rows)))


def test_a_column_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, write: Write) -> None:
    write("a.wav")
    path = table(tmp_path, "path,sentence", "a.wav,x")
    with pytest.raises(DataError, match=r"no column 'sentance'; it has path, sentence\. Did you mean 'sentence'\?"):
        open_corpus(CsvData(path=path, columns={"audio": "path", "text": "sentance"}))
    with pytest.raises(DataError, match=r"root folder .*wavs of .* does not exist; set `root`"):
        open_corpus(CsvData(path=path, columns={"audio": "path"}, root=str(tmp_path / "wavs")))
    write("b.flac")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        open_corpus(CsvData(path=str(tmp_path / "b.flac")))


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"columns: expected fields among audio, .* got 'txt'.*Did you mean 'text'\?"):
        CsvData(path="x", columns={"txt": "sentence"})
    with pytest.raises(ConfigError, match=r"columns\.text: expected at least one column, got \(\)"):
        CsvData(path="x", columns={"text": ()})
    with pytest.raises(ConfigError, match=r"delimiter: expected one character, .* got ', '"):
        CsvData(path="x", delimiter=", ")


def test_a_recipe_gives_one_column_or_a_list(tmp_path: Path) -> None:
    tree = {"path": "x.csv", "columns": {"audio": "path", "label": ["action", "object"]}}
    assert load(tree, CsvData).columns == {"audio": "path", "label": ("action", "object")}


def test_texts_that_are_missing_or_empty_are_counted(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":
        write(f"{name}.wav")
    path = table(tmp_path, "audio,text,label", "a.wav,x,", "b.wav,,", "c.wav, ,")
    with caplog.at_level(logging.WARNING):
        corpus = open_corpus(CsvData(path=path))
    assert "2 of 3 utterances have no text (first b.wav)" in caplog.text
    assert "no label" not in caplog.text  # nobody has one: it is not that kind of corpus
    assert corpus.utterances[1].text is None


@pytest.mark.parametrize("lone_quote", [True, False])
def test_a_value_that_is_too_long_is_told_from_a_quote_that_is_not_closed(tmp_path: Path, lone_quote: bool) -> None:
    rows = ["audio,text", 'a.wav,"' + "word\n" * 40_000 if lone_quote else "a.wav," + "word " * 40_000]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    message = "Set `quoted: false`" if lone_quote else r"at most 131072 characters, .*; is the delimiter ','\?$"
    with pytest.raises(DataError, match=message):
        open_corpus(CsvData(path=str(tmp_path / "t.csv")))
