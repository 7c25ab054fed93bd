"""STAR files, the tables of RELION: a strict reader that keeps every text as it stands, and an atomic writer."""

import re

import numpy as np

from taigs.errors import InputError, NumericalError, raise_problems
from taigs.io.files import existing_file, reading
from taigs.io.mrc import atomic_file

CHUNK_BYTES = 2**24
LONGEST_VALUE = 4096  # bytes; a column is as wide as its longest value: one runaway value could fill the memory
ALIGNED_WIDTH = 16  # columns up to this width (numbers) are written one below the other

_CONTROL = bytes({*range(32)} - {*b"\t\n\r"})
# A block or a loop starts on a line of its own, so a row may start with "data_", as some paths do.
_MARK = re.compile(rb"\n[ \t]*(?:(?P<loop>loop_)|data_(?P<name>\S*))[ \t]*(?=\n)")
_LABEL_LINE = re.compile(rb"[ \t]*(?:(?P<label>_\S*)(?:[ \t]+#.*|[ \t]*)|#.*)?\n")
# A comment, the two quotes (which end only before a blank), a bare value, and a quote that does not end.
_TOKEN = re.compile(rb"""^[ \t]*\#.*|'(.*?)'(?=\s)|"(.*?)"(?=\s)|([^\s'"]\S*)|(['"])""", re.MULTILINE)


class Table:
    """One block of a STAR file: a loop (many rows) or a list of labels and values (one row).

    Parameters
    ----------
    name : str
        Without "data_"; may be empty.
    columns : dict
        Label without the leading underscore: (n,) texts (bytes or str), integers or floats. All are kept
        as text: floats with 6 decimals, or 9 significant digits where those would lose precision.
    is_loop : bool
    path : Path, optional
        The file, for messages.
    lines : (n,) int array, optional
        The line of the file that each row stands on, for messages.

    Attributes
    ----------
    columns : dict
        Label: (n,) array of bytes, the texts as in the file without their quotes, in the file's order.
    """

    def __init__(self, name, columns, is_loop=True, path=None, lines=None):
        self.name, self.is_loop, self.path, self.lines = name, is_loop, path, lines
        self._label_lines = {}  # where the labels do not share the line of the row
        self.columns = {label: _as_text(values, label) for label, values in columns.items()}
        sizes = {len(column) for column in self.columns.values()}
        if len(sizes) != 1 or not (is_loop or sizes == {1}):
            wanted = "columns of one length" if is_loop else "one value for each label"
            raise InputError(f"block {name}: columns of {sorted(sizes)} values; expected {wanted}")

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __contains__(self, label):
        return label in self.columns

    def require(self, *labels):
        """Raise InputError, which names all that are missing, unless there are columns of these labels."""
        missing = [label for label in labels if label not in self.columns]
        if missing:
            where = f"{self.path}: " if self.path else ""
            raise InputError(f"{where}no {', '.join(missing)} in block {self.name}; found: {', '.join(self.columns)}")

    def where(self, row):
        """Place of a row, "file:line", for messages."""
        if self.path is None or self.lines is None:
            return f"block {self.name}, row {row + 1}"
        return f"{self.path}:{self.lines[row]}"

    def strings(self, label):
        """Column as (n,) array of str. InputError if it is missing."""
        self.require(label)
        try:
            return self.columns[label].astype(str)
        except UnicodeDecodeError:  # NumPy takes only ASCII there, but fast
            return np.char.decode(self.columns[label], "utf-8")

    def floats(self, label):
        """Column as (n,) float64 array. InputError if it is missing or, with the line, not all finite numbers."""
        self.require(label)
        column = self.columns[label]
        try:
            if b"_" in column.tobytes():  # 1_000 would be a number
                raise ValueError
            values = column.astype(np.float64)
        except ValueError:
            values = np.array([_float_or_nan(text) for text in column.tolist()])
        self._refuse(label, ~np.isfinite(values), "a number; expected a finite one such as -59.9")
        return values

    def ints(self, label):
        """Column as (n,) int64 array; "2.000000" is 2. InputError as `floats`, also if not all whole numbers."""
        values = self.floats(label)
        is_whole = (values == np.rint(values)) & (np.abs(values) < 2**53)
        self._refuse(label, ~is_whole, "a whole number; expected one such as 7")
        return values.astype(np.int64)

    def _refuse(self, label, bad, expected):
        problems = []
        for row in np.flatnonzero(bad).tolist():
            text = self.columns[label][row].decode()[:40]
            where = f"{self.path}:{self._label_lines[label]}" if self._label_lines else self.where(row)
            problems.append(f'{where}: {label} "{text}" is not {expected}')
        raise_problems(self.path or f"block {self.name}", problems)

    def subset(self, indices):
        """Table of some rows: indices in any order, or one bool per row."""
        lines = None if self.lines is None else self.lines[indices]
        columns = {label: column[indices] for label, column in self.columns.items()}
        return Table(self.name, columns, self.is_loop, self.path, lines)


