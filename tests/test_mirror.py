"""The tests mirror the packages: pipelines/dataset/order.py has tests/pipelines/dataset/test_order.py.

A long unit file may be cut by topic, as test_order_<topic>.py. Tests of more than one module are in tests/scenarios,
those with real servers in tests/integration.
"""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
FOLDERS = {"mpc_model": "model", "pipelines": "pipelines"}
"""Package -> its folder below tests/."""

OTHER_FILES = {
    "tests/model/test_interface.py": "the package itself, as its users import it",
}
"""Test files that mirror no module, each with what it is about."""

WITHOUT_UNIT_FILE = {
    "pipelines/benchmarks/search.py": "pipelines/benchmarks/test_serve.py",
    "pipelines/demo.py": "integration/test_demo.py",
    "pipelines/training/ray_validation.py": "integration/test_train_kill.py",
}
"""Modules that are tested only through others, each with the file below tests/ that does it."""


def unit_files() -> dict[str, str]:
    """Path of the unit file -> path of its module, of every module."""
    files = {}
    for package, folder in FOLDERS.items():
        for module in sorted((ROOT / package).rglob("*.py")):
            if module.name != "__init__.py":
                inner = module.relative_to(ROOT / package)
                file = Path("tests", folder, inner.parent, f"test_{inner.name}")
                files[str(file)] = str(module.relative_to(ROOT))
    return files


def test_every_module_has_a_unit_file() -> None:
    missing = {module for file, module in unit_files().items() if not (ROOT / file).exists()}
    assert sorted(missing ^ WITHOUT_UNIT_FILE.keys()) == []


def test_what_tests_a_module_instead_exists() -> None:
    assert [file for file in WITHOUT_UNIT_FILE.values() if not (TESTS / file).exists()] == []


def test_every_test_file_mirrors_a_module() -> None:
    expected = unit_files()
    stems = tuple(file.removesuffix(".py") + "_" for file in expected)
    found = {str(path.relative_to(ROOT)) for name in FOLDERS.values() for path in (TESTS / name).rglob("test_*.py")}
    others = {file for file in found if file not in expected and not file.startswith(stems)}
    assert sorted(others ^ OTHER_FILES.keys()) == []
