"""taigs.io.star: RELION's tables, good and bad; nothing is changed by reading and writing, nothing bad is taken."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taigs.errors import InputError, NumericalError, RefusedError
from taigs.io import star
from taigs.io.star import Table, read_star, write_star

PARTICLES = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
 1   300.0
 2   200.0


# version 30001

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAnotherProgramsColumn #3
_rlnOpticsGroup #4
000001@a.mrcs   10.5   [1,1,0]   1
000002@a.mrcs  -20     [1,0,1]   2.000000
000001@b.mrcs    3e1   [0,1,1]   1

"""
SHORT = "data_\nloop_\n_a\n_b\n"


def write(folder, text, name="particles.star"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder, text):
    return read_star(write(folder, text))


def content(tables):
    """What reading and writing must keep, for comparison."""
    return [
        (table.name, table.is_loop, [(label, column.tolist()) for label, column in table.columns.items()])
        for table in (tables.values() if isinstance(tables, dict) else tables)
    ]


def refused(folder, text, message):
    with pytest.raises(InputError, match=message) as error:
        read(folder, text)
    assert error.value.exit_code == 3


# --- what is read --------------------------------------------------------------------------------


def test_blocks_columns_and_rows_keep_their_order_and_their_text(tmp_path):
    tables = read(tmp_path, PARTICLES)
    assert list(tables) == ["optics", "particles"]
    particles = tables["particles"]
    assert particles.name == "particles" and particles.is_loop and len(particles) == 3
    assert list(particles.columns) == ["rlnImageName", "rlnAngleRot", "rlnAnotherProgramsColumn", "rlnOpticsGroup"]
    assert particles.columns["rlnOpticsGroup"].tolist() == [b"1", b"2.000000", b"1"]
    assert particles.strings("rlnAnotherProgramsColumn").tolist() == ["[1,1,0]", "[1,0,1]", "[0,1,1]"]
    assert particles.floats("rlnAngleRot").tolist() == [10.5, -20, 30]
    assert particles.ints("rlnOpticsGroup").tolist() == [1, 2, 1]
    assert particles.ints("rlnOpticsGroup").dtype == np.int64
    assert "rlnAngleRot" in particles and "rlnAngleTilt" not in particles


def test_rows_know_their_lines(tmp_path):
    particles = read(tmp_path, PARTICLES)["particles"]
    assert particles.lines.tolist() == [22, 23, 24]
    assert particles.where(1) == f"{tmp_path}/particles.star:23"
    assert particles.subset([2, 0]).where(0) == f"{tmp_path}/particles.star:24"


def test_a_block_without_a_loop_is_one_row(tmp_path):
    text = "data_general\n\n# of this job\n_rlnPixel #1\n_rlnName  'a b'\n\n _rlnVoltage\t300\ndata_x\n_y z"
    text = text.replace("_rlnPixel #1", "_rlnPixel 1.5")
    tables = read(tmp_path, text)
    general = tables["general"]
    assert not general.is_loop and len(general) == 1
    assert content(tables)[0][2] == [("rlnPixel", [b"1.5"]), ("rlnName", [b"a b"]), ("rlnVoltage", [b"300"])]
    assert general.where(0) == f"{tmp_path}/particles.star:4"
    assert tables["x"].strings("y").tolist() == ["z"]
    with pytest.raises(InputError, match=r'particles\.star:5: rlnName "a b" is not a number'):
        general.floats("rlnName")


def test_a_loop_without_rows_has_its_columns(tmp_path):
    tables = read(tmp_path, "data_\nloop_\n_a #1\n_b #2\n\ndata_x\nloop_\n_c")
    assert content(tables) == [("", True, [("a", []), ("b", [])]), ("x", True, [("c", [])])]
    empty = tables[""]
    assert len(empty) == 0 and empty.lines.tolist() == []
    assert len(empty.floats("a")) == len(empty.ints("a")) == len(empty.strings("a")) == 0


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + PARTICLES,
        PARTICLES.replace("\n", "\r\n"),
        "\ufeff" + PARTICLES.replace("\n", "\r\n"),
        PARTICLES.replace("\n", "\r"),
        PARTICLES.replace("  ", "\t"),
        PARTICLES.replace("loop_", "loop_ \t").replace("data_", " data_").replace("_rln", "  _rln"),
        PARTICLES.replace("#1\n", "\n").replace("#2\n", "#1 as RELION's pipeline counts from 0 \n"),
        PARTICLES.replace("\n", "\n\n"),
        PARTICLES.replace("\n", " \n# 'comment\n \t#another\n"),
        PARTICLES.replace("10.5 ", "'10.5'").replace("a.mrcs ", '"x" ').replace('@"x"', "@a.mrcs"),
        PARTICLES.strip(),
    ],
    ids=["BOM", "CRLF", "BOM CRLF", "CR", "tabs", "blanks", "numbers", "empty lines", "comments", "quotes", "no end"],
)
def test_the_same_table_is_read_whatever_its_layout(tmp_path, text):
    assert content(read(tmp_path, text)) == content(read(tmp_path, PARTICLES))