def _as_text(values, label):
    values = np.asarray(values)
    if values.ndim != 1:
        raise InputError(f"column {label}: shape {values.shape}; expected one value per row")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise NumericalError(f"column {label}: row {row + 1} is {values[row]}; expected finite numbers")
        texts = [b"%.6f" % v if v == 0 or 0.1 <= abs(v) < 1e9 else b"%#.9g" % v for v in values.tolist()]
        values = np.array(texts, "S")
    elif values.dtype.kind in "biu":
        values = np.array([b"%d" % v for v in values.tolist()], "S")
    elif values.dtype.kind != "S":
        values = np.char.encode(values.astype(str), "utf-8")
    if values.itemsize > LONGEST_VALUE:
        raise InputError(f"column {label}: a value of {values.itemsize} bytes; expected at most {LONGEST_VALUE}")
    return np.ascontiguousarray(values)


def _float_or_nan(text):
    try:
        return float(text) if b"_" not in text else np.nan
    except ValueError:
        return np.nan


# --- reading -------------------------------------------------------------------------------------


def read_star(path):
    """Read all blocks of a STAR file: dict of `Table` by name, in the file's order.

    Raises
    ------
    InputError
        With file and line, if the file is missing, is no UTF-8 text, has no block, or a line does not fit.
    ResourceError
        If it may not be read.
    """
    text = _Text(existing_file(path))
    marks = list(_MARK.finditer(text.content))
    if not marks:
        raise InputError(f"{path}: no data_ block; is this a STAR file?")
    ends = [mark.start() + 1 for mark in marks] + [len(text.content) - LONGEST_VALUE]
    text.rows(1, ends[0], 0, " before the first data_ line; expected only comments there")
    tables, name = {}, None
    for i, mark in enumerate(marks):
        start, end, line = mark.end() + 1, ends[i + 1], text.line(mark.end())
        if mark["loop"]:
            if name is None or name in tables:
                raise text.error(line, "a table without a data_ line of its own; expected one above it")
            tables[name] = _read_loop(text, name, start, end)
            continue
        name = mark["name"].decode()
        if name in tables:
            raise text.error(line, f"a second block data_{name}; expected different names")
        table = _read_pairs(text, name, start, end)
        if table is not None:
            tables[name] = table
        elif i + 1 == len(marks) or not marks[i + 1]["loop"]:
            raise text.error(line, f"nothing in block data_{name}; is the file cut short?")
    return tables


def _read_loop(text, name, start, end):
    labels, lines, row = [], [], start
    while match := _LABEL_LINE.match(text.content, row, end):
        if match["label"]:
            labels.append(match["label"])
            lines.append(text.line(match.end() - 1))
        row = match.end()
    if not labels:
        raise text.error(text.line(start - 1), "no labels after loop_; expected lines such as _rlnImageName #1")
    columns, row_lines = text.rows(row, end, len(labels), f", the loop has {len(labels)} columns")
    return Table(name, text.labelled(labels, lines, columns), True, text.path, row_lines)


