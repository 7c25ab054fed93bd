"""FAULTS.md names tests that exist, all of them, for cases 1 to 52."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_the_table_of_faults_is_complete_and_its_tests_exist():
    rows = re.findall(r"^\| (\d+) \|(.*)$", (TESTS / "FAULTS.md").read_text(), re.MULTILINE)
    assert [int(case) for case, _ in rows] == list(range(1, 53))
    named = {name for _, row in rows for name in re.findall(r"`(test_\w+)`", row)}
    trees = {path: ast.parse(path.read_text()) for path in TESTS.glob("test_*.py")}
    tests = {n.name: path for path, tree in trees.items() for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    assert not named - tests.keys()
    numbered = {name for name in tests if re.match(r"test_\d\d_", name)}
    assert not numbered - named
    for case, row in rows:
        mine = {name for name in numbered if name.startswith(f"test_{int(case):02d}_")}
        assert mine <= set(re.findall(r"`(test_\w+)`", row)), case