@pytest.mark.parametrize(
    "text, value",
    [
        ("o'brien.mrcs", "o'brien.mrcs"),
        ("run#2/a.mrcs", "run#2/a.mrcs"),
        ("#2", "#2"),
        ('a"b"', 'a"b"'),
        ("'a b'", "a b"),
        ('" a  b\t"', " a  b\t"),
        ("''", ""),
        ('""', ""),
        ("'it's'", "it's"),
        ("'it's # \"quoted\" 'x'", "it's # \"quoted\" 'x"),
        ('"#1"', "#1"),
        ("'data_'", "data_"),
        ("[1,1,0]", "[1,1,0]"),
        ("_rlnX", "_rlnX"),
        ("loop_", "loop_"),
        ("Zürich/粒子.mrcs", "Zürich/粒子.mrcs"),
    ],
)
def test_quotes_and_signs_in_values_are_read_verbatim(tmp_path, text, value):
    tables = read(tmp_path, f"{SHORT}1 {text}\n2 {text}\n")
    assert tables[""].strings("b").tolist() == [value, value]
    assert read(tmp_path, f"data_\n_a {text}\n")[""].strings("a").tolist() == [value]


def test_a_row_may_begin_as_a_keyword_does(tmp_path):
    text = f"{SHORT}data_1/a.mrcs 1\n_b.mrcs 2\nloop_ 3\n'# no comment' 4\n"
    tables = read(tmp_path, text)
    assert tables[""].strings("a").tolist() == ["data_1/a.mrcs", "_b.mrcs", "loop_", "# no comment"]
    write_star(tmp_path / "again.star", tables.values())
    assert content(read_star(tmp_path / "again.star")) == content(tables)


def test_a_repaired_file_is_read_anew(tmp_path):
    refused(tmp_path, SHORT + "1 2\n3\n", ":6: 1 values")
    assert len(read(tmp_path, SHORT + "1 2\n3 4\n")[""]) == 2


def test_chunks_make_no_difference(tmp_path, monkeypatch):
    rows = [f"{i}@a.mrcs {'wide' * (i % 7)}x {'“' * (i % 3)}y\n" + "\n" * (i % 2) for i in range(50)]
    text = "data_\nloop_\n_a\n_b\n_c\n" + "".join(rows)
    whole = read(tmp_path, text)[""]
    for size in (1, 40, 111):
        monkeypatch.setattr(star, "CHUNK_BYTES", size)
        chunked = read(tmp_path, text)[""]
        assert content([chunked]) == content([whole])
        assert np.array_equal(chunked.lines, whole.lines)
        write_star(tmp_path / "chunked.star", [whole], overwrite=True)
        assert content(read_star(tmp_path / "chunked.star")) == content([whole])
        refused(tmp_path, text.replace("40@a.mrcs ", ""), ":66: 2 values, the loop has 3 columns")