def _read_pairs(text, name, start, end):
    wanted = "; expected a label and its value, in quotes if that is empty or holds blanks"
    (labels, values), lines = text.rows(start, end, 2, wanted)
    if not len(labels):
        return None
    columns = text.labelled(labels.tolist(), lines, values[:, None])
    table = Table(name, columns, False, text.path, lines[:1])
    table._label_lines = dict(zip(columns, lines, strict=True))
    return table


class _Text:
    """A file's content between two newlines, and then room to read a longest value from any place in it."""

    def __init__(self, path):
        self.path = path
        with reading(path), open(path, "rb") as file:
            content = file.read(LONGEST_VALUE)
            if b"\0" not in content:  # else it is an image, and could be huge
                file.seek(0)
                content = file.read()
        content = content.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in content:
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self.content = content = b"".join([b"\n", content, b"\n", bytes(LONGEST_VALUE)])
        self.data = np.frombuffer(content, np.uint8)
        self.breaks = np.flatnonzero(self.data == ord("\n"))
        try:
            if not content.isascii():
                content.decode()
        except UnicodeDecodeError as error:
            raise self._no_text(error.start, "UTF-8") from None
        if len(content.translate(None, _CONTROL)) < len(content) - LONGEST_VALUE:
            raise self._no_text(re.search(b"[" + _CONTROL + b"]", content).start(), "text")

    def _no_text(self, at, kind):
        what = f"byte 0x{self.content[at]:02x} is not {kind}; is this a STAR file?"
        return self.error(self.line(at), what)

    def line(self, at):
        return int(np.searchsorted(self.breaks, at))

    def error(self, line, what):
        return InputError(f"{self.path}:{line}: {what}")

    def labelled(self, labels, lines, columns):
        """The columns by their labels, without underscores, which stand on these lines."""
        result = {}
        for label, line, column in zip(map(bytes.decode, labels), lines, columns, strict=True):
            if not re.fullmatch("_.+", label):
                raise self.error(line, f'"{label[:40]}" is no label; expected one such as _rlnImageName')
            if label[1:] in result:
                raise self.error(line, f"a second column {label[1:]}; expected different labels")
            result[label[1:]] = column
        return result

    def rows(self, start, end, n_columns, complaint):
        """Columns and line numbers of the rows in content[start:end]; `complaint` follows a wrong number of values."""
        parts, lines = [[np.empty(0, "S1")] for _ in range(n_columns)], [np.empty(0, np.int64)]
        while start < end:
            stop = self.content.index(b"\n", min(start + CHUNK_BYTES, end) - 1) + 1
            starts, ends = self._values(start, stop)
            first = self.line(start)
            counts = np.diff(np.searchsorted(starts, self.breaks[first : self.line(stop)]), prepend=0)
            bad = np.flatnonzero((counts != n_columns) & (counts != 0))
            problems = [str(self.error(first + row, f"{counts[row]} values{complaint}")) for row in bad.tolist()]
            raise_problems(self.path, problems)
            for j, part in enumerate(parts):
                part.append(self._gather(starts[j::n_columns], ends[j::n_columns]))
            lines.append(first + np.flatnonzero(counts))
            start = stop
        # One by one, or the parts and the columns would stand in memory side by side.
        return [np.concatenate(parts.pop(0)) for _ in range(n_columns)], np.concatenate(lines)

    def _values(self, start, stop):
        """Where the values in content[start:stop], whole lines, start and end."""
        blank = self.data[start - 1 : stop] <= ord(" ")
        starts, ends = (start + np.flatnonzero(blank[1:] != blank[:-1])).reshape(-1, 2).T
        if not np.isin(self.data[starts], list(b"#'\"")).any():
            return starts, ends
        spans = []
        for token in _TOKEN.finditer(self.content, start, stop):
            if token[4]:
                what = f"quote {token[4].decode()} does not end; expected another one before a blank"
                raise self.error(self.line(token.start()), what)
            if token.lastindex:
                spans.append(token.span(token.lastindex))
        return np.array(spans, np.int64).reshape(-1, 2).T

    def _gather(self, starts, ends):
        lengths = ends - starts
        width = max(1, lengths.max(initial=0))
        if width > LONGEST_VALUE:
            line = self.line(starts[np.argmax(lengths)])
            raise self.error(line, f"a value of {width} bytes; expected at most {LONGEST_VALUE}")
        chars = np.lib.stride_tricks.sliding_window_view(self.data, width)[starts]
        chars[np.arange(width) >= lengths[:, None]] = 0
        return chars.view(f"S{width}")[:, 0]