def test_a_quote_elsewhere_does_not_change_a_row(tmp_path):
    plain = read(tmp_path, PARTICLES)["particles"]
    quoted = read(tmp_path, PARTICLES.rstrip() + "\n'4 4' 0 0 0\n")["particles"]
    assert content([quoted.subset([0, 1, 2])]) == content([plain])
    assert np.array_equal(quoted.lines[:3], plain.lines)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        (SHORT + "1 2\n1\n", r"particles\.star:6: 1 values, the loop has 2 columns"),
        (SHORT + "1 2\n\n1 2 3\n1\n", r":7: 3 values, the loop has 2 columns"),
        (SHORT + "1 2\n3 '4\n", r":6: quote ' does not end"),
        (SHORT + '1 "2"3\n', r':5: quote " does not end'),
        (SHORT + "1 2 # comment\n", r":5: 4 values"),
        (SHORT + "_c #3\n1 2 3\nloop_\n_d\n", r":7: a table without a data_ line"),
        ("data_\nloop_\n_a\n_b\n_a\n", r":5: a second column a"),
        ("data_\n_a 1\n_b 2\n_a 1\n", r":4: a second column a"),
        ("data_x\n_a 1\n\ndata_x\n_a 1\n", r":4: a second block data_x"),
        ("data_x\n_a 1\nloop_\n_b\n1\n", r":3: a table without a data_ line"),
        ("data_x\n\n_a\n", r":3: 1 values; expected a label and its value"),
        ("data_x\n_a 1 2\n", r":2: 3 values; expected a label and its value, in quotes if"),
        ("data_x\na 1\n", r':2: "a" is no label'),
        ("data_x\n_ 1\n", r':2: "_" is no label'),
        (SHORT + "_\n1 2 3\n", r':5: "_" is no label'),
        ("data_x\nloop_\n\n1 2\n", r":2: no labels after loop_"),
        ("data_x\nloop_\n_a 1.5\n", r":2: no labels after loop_"),
        ("data_x\nloop_\n", r":2: no labels after loop_"),
        ("data_x\n", r":1: nothing in block data_x"),
        ("data_x\ndata_y\n_a 1\n", r":1: nothing in block data_x"),
        ("loop_\n_a\n1\n", r":1: a table without a data_ line"),
        ("# x\nx\ndata_\n_a 1\n", r":2: 1 values before the first data_ line"),
        (SHORT + "1 " + "x" * 5000, r":5: a value of 5000 bytes"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(tmp_path, text, message):
    refused(tmp_path, text, message)


@pytest.mark.parametrize("text", ["", "\n", "# only\n\n", "data\n", "1.0\n2.0\n", "#data_\n"])
def test_a_file_without_a_block_is_refused(tmp_path, text):
    refused(tmp_path, text, r"particles\.star: no data_ block; is this a STAR file\?")


@pytest.mark.parametrize(
    "text, message",
    [
        (SHORT.encode() + b"1 Z\xfcrich\n", r":5: byte 0xfc is not UTF-8"),
        ("data_\n_a b\n# é".encode("latin-1"), r":3: byte 0xe9 is not UTF-8"),
        (PARTICLES.encode("utf-16"), r":1: byte 0xff is not UTF-8"),
        (PARTICLES.encode("utf-16-le"), r":2: byte 0x00 is not text"),
        (SHORT.encode() + b"1 2\0\n", r":5: byte 0x00 is not text"),
        (SHORT.encode() + b"1 2\n" * 5000 + b"\x1b 2\n", r":5005: byte 0x1b is not text"),
        (b"\x1f\x8b\x08" + bytes(range(200)), r":1: byte 0x8b is not UTF-8"),
        (bytes(5000) + PARTICLES.encode(), r":1: byte 0x00 is not text; is this a STAR file\?"),
    ],
)
def test_what_is_no_utf8_text_is_refused(tmp_path, text, message):
    refused(tmp_path, text, message)


def test_a_huge_image_is_refused_after_its_first_bytes(tmp_path):
    with open(tmp_path / "map.mrc", "wb") as file:
        file.truncate(2**36)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"map\.mrc:1: byte 0x00 is not text"):
            read_star(tmp_path / "map.mrc")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_file_cut_anywhere_never_loses_more_than_it_shows(tmp_path):
    whole = content(read(tmp_path, PARTICLES))
    for length in range(len(PARTICLES)):
        try:
            tables = read(tmp_path, PARTICLES[:length])
        except InputError:
            continue
        for (name, _, columns), (whole_name, _, whole_columns) in zip(content(tables), whole, strict=False):
            assert name == whole_name or PARTICLES[:length].endswith(name)
            for (_, values), (_, whole_values) in zip(columns, whole_columns, strict=False):
                assert values[:-1] == whole_values[: max(0, len(values) - 1)]
                assert not values or whole_values[len(values) - 1].startswith(values[-1])


def test_the_last_row_needs_no_newline_but_all_its_values(tmp_path):
    assert len(read(tmp_path, SHORT + "1 2\n3 4")[""]) == 2
    refused(tmp_path, SHORT + "1 2\n3", ":6: 1 values, the loop has 2 columns")


def test_a_missing_file_is_reported_with_the_nearest_name(tmp_path):
    write(tmp_path, PARTICLES)
    with pytest.raises(InputError, match=r"particle\.star: no such file; did you mean .*particles\.star\?"):
        read_star(tmp_path / "particle.star")


@pytest.mark.parametrize(
    "word", ["ten", "10,5", "''", "nan", "inf", "-Infinity", "1e999", "1_0", "0x10", "\uff11", "--1"]
)
def test_what_is_not_a_finite_number_is_named_with_its_line(tmp_path, word):
    table = read(tmp_path, f"{SHORT}1 1\n\n{word} 2\nx 3\n")[""]
    shown = word.strip("'")
    for number in (table.floats, table.ints):
        with pytest.raises(InputError, match=rf'particles\.star:7: a "{shown}" is not a number; expected'):
            number("a")
    with pytest.raises(InputError, match=rf'particles\.star:7: a "{shown}"'):
        table.subset([0, 2, 1]).subset([True, False, True]).floats("a")
    assert table.ints("b").tolist() == [1, 2, 3]


@pytest.mark.parametrize("word", ["1.5", "-0.1", "1e300", "9007199254740993"])
def test_what_is_not_a_whole_number_is_named_with_its_line(tmp_path, word):
    with pytest.raises(InputError, match=rf':6: a "{word}" is not a whole number'):
        read(tmp_path, f"{SHORT}-1 1\n{word} 2\n")[""].ints("a")


def test_all_missing_columns_are_named(tmp_path):
    optics = read(tmp_path, PARTICLES)["optics"]
    optics.require("rlnVoltage", "rlnOpticsGroup")
    message = r"particles\.star: no rlnDefocusU, rlnDefocusV in block optics; found: rlnOpticsGroup, rlnVoltage"
    with pytest.raises(InputError, match=message):
        optics.require("rlnDefocusU", "rlnVoltage", "rlnDefocusV")
    for column in (optics.floats, optics.ints, optics.strings):
        with pytest.raises(InputError, match="no rlnCs in block optics"):
            column("rlnCs")


# --- tables made in memory, and writing ----------------------------------------------------------


def test_numbers_become_text_without_loss_that_matters():
    numbers = [0, 1, -123.4567894, 0.25, 1e-7, -0.0123456789, 20000.5, 2.5e12]
    table = Table("x", {"f": numbers, "f4": np.float32(numbers), "i": range(8), "b": np.arange(8) > 5, "s": ["é"] * 8})
    assert table.columns["f"].tolist()[:4] == [b"0.000000", b"1.000000", b"-123.456789", b"0.250000"]
    np.testing.assert_allclose(table.floats("f"), numbers, rtol=5e-6, atol=0)
    np.testing.assert_allclose(table.floats("f4"), numbers, rtol=5e-6, atol=0)
    assert table.ints("i").tolist() == list(range(8))
    assert table.ints("b").tolist() == [0] * 6 + [1] * 2
    assert table.columns["s"].tolist() == ["é".encode()] * 8
    assert table.lines is None and table.where(2) == "block x, row 3"
    with pytest.raises(InputError, match=r'block x, row 3: f "-123.456789" is not a whole number'):
        table.ints("f")


def test_a_table_that_cannot_be_one_is_refused():
    for columns, is_loop, message in [
        ({"a": [1, 2], "b": [1]}, True, "columns of one length"),
        ({"a": [1, 2]}, False, "one value for each label"),
        ({}, True, "columns of one length"),
        ({"a": [[1, 2]]}, True, r"column a: shape \(1, 2\)"),
        ({"a": ["x" * 5000]}, True, "a value of 5000 bytes"),
    ]:
        with pytest.raises(InputError, match=message):
            Table("x", columns, is_loop)
    with pytest.raises(NumericalError, match="column a: row 2 is nan"):
        Table("x", {"a": [1.0, np.nan]})


def test_rows_are_chosen_in_any_order(tmp_path):
    particles = read(tmp_path, PARTICLES)["particles"]
    names = particles.strings("rlnImageName")
    for rows in ([2, 0, 0], np.array([True, False, True]), [], slice(1, None)):
        chosen = particles.subset(rows)
        assert chosen.strings("rlnImageName").tolist() == names[rows].tolist()
        assert chosen.lines.tolist() == particles.lines[rows].tolist()
        write_star(tmp_path / "chosen.star", [chosen], overwrite=True)
        assert content(read_star(tmp_path / "chosen.star")) == content([chosen])