# --- writing -------------------------------------------------------------------------------------


def write_star(path, tables, overwrite=False):
    """Write tables as the blocks of a STAR file, atomically.

    Values are quoted where they would be read as something else: empty, with blanks, keywords.

    Parameters
    ----------
    tables : iterable of Table

    Raises
    ------
    InputError
        If a name, a label or a value cannot stand in a STAR file, or two blocks have one name.
    RefusedError, ResourceError
        As `taigs.io.mrc.atomic_file`.
    """
    names = set()
    with atomic_file(path, overwrite) as file:
        for table in tables:
            if table.name in names:
                raise InputError(f"{path}: a second block {table.name}; expected different names")
            names.add(table.name)
            labels = [_word(path, label) for label in table.columns]
            name = _word(path, table.name) if table.name else b""
            file.write(b"\n# version 30001\n\ndata_%b\n\n" % name)
            if table.is_loop:
                file.write(b"loop_\n" + b"".join(b"_%b #%d\n" % (label, i) for i, label in enumerate(labels, 1)))
                _write_rows(file, [_quoted(path, c, i == 0) for i, c in enumerate(table.columns.values())])
            else:
                width = max(map(len, labels))
                for label, column in zip(labels, table.columns.values(), strict=True):
                    file.write(b"_%b  %b\n" % (label.ljust(width), _quoted(path, column, False)[0]))
            file.write(b"\n")


def _word(path, name):
    word = name.encode()
    if not re.fullmatch(rb"[^\0- ]+", word):
        raise InputError(f"{path}: {name!r} cannot name a block or a column; expected a word without blanks")
    return word


def _characters(column):
    return column.view(np.uint8).reshape(len(column), column.itemsize)


def _quoted(path, column, leads):
    """The column with quotes where they are needed; `leads` if its values stand first on their lines."""
    chars = _characters(column)
    needed = np.isin(chars[:, 0], list(b"\0#'\"")) | ((chars > 0) & (chars <= ord(" "))).any(axis=1)
    needed |= ((chars[:, :-1] == 0) & (chars[:, 1:] > 0)).any(axis=1)  # a NUL within, for `_quote` to refuse
    for keyword in (b"_", b"data_", b"loop_") if leads else ():
        needed |= np.char.startswith(column, keyword)
    quoted = np.array([_quote(path, value) for value in column[needed].tolist()], "S")
    column = column.astype(f"S{max(column.itemsize, quoted.itemsize)}")
    column[needed] = quoted
    return column


def _quote(path, value):
    usable = [quote for quote in (b'"', b"'") if not re.search(quote + rb"\s", value)]
    if not usable or set(value) & {*_CONTROL, *b"\r\n"}:
        raise InputError(
            f"{path}: {value[:40]!r} cannot stand in a STAR file; expected one line, without both kinds of quotes"
        )
    return usable[0] + value + usable[0]


def _write_rows(file, columns):
    step = max(1, CHUNK_BYTES // sum(column.itemsize + 1 for column in columns))
    for start in range(0, len(columns[0]), step):
        chunk = [column[start : start + step] for column in columns]
        cells = [_characters(np.char.rjust(c, c.itemsize) if c.itemsize <= ALIGNED_WIDTH else c) for c in chunk]
        blank, newline = (np.full((len(chunk[0]), 1), ord(c), np.uint8) for c in " \n")
        parts = [part for cell in cells for part in (blank, cell)]
        rows = np.hstack([*parts[1:], newline])
        file.write(rows[rows > 0].tobytes())