def test_a_file_is_written_as_relion_does(tmp_path):
    general = Table("general", {"rlnFinalResolution": [3.2], "rlnMask": ["my mask.mrc"]}, is_loop=False)
    images = Table("images", {"rlnImageName": ["1@a.mrcs", "", "# 3"], "rlnAngleRot": [1.0, -20, 300]})
    write_star(tmp_path / "a.star", iter([general, images]))
    assert (tmp_path / "a.star").read_text() == (
        "\n# version 30001\n\ndata_general\n\n"
        "_rlnFinalResolution  3.200000\n"
        '_rlnMask             "my mask.mrc"\n'
        "\n"
        "\n# version 30001\n\ndata_images\n\nloop_\n_rlnImageName #1\n_rlnAngleRot #2\n"
        '1@a.mrcs   1.000000\n      "" -20.000000\n   "# 3" 300.000000\n'
        "\n"
    )


@pytest.mark.parametrize(
    "table, message",
    [
        (Table("x", {"a": ["1\n2"]}), "cannot stand in a STAR file; expected one line"),
        (Table("x", {"a": ["1\r2"]}), "cannot stand in a STAR file"),
        (Table("x", {"a": ["1\0002"]}), "cannot stand in a STAR file"),
        (Table("x", {"a": ["\x1b[0m"]}), "cannot stand in a STAR file"),
        (Table("x", {"a": ["it' \" x"]}), "without both kinds of quotes"),
        (Table("x y", {"a": ["1"]}), "'x y' cannot name a block or a column"),
        (Table("x", {"a b": ["1"]}), "'a b' cannot name"),
        (Table("x", {"": ["1"]}), "'' cannot name"),
        (Table("y", {"a": ["1"]}), "a second block y"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, table, message):
    good = Table("y", {"a": ["1"]})
    write_star(tmp_path / "a.star", [good])
    with pytest.raises(InputError, match=message):
        write_star(tmp_path / "a.star", [good, table], overwrite=True)
    assert content(read_star(tmp_path / "a.star")) == content([good])
    assert [path.name for path in tmp_path.iterdir()] == ["a.star"]


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    path = write(tmp_path, PARTICLES)
    tables = read_star(path)
    with pytest.raises(RefusedError, match="exists already"):
        write_star(path, tables.values())
    write_star(path, tables.values(), overwrite=True)
    assert content(read_star(path)) == content(tables)


# --- properties ----------------------------------------------------------------------------------

WORDS = st.text(st.characters(min_codepoint=33, exclude_categories=["Cs"]), min_size=1, max_size=12)
SIGNS = st.text("ab1 \t'\"#_é粒", max_size=10)
VALUES = st.one_of(SIGNS, WORDS, st.sampled_from(["data_", "data_x y", "loop_", "_a", ""])).filter(
    lambda value: not any(f'"{a}' in value and f"'{b}" in value for a in " \t" for b in " \t")
)


@st.composite
def tables_of_text(draw):
    tables = []
    for name in draw(st.lists(st.one_of(WORDS, st.just("")), min_size=1, max_size=3, unique=True)):
        is_loop = draw(st.booleans())
        rows = draw(st.integers(0, 5)) if is_loop else 1
        labels = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
        columns = {label: draw(st.lists(VALUES, min_size=rows, max_size=rows)) for label in labels}
        tables.append(Table(name, columns, is_loop))
    return tables


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables=tables_of_text())
def test_tables_written_are_read_again_unchanged(tmp_path, tables):
    write_star(tmp_path / "a.star", tables, overwrite=True)
    again = read_star(tmp_path / "a.star")
    assert content(again) == content(tables)
    lines = (tmp_path / "a.star").read_text().split("\n")
    for table in again.values():
        for row in range(len(table)):
            value = table.strings(next(iter(table.columns)))[row]
            assert value in lines[table.lines[row] - 1]


BYTES = st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b" ", b"'", b'"', b"#", b"_", b"data_\n", b"loop_\n"]))
MUTATIONS = st.lists(st.tuples(st.integers(0, len(PARTICLES)), st.integers(0, 40), BYTES), min_size=1, max_size=3)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS, is_quoted=st.booleans())
def test_a_damaged_file_gives_tables_or_an_input_error(tmp_path, mutations, is_quoted):
    text = PARTICLES.replace("10.5 ", "'10.5'").encode() if is_quoted else PARTICLES.encode()
    for at, length, new in mutations:
        text = text[:at] + new + text[at + length :]
    start = time.process_time()
    try:
        tables = read(tmp_path, text)
    except InputError as error:
        assert str(error).startswith(f"{tmp_path}/particles.star:")
        return
    finally:
        assert time.process_time() - start < 1
    for table in tables.values():
        assert all(len(column) == len(table) for column in table.columns.values())
    write_star(tmp_path / "again.star", tables.values(), overwrite=True)
    assert content(read_star(tmp_path / "again.star")) == content(tables)


@pytest.mark.parametrize("sign", [" ", "'", "' ", '"', "_", "#", "data_", "loop_", "\n"])
def test_a_long_run_of_one_sign_takes_no_time(tmp_path, sign):
    start = time.process_time()
    for text in ("data_\nloop_\n_a{}x\n{}1\n", "data_\n{}_a {}1\n", "{}data_{}x\n_a b\n"):
        try:
            read(tmp_path, text.format(sign * 100_000, sign * 100_000))
        except InputError:
            pass
    assert time.process_time() - start < 1


def test_100000_particles_are_read_and_written_fast_and_in_little_memory(tmp_path, rng):
    n = 100_000
    columns = {f"rlnNumber{i}": rng.normal(scale=10.0**i, size=n) for i in range(5)}
    columns |= {"rlnImageName": [f"{i % 300 + 1:06d}@Extract/job033/stack_{i // 300:05d}.mrcs" for i in range(n)]}
    particles = Table("particles", columns)
    start = time.process_time()
    write_star(tmp_path / "a.star", [particles])
    again = read_star(tmp_path / "a.star")
    numbers = again["particles"].floats("rlnNumber3")
    assert time.process_time() - start < 4  # 0.3 s measured
    np.testing.assert_allclose(numbers, columns["rlnNumber3"], rtol=5e-6)
    assert content(again) == content([particles])
    tracemalloc.start()
    try:
        read_star(tmp_path / "a.star")
        assert tracemalloc.get_traced_memory()[1] < 2**27 + 4 * (tmp_path / "a.star").stat().st_size
    finally:
        tracemalloc.stop()


# --- files of other programs ---------------------------------------------------------------------

MALFORMED = {"aspire_ragged.star": r"aspire_ragged\.star:20: 5 values, the loop has 4 columns"}


@pytest.mark.shared
def test_files_of_other_programs_are_read_and_kept(shared, tmp_path):
    paths = sorted((shared / "data").rglob("*.star"))
    assert len(paths) > 40
    for path in paths:
        if path.name in MALFORMED:
            with pytest.raises(InputError, match=MALFORMED[path.name]):
                read_star(path)
            continue
        tables = read_star(path)
        write_star(tmp_path / "again.star", tables.values(), overwrite=True)
        assert content(read_star(tmp_path / "again.star")) == content(tables), path


@pytest.mark.shared
def test_an_mrc_file_is_refused(shared):
    with pytest.raises(InputError, match=r"header_only\.mrc:1: byte 0x\w\w is not .*; is this a STAR file\?"):
        read_star(shared / "data/metadata/star_odd/header_only.mrc")


@pytest.mark.shared
def test_values_of_other_programs_are_as_in_their_files(shared):
    folder = shared / "data/metadata"
    job = read_star(folder / "relion5_AlignTiltSeries/job.star")
    assert not job["job"].is_loop and job["job"].strings("rlnJobTypeLabel")[0] == "relion.aligntiltseries"
    options = job["joboptions_values"]
    values = dict(zip(*(options.strings(label).tolist() for label in options.columns), strict=True))
    assert values["gpu_ids"] == "" and values["patch_size"] == "100" and len(values) == 16
    series = read_star(folder / "relion5_AlignTiltSeries/tilt_series/TS_01.star")["TS_01"]
    assert len(series) == 40 and series.floats("rlnTomoNominalStageTiltAngle")[0] == -56.9985
    for quotes in ("single", "double"):
        quoted = read_star(folder / f"star_odd/loop_{quotes}_quote.star")[""]
        assert [column[0] for column in quoted.columns.values()][:4] == [b"noquote", b"quote string", b" ", b""]
    assert len(read_star(folder / "star_odd/empty_loop.star")[""]) == 0
    tables = read_star(shared / "data/subtomo_70s/tomograms.star")
    assert list(tables) == ["global", "Unt_083.tomostar", "Unt_050.tomostar"]
    assert tables["Unt_083.tomostar"].strings("rlnTomoProjW")[0] == "[0,0,0,1]"
    v1, v2 = (read_star(shared / f"data/cryodrgn_examples/{name}.star") for name in ("relion31", "relion31.v2"))
    assert list(v1) == list(v2)[::-1] == ["optics", "particles"]
    assert content([v1["optics"]]) == content([v2["optics"]])
